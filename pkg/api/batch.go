package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// BatchSettings is what a batch is asked for beside its items. In NDJSON they
// stand in the first line, as {"batch": {…}}; in JSON beside "items", before
// it.
type BatchSettings struct {
	// ID is a UUID made by the client, so that an upload that was cut off can
	// be sent again; made up if empty.
	ID string `json:"id,omitempty" doc:"A UUID of your making: sending the batch again under it continues the upload. Made up if absent."`
	// Name is for people.
	Name string `json:"name,omitempty" doc:"For people."`
	// Items announces how many lines come; 0 says nothing.
	Items int64 `json:"items,omitempty" doc:"How many lines come, so that too many are refused at once and a missing one is noticed. NDJSON only."`
	// Template is what all items have in common. An item then needs no more
	// than its key: vars replace {{name}} in the template's texts, other
	// fields replace those of the template.
	Template *Submit `json:"template,omitempty" doc:"A submit that all items have in common. Fields of an item replace its fields; vars of an item replace {{name}} in its texts."`
	// StopAfter ends the rest of a group once enough of it has passed.
	StopAfter *StopAfter `json:"stop_after,omitempty" doc:"End the rest of a group (field group of an item) once so many of it have succeeded."`
	Success   *Success   `json:"success,omitempty" doc:"When the batch has passed, for outcome."`
	Callback  *Callback  `json:"callback,omitempty" doc:"Who is told of the end, by a signed POST."`
}

// What a batch is told, as its record has it.
type (
	// StopAfter ends the rest of a group early.
	StopAfter = job.StopAfter
	// Success is when a batch has passed.
	Success = job.Success
	// Callback is who is told of the end.
	Callback = job.Callback
)

// BatchItem is one line of a batch: a submit with a key.
type BatchItem struct {
	Submit
	// Group is counted by stop_after.
	Group string `json:"group,omitempty" doc:"The group that stop_after counts the item in."`
	// Vars replace {{name}} in the template's texts.
	Vars map[string]string `json:"vars,omitempty" doc:"With a template: what stands for {{name}} in its texts."`
}

// BatchProgress is what is known of a batch that is an object, beside its
// counts.
type BatchProgress struct {
	State job.BatchState `json:"state" enum:"uploading,running,canceling,finished,canceled"`
	Name  string         `json:"name,omitempty"`
	// Lines counts the lines that are stored, Rejected those of them of which
	// no job came. An upload that was cut off goes on after Lines.
	Lines    int `json:"lines"`
	Rejected int `json:"rejected"`
	// Expanded is how many items have had their turn to become jobs; the
	// others count as queued.
	Expanded int `json:"expanded"`
	// Failures are the first jobs that did not succeed.
	Failures []job.Failure `json:"failures,omitempty"`
	// GroupsPassed is how many groups have reached stop_after.passed.
	GroupsPassed int `json:"groups_passed,omitempty"`

	StopAfter *job.StopAfter `json:"stop_after,omitempty"`
	Success   *job.Success   `json:"success,omitempty"`
	// Outcome is passed or failed by success, once the batch is final.
	Outcome       string `json:"outcome,omitempty" enum:"passed,failed"`
	OutcomeReason string `json:"outcome_reason,omitempty"`

	Callback *job.Callback `json:"callback,omitempty"`
	// Called tells of the callback.
	Called *job.Called `json:"called,omitempty"`

	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
}

// Batches lists the batches that are objects, newest first.
type Batches struct {
	Batches []Batch `json:"batches"`
	// Dropped counts older ones that the list leaves out.
	Dropped int `json:"dropped,omitempty"`
}

// BatchEvent is the body of a callback. It is the same at each try; Event
// tells two callbacks apart.
type BatchEvent struct {
	Event string `json:"event"`
	// Type is batch.finished or batch.canceled.
	Type  string `json:"type"`
	Batch Batch  `json:"batch"`
}

// CallbackSecret is what a tenant's callbacks are signed with.
type CallbackSecret struct {
	Secret    string    `json:"secret"`
	CreatedAt time.Time `json:"created_at"`
}
