package job

// Spares say what became of the sandboxes that a worker booted ahead of jobs.
type Spares struct {
	// Ready is how many wait for a job now, Oldest for how long.
	Ready  int    `json:"ready"`
	Oldest Millis `json:"oldest_ms,omitempty"`
	// Hits and Misses are jobs, since the worker started, that found one, or
	// booted their own.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
	// Dropped were booted in vain, Failed did not boot.
	Dropped int64 `json:"dropped"`
	Failed  int64 `json:"failed"`
}
