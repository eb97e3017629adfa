package job

import (
	"slices"
	"time"
)

// DefaultPool and DefaultClass are where a job runs that names none.
const (
	DefaultPool  = "main"
	DefaultClass = "s"
)

// Pool is a set of workers that stand in for each other. The default one is
// always there.
type Pool struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"`
	// Classes are the sizes of jobs that the pool takes, smallest first; at
	// least one.
	Classes []Class `json:"classes"`
	// Paused: its jobs are accepted and wait; what runs goes on.
	Paused    bool      `json:"paused,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

// Class is a size of jobs within a pool. Workers say which classes they take.
type Class struct {
	Name string `json:"name"`
	// CPU (cores) and Memory are the most that a job of the class may ask
	// for; 0: no bound of the class's own.
	CPU    float64 `json:"cpu,omitempty"`
	Memory Bytes   `json:"memory,omitempty"`
}

// MaxPools bounds how many pools there are, MaxClasses how many classes in
// one: a pool is a stream, a class a consumer.
const (
	MaxPools   = 64
	MaxClasses = 16
)

// NewPool is the default pool, or another one, as long as nothing is set.
func NewPool(name string) Pool {
	return Pool{Schema: Schema, Name: name, Classes: []Class{{Name: DefaultClass}}}
}

// Class is the class of that name.
func (p Pool) Class(name string) (Class, bool) {
	i := slices.IndexFunc(p.Classes, func(c Class) bool { return c.Name == name })
	if i < 0 {
		return Class{}, false
	}
	return p.Classes[i], true
}

// Takes reports whether a job with these limits is small enough for the class.
func (c Class) Takes(l Limits) bool {
	return (c.CPU == 0 || l.CPU <= c.CPU) && (c.Memory == 0 || l.Memory <= c.Memory)
}
