// Package api is the HTTP contract of Sandlot: the bodies that go over the
// wire, and the one strict reader of what a client submits.
//
//	bytes ──DecodeSubmit──▶ Submit ──(scheduler: expand, fill)──▶ job.Spec
//	job.Record ──(scheduler: view)──▶ Job ──▶ bytes
//
// Names are snake_case, sizes are bytes, durations are whole milliseconds
// with the suffix _ms, times are RFC 3339. A field, once published, keeps its
// name and its meaning. What this package does not know it refuses by name:
// a limit that is silently ignored is worse than an error.
package api
