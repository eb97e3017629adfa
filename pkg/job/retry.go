package job

import (
	"slices"
	"time"
)

// Retry says which verdicts on the program are followed by another attempt.
// Faults of the platform always are: they have a budget of their own,
// PlatformAttempts, and use up none of these.
type Retry struct {
	// MaxAttempts is how many attempts may end with a verdict that On names;
	// that of the last stands.
	MaxAttempts int `json:"max_attempts,omitempty"`
	// On are reasons, or blames that stand for all of theirs. Nothing is
	// retried if it is empty.
	On []string `json:"on,omitempty"`
	// Backoff is the wait before the second attempt; it doubles with each
	// further one, up to MaxBackoff. About a quarter of it is chance.
	Backoff    Millis `json:"backoff_ms,omitempty"`
	MaxBackoff Millis `json:"max_backoff_ms,omitempty"`
}

// Defaults of a Retry that names what to retry and no more.
const (
	DefaultAttempts   = 3
	DefaultBackoff    = Millis(1000)
	DefaultMaxBackoff = Millis(60_000)
)

// Filled is r with every zero replaced by its default; one that names nothing
// stays empty.
func (r Retry) Filled() Retry {
	if len(r.On) == 0 {
		return r
	}
	fill(&r.MaxAttempts, DefaultAttempts)
	fill(&r.Backoff, DefaultBackoff)
	fill(&r.MaxBackoff, max(r.Backoff, DefaultMaxBackoff))
	return r
}

// Retryable are the words that On may hold, blames first.
func Retryable() []string {
	return []string{
		string(BlameProgram), string(BlameLimit),
		string(Exited), string(Signaled), string(TimedOut), string(CPUTime), string(OutOfMemory), string(OutputLimit), string(PIDsLimit),
	}
}

// The backoff after faults of the platform.
const (
	platformBackoff    = 500 * time.Millisecond
	maxPlatformBackoff = 32 * time.Second
)

// Next says what follows an attempt that ended with a verdict: false if that
// stands, else the outcome of the attempt and the wait before the next. chance
// is between 0 and 1.
func (r Retry) Next(attempts []Attempt, v Verdict, chance float64) (how Outcome, wait time.Duration, again bool) {
	if v.Blame == BlamePlatform {
		faults := PlatformFaults(attempts) + 1
		return Fault, backoff(platformBackoff, maxPlatformBackoff, faults, chance), faults < PlatformAttempts
	}
	if !r.names(v) {
		return Finished, 0, false
	}
	failures := failures(attempts) + 1
	return AttemptFailed, backoff(r.Backoff.Duration(), r.MaxBackoff.Duration(), failures, chance), failures < r.MaxAttempts
}

func (r Retry) names(v Verdict) bool {
	if v.Blame != BlameProgram && v.Blame != BlameLimit {
		return false
	}
	return slices.Contains(r.On, string(v.Blame)) || slices.Contains(r.On, string(v.Reason))
}

// failures counts the attempts that used up one of the user's.
func failures(attempts []Attempt) int {
	n := 0
	for _, a := range attempts {
		if a.Outcome == AttemptFailed {
			n++
		}
	}
	return n
}

// backoff is the wait after the n-th failure: doubled each time, between three
// quarters of it and all, so that what failed together does not come back so.
func backoff(first, most time.Duration, n int, chance float64) time.Duration {
	d := most
	if n < 32 && first<<(n-1) < most {
		d = first << (n - 1)
	}
	return d - time.Duration(float64(d)*chance/4)
}
