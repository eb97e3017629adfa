package job

import "time"

// Preference is what is set for an image: the pool that jobs go to which name
// the image and no pool.
type Preference struct {
	Schema int    `json:"schema"`
	Image  string `json:"image"`
	Pool   string `json:"pool"`
	// SpillAfter is how long a job waits there before it spills over, to the
	// first pool of SpillTo that takes it and serves it; never if there is none.
	SpillAfter Millis    `json:"spill_after_ms"`
	SpillTo    []string  `json:"spill_to"`
	UpdatedAt  time.Time `json:"updated_at,omitzero"`
}

// Bounds of Preference.SpillAfter, and what it is where nothing is said.
const (
	DefaultSpillAfter = Millis(30_000)
	MinSpillAfter     = Millis(1000)
	MaxSpillAfter     = Millis(24 * 60 * 60 * 1000)
)

// MaxSpillTo bounds Preference.SpillTo.
const MaxSpillTo = 8

// Spill says when a job that waits in a pool goes on waiting in another. It
// is fixed when the job is accepted.
type Spill struct {
	After Millis `json:"after_ms"`
	// To are places that are large enough for it, best first; at least one.
	To []Place `json:"to"`
}

// Place is a class of a pool.
type Place struct {
	Pool  string `json:"pool"`
	Class string `json:"class"`
}

// At is when a job spills over that waits since its last change, or since it
// was due if that is later.
func (s Spill) At(updated, notBefore time.Time) time.Time {
	if notBefore.After(updated) {
		updated = notBefore
	}
	return updated.Add(s.After.Duration())
}
