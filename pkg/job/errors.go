package job

import "errors"

// What can go wrong between a client and its job. Packages wrap these with
// the step and the noun; the scheduler maps them to HTTP in one table.
var (
	// ErrNotFound: no such job, image, object or worker.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the key is taken by a job with another body.
	ErrConflict = errors.New("key belongs to a job with another body")
	// ErrNotFinal: what was asked needs a job that has ended.
	ErrNotFinal = errors.New("job has not ended yet")
	// ErrFull: a bound of the queue is reached; try again later.
	ErrFull = errors.New("queue is full")
	// ErrLostClaim: somebody else may run the job; say nothing more of it.
	ErrLostClaim = errors.New("claim is lost")
	// ErrSchema: a later release wrote it; this one leaves it as it is.
	ErrSchema = errors.New("written by a release that this one cannot read")
	// ErrImage: the image cannot be had or is broken.
	ErrImage = errors.New("image fault")
)
