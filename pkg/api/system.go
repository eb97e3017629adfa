package api

import (
	"fmt"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Worker is one worker as the scheduler sees it.
type Worker struct {
	ID   string `json:"id"`
	Pool string `json:"pool"`
	// Classes are those of its pool whose jobs it takes.
	Classes []string `json:"classes"`
	State   string   `json:"state" enum:"ready,draining,quarantined,unfit"`
	// Unfit says which limits it cannot enforce and why; it takes no jobs.
	Unfit []Unfit `json:"unfit,omitempty"`
	// Why says why it is draining or in quarantine; Quarantined is until when.
	Why         string    `json:"why,omitempty"`
	Quarantined time.Time `json:"quarantined_until,omitzero"`
	Slots       int       `json:"slots"`
	Busy        int       `json:"busy"`
	// Memory is for all jobs together; MemoryTaken is what those that run take
	// of it.
	Memory      job.Bytes `json:"memory,omitempty"`
	MemoryTaken job.Bytes `json:"memory_taken,omitempty"`
	// Spares are its sandboxes that were booted ahead of their jobs, where it
	// keeps any; some seconds old.
	Spares *job.Spares `json:"spares,omitempty"`
	// Largest is the largest job it can take.
	Largest Size     `json:"largest"`
	Jobs    []string `json:"jobs,omitempty"`
	// Images are the digests it has at hand.
	Images    []string          `json:"images,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Runtime   job.Runtime       `json:"runtime"`
	StartedAt time.Time         `json:"started_at,omitzero"`
	SeenAt    time.Time         `json:"seen_at,omitzero"`
}

// The states of a worker.
const (
	WorkerReady    = "ready"
	WorkerDraining = "draining"
	WorkerUnfit    = "unfit"
	// WorkerQuarantined: it takes nothing for a while, or until it is released.
	WorkerQuarantined = "quarantined"
)

// Unfit is a limit that a worker cannot enforce.
type Unfit struct {
	// Limit is the path of the field: "limits.pids".
	Limit string `json:"limit"`
	Why   string `json:"why,omitempty"`
}

// Size is how large a job may be.
type Size struct {
	CPU    float64   `json:"cpu"`
	Memory job.Bytes `json:"memory"`
}

// Workers is the list of workers.
type Workers struct {
	Workers []Worker `json:"workers"`
}

// Queue is a queue of a tenant: what is set for it, and how many of its jobs
// have not ended.
type Queue struct {
	Name string `json:"name"`
	job.Share
	Queued    int `json:"queued"`
	Running   int `json:"running"`
	Retrying  int `json:"retrying"`
	Canceling int `json:"canceling"`
	// Oldest is when the job that waits longest was accepted.
	Oldest time.Time `json:"oldest,omitzero"`
	// Revision of the settings; 0 where nothing is set.
	Revision uint64 `json:"revision,omitempty"`
}

// Queues is the list of queues.
type Queues struct {
	Queues []Queue `json:"queues"`
}

// Image is a name that jobs can use.
type Image struct {
	Name   string    `json:"name"`
	Digest string    `json:"digest,omitempty"`
	Size   job.Bytes `json:"size,omitempty"`
	// Present says that it is stored here; a catalogue name may still have to
	// be built.
	Present bool `json:"present"`
	// Catalogue says that sandlot knows how to build it.
	Catalogue   bool      `json:"catalogue,omitempty"`
	Description string    `json:"description,omitempty"`
	Languages   []string  `json:"languages,omitempty"`
	UpdatedAt   time.Time `json:"updated_at,omitzero"`
	// Pool is where jobs go that name the image and no pool; none in particular
	// if left out. SpillAfter is how long one waits there before it spills over,
	// to the first pool of SpillTo that takes it and serves it.
	Pool       string     `json:"pool,omitempty"`
	SpillAfter job.Millis `json:"spill_after_ms,omitempty"`
	SpillTo    []string   `json:"spill_to,omitempty"`
}

// ImageSettings is what can be set for an image; what is left out stays as it
// is.
type ImageSettings struct {
	// Pool is the one that the image prefers; empty for none.
	Pool *string `json:"pool,omitempty"`
	// SpillAfter is how long a job waits there before it may spill over; 30 s
	// if nothing was ever said.
	SpillAfter *job.Millis `json:"spill_after_ms,omitempty"`
	// SpillTo are the pools to which it may, best first; the pool main if
	// nothing was ever said. Empty for none: it waits however long it takes.
	SpillTo *[]string `json:"spill_to,omitempty"`
}

// DecodeImageSettings reads settings of an image as strictly as a submit.
func DecodeImageSettings(body []byte) (s ImageSettings, problem *Problem) {
	problem = decode(body, func(o *object) {
		if o.has("pool") {
			pool := o.text("pool")
			s.Pool = &pool
			if why := BadPool(pool); pool != "" && why != "" {
				o.out.add("pool", clip(pool), "%s, or \"\" for none", why)
			}
		}
		if d, ok := o.duration("spill_after"); ok {
			s.SpillAfter = &d
			if d < job.MinSpillAfter || d > job.MaxSpillAfter {
				o.out.add("spill_after_ms", int64(d), "must be between %d and %d; an empty spill_to keeps jobs from spilling over", job.MinSpillAfter, job.MaxSpillAfter)
			}
		}
		if o.has("spill_to") {
			to := o.texts("spill_to", ", such as [\"main\"]")
			s.SpillTo = &to
			if len(to) > job.MaxSpillTo {
				o.out.add("spill_to", len(to), "has more than %d pools", job.MaxSpillTo)
			}
			for i, pool := range to {
				switch {
				case BadPool(pool) != "":
					o.out.add(fmt.Sprintf("spill_to[%d]", i), clip(pool), "%s", BadPool(pool))
				case slices.Contains(to[:i], pool):
					o.out.add(fmt.Sprintf("spill_to[%d]", i), pool, "is there twice")
				}
			}
		}
	})
	return s, problem
}

// Images is the list of images.
type Images struct {
	Images []Image `json:"images"`
}

// Version names what answers.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api"`
	Go      string `json:"go"`
}

// Health says whether the scheduler works.
type Health struct {
	Status string `json:"status" enum:"ok,failing"`
	// Checks name what was looked at: "ok" or what is wrong.
	Checks map[string]string `json:"checks,omitempty"`
}
