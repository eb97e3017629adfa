package queue

import (
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

var (
	// ErrTooLarge says that a record or one of its parts does not fit; it belongs
	// into an object.
	ErrTooLarge = errors.New("too large for a record")
	// ErrCanceling says that somebody asked to cancel the job while it ran. The
	// holder must stop its sandbox and commit job.Canceled with the same
	// claim.
	ErrCanceling = errors.New("job is being canceled")

	// ErrChanged says that a setting is no longer as it was read.
	ErrChanged = errors.New("setting was changed meanwhile")
	// ErrRemoved says that the job of this tick was there, and has been removed.
	ErrRemoved = errors.New("job of the tick has been removed")

	// errMoved: the record is no longer the one that was read.
	errMoved = errors.New("record has moved on")
)

// FullError is a job.ErrFull that says what is full and when to ask again.
type FullError struct {
	What       string
	RetryAfter time.Duration
	// Lane: only the lane of the job is full; others go on.
	Lane bool
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s; try again in %s", e.What, e.RetryAfter)
}

// Is makes a FullError a job.ErrFull.
func (e *FullError) Is(target error) bool { return target == job.ErrFull }
