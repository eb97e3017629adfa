package api

import (
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Pool is a set of workers that stand in for each other.
type Pool struct {
	Name    string      `json:"name"`
	Classes []PoolClass `json:"classes"`
	// Paused: its jobs wait; what runs goes on.
	Paused bool `json:"paused"`
	// Revision of the settings; 0 where nothing is set.
	Revision  uint64    `json:"revision,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

// PoolClass is a size of jobs within a pool, with what stands there now.
type PoolClass struct {
	job.Class
	// Workers take jobs of the class; Slots are theirs, of which Busy hold a
	// job, be it of another class.
	Workers int `json:"workers"`
	Slots   int `json:"slots"`
	Busy    int `json:"busy"`
	// Queued counts the jobs that wait for their turn, Ready those whose turn
	// it is, Running those that a worker has.
	Queued  int `json:"queued"`
	Ready   int `json:"ready"`
	Running int `json:"running"`
}

// Pools is the list of pools.
type Pools struct {
	Pools []Pool `json:"pools"`
}

// PoolSettings is what can be set for a pool.
type PoolSettings struct {
	// Classes, smallest first: a job that names none runs in the first that
	// takes it. The class s alone if left out.
	Classes []job.Class `json:"classes,omitempty"`
	Paused  bool        `json:"paused,omitempty"`
	// Revision is that of the settings that were read, to have them changed
	// only if they are still the same; 0: whatever they are.
	Revision uint64 `json:"revision,omitempty"`
}

// DecodePoolSettings reads settings of a pool as strictly as a submit.
func DecodePoolSettings(body []byte) (s PoolSettings, problem *Problem) {
	problem = decode(body, func(o *object) {
		seen := map[string]int{}
		o.objects("classes", func(i int, c *object) {
			class := job.Class{Name: c.text("name")}
			class.Memory, _ = c.size("memory")
			if why := BadPool(class.Name); why != "" {
				o.out.add(c.at("name"), clip(class.Name), "%s", why)
			}
			if first, there := seen[class.Name]; there {
				o.out.add(c.at("name"), clip(class.Name), "is the name of classes[%d] already", first)
			}
			seen[class.Name] = i
			if n, ok := c.number("cpu"); ok {
				class.CPU = n
				if n < MinCPU || n > MaxCPU {
					o.out.add(c.at("cpu"), n, "must be between %g and %g; leave it out for no bound", MinCPU, MaxCPU)
				}
			}
			if c.has("memory") && !o.out.has(c.at("memory")) && (class.Memory < MinMemory || class.Memory > MaxMemory) {
				o.out.add(c.at("memory"), int64(class.Memory), "must be between %s and %s; leave it out for no bound", MinMemory, MaxMemory)
			}
			s.Classes = append(s.Classes, class)
		})
		if len(s.Classes) > job.MaxClasses || o.has("classes") && len(s.Classes) == 0 && !o.out.has("classes") {
			o.out.add("classes", nil, "there are %d; write 1 to %d", len(s.Classes), job.MaxClasses)
		}
		s.Paused = o.flag("paused")
		s.Revision = readRevision(o)
	})
	return s, problem
}

// BadPool says what is wrong with the name of a pool or of a class, "" if
// nothing is.
func BadPool(name string) string {
	if !poolPattern.MatchString(name) {
		return fmt.Sprintf("write a name of small letters, digits and dashes, at most %d", MaxPoolName)
	}
	return ""
}

// Drain asks a worker to finish and leave.
type Drain struct {
	// Deadline is how long what runs may go on; then it is given to others.
	// For ever if left out.
	Deadline *job.Millis `json:"deadline_ms,omitempty"`
}

// DecodeDrain reads it; an empty body asks for nothing special.
func DecodeDrain(body []byte) (d Drain, problem *Problem) {
	if len(body) == 0 {
		return d, nil
	}
	problem = decode(body, func(o *object) {
		if n, ok := o.duration("deadline"); ok {
			d.Deadline = &n
			if n < 0 || n > MaxWall {
				o.out.add("deadline_ms", int64(n), "must be between 0 and %d", MaxWall)
			}
		}
	})
	return d, problem
}
