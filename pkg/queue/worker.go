package queue

import (
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Worker is what a worker says of itself in its WORKERS key. The key expires
// 10 s after the last word.
type Worker struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	// Pool is whose jobs it takes, of Classes; "main" and "s" if empty.
	Pool    string   `json:"pool"`
	Classes []string `json:"classes,omitempty"`
	// Life is set by Register: another one for each life of the process.
	Life  string `json:"life"`
	Slots int    `json:"slots"`
	// CPU (cores) and Memory (bytes) are what the worker can give to one job.
	CPU    float64           `json:"cpu,omitempty"`
	Memory int64             `json:"memory,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// Versions are those of runsc, containerd and sandlot.
	Versions map[string]string `json:"versions,omitempty"`
	// Images are the digests that the worker has at hand.
	Images []string `json:"images,omitempty"`
	// Unfit lists why the worker may not take jobs, one limit that it cannot
	// enforce per line. One with reasons is shown but never counted.
	Unfit []string `json:"unfit,omitempty"`
	// Draining: it takes no more, and leaves when nothing runs any more.
	// Quarantined: it takes nothing until then.
	Draining    bool      `json:"draining,omitempty"`
	Quarantined time.Time `json:"quarantined,omitzero"`
	// Why says why it is in quarantine.
	Why     string    `json:"why,omitempty"`
	Started time.Time `json:"started"`
	// Room (bytes) is for all jobs together; each takes its own limit and
	// Allowance of it.
	Room      int64 `json:"room,omitempty"`
	Allowance int64 `json:"allowance,omitempty"`
	// Spares are its sandboxes that wait for jobs, where it keeps any.
	Spares *job.Spares `json:"spares,omitempty"`
	// Held are the jobs that it has claimed; set by the Registration.
	Held []Held `json:"held,omitempty"`
	// SeenAt is when it last said so; set by the reader.
	SeenAt time.Time `json:"-"`
}

// Fit reports whether the worker takes jobs.
func (w Worker) Fit() bool {
	return len(w.Unfit) == 0 && !w.Draining && w.Quarantined.IsZero()
}

// Taken is how much of Room the jobs take that it holds.
func (w Worker) Taken() (bytes int64) {
	for _, h := range w.Held {
		bytes += h.Memory + w.Allowance
	}
	return bytes
}

// Serves reports whether it is of the pool and takes jobs of the class.
func (w Worker) Serves(pool, class string) bool {
	return w.Pool == pool && slices.Contains(w.Classes, class)
}

// Held is a claim as it is listed in the WORKERS key: all that somebody else
// needs in order to end it when the worker is lost.
type Held struct {
	Job     string `json:"job"`
	Tenant  string `json:"tenant"`
	Attempt int    `json:"attempt"`
	// Ack is where the hint is acknowledged.
	Ack string `json:"ack"`
	// Token is the sequence of the claimed record.
	Token uint64 `json:"token"`
	// Memory is what the job may use.
	Memory int64 `json:"memory,omitempty"`
}

// WorkerChange is one change of the WORKERS keys.
type WorkerChange struct {
	// Worker is as it is now, or as it last was if Gone.
	Worker Worker
	// Gone says that the key has expired or was removed.
	Gone bool
	// Left says that it went by itself, having settled what it held.
	Left bool
	// Listed marks the end of what was there when the watch began; Worker is
	// then empty.
	Listed bool
}

// Control is a word to the holder of a claim.
type Control struct {
	Job     string
	Attempt int
	// Why is ErrCanceling (stop the sandbox, commit job.Canceled) or
	// job.ErrLostClaim (stop it and say nothing).
	Why error
}
