// Package job holds the nouns and the rules of Sandlot: what a job is, which
// states it passes through, what its limits mean, and who is to blame for how
// it ended.
//
//	Spec ──accept──▶ Record{queued} ──claim──▶ Record{running} ──commit──▶ Record{final, Result}
//
// Everything here is plain data and pure functions: no clock, no I/O and no
// import beyond the standard library. The scheduler, the queue and the worker
// all speak in these terms and meet nowhere else.
package job
