package job

import (
	"errors"
	"fmt"
)

// State is where a job stands. An accepted job is in exactly one of the nine
// states at every moment.
type State string

const (
	// Queued means accepted and durable, nothing of it runs. Accept puts a job
	// here; a claim, a cancel or an expiry takes it out.
	Queued State = "queued"
	// Running means that a worker holds the claim of the current attempt. A claim puts
	// a job here; the worker's commit, a cancel, or the loss of the worker
	// takes it out.
	Running State = "running"
	// Canceling means that somebody asked to cancel while an attempt ran; its sandbox
	// may still be alive. Cancel puts a job here; the holder's commit, or the
	// scheduler when the holder is lost, takes it out.
	Canceling State = "canceling"
	// Retrying means that the last attempt ended without a final result (platform
	// fault, lost worker, drained worker, a verdict that retry.on names). The
	// worker or the scheduler puts a job here; the claim of the next attempt, a cancel or an expiry takes it
	// out.
	Retrying State = "retrying"

	// Succeeded means that every step exited with 0. Final.
	Succeeded State = "succeeded"
	// Failed means that the program or one of its limits is to blame. Final.
	Failed State = "failed"
	// Canceled means ended on request. Final.
	Canceled State = "canceled"
	// Expired means that one of its budgets was over: start_by before its first
	// attempt was claimed, or total before it had ended. One that waits is put
	// here by whoever sees it first, its timer, the worker that took its hint or
	// the reconcile pass; one that runs is stopped and committed so by its
	// holder. Final.
	Expired State = "expired"
	// Dead means that the platform is to blame and its attempts are used up. Final.
	Dead State = "dead"
)

// States lists all states, those that are not final first.
func States() []State {
	return []State{Queued, Running, Canceling, Retrying, Succeeded, Failed, Canceled, Expired, Dead}
}

// Final reports whether nothing of the job runs any more, now and for ever.
func (s State) Final() bool {
	switch s {
	case Succeeded, Failed, Canceled, Expired, Dead:
		return true
	}
	return false
}

// Known reports whether s is one of the nine states.
func (s State) Known() bool {
	switch s {
	case Queued, Running, Canceling, Retrying:
		return true
	}
	return s.Final()
}

// Event is something that happened to a job and may change its state.
type Event string

const (
	// EventClaim says that a worker takes the next attempt.
	EventClaim Event = "claim"
	// EventFinish says that the running attempt ended with a verdict.
	EventFinish Event = "finish"
	// EventRetry says that the running attempt ended without one; another may follow.
	EventRetry Event = "retry"
	// EventCancel says that somebody asked to cancel.
	EventCancel Event = "cancel"
	// EventExpire says that a budget was over while it waited.
	EventExpire Event = "expire"
	// EventSpill says that it has waited too long in the pool that its image
	// prefers and goes on waiting in another.
	EventSpill Event = "spill"
)

// Events lists all events.
func Events() []Event {
	return []Event{EventClaim, EventFinish, EventRetry, EventCancel, EventExpire, EventSpill}
}

// ErrStale says that an event came too late or twice, so that it changes
// nothing. It is harmless: the record already says what is true.
var ErrStale = errors.New("stale event")

// Change says whether event e, which belongs to the given attempt, may move a
// job from state s with its current attempt to state to. It is the only place
// that decides so; the queue applies the answer by compare-and-set.
//
// A claim must name the attempt after the current one; it may also take a
// running job over, for which the caller must know that the holder is lost.
// A finish or a retry must name the current attempt. Cancel, expire and spill
// are of the job, not of an attempt, and ignore the number.
func Change(s State, current int, e Event, attempt int, to State) error {
	if s.Final() {
		return fmt.Errorf("%s of a job that is %s: %w", e, s, ErrStale)
	}
	if !allowed(s, e, to) {
		return fmt.Errorf("%s cannot take a job from %s to %s: %w", e, s, to, ErrStale)
	}
	switch e {
	case EventClaim:
		if attempt != current+1 {
			return fmt.Errorf("claim of attempt %d after attempt %d: %w", attempt, current, ErrStale)
		}
	case EventFinish, EventRetry:
		if attempt != current {
			return fmt.Errorf("%s of attempt %d during attempt %d: %w", e, attempt, current, ErrStale)
		}
	}
	return nil
}

// allowed is the table of docs/state.md.
func allowed(s State, e Event, to State) bool {
	switch e {
	case EventClaim:
		return (s == Queued || s == Retrying || s == Running) && to == Running
	case EventFinish:
		switch s {
		case Running:
			return to == Succeeded || to == Failed || to == Dead || to == Expired
		case Canceling:
			return to == Canceled
		}
	case EventRetry:
		return s == Running && to == Retrying
	case EventCancel:
		switch s {
		case Queued, Retrying:
			return to == Canceled
		case Running:
			return to == Canceling
		}
	case EventExpire:
		return (s == Queued || s == Retrying) && to == Expired
	case EventSpill:
		return (s == Queued || s == Retrying) && to == s
	}
	return false
}
