package api

import (
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
