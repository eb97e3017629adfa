// Package worker takes jobs from the queue, one per free slot, and runs each
// in a sandbox of its own.
//
//	take ──▶ claim ──▶ prepare ──▶ run ──▶ decide ──▶ commit
//	         (record)  (Runtime)  (Sandbox)  (pkg/job)  (record)
//
// A slot is a goroutine that never holds a job that is not running. A worker
// whose claim is lost falls silent: it stops the sandbox and reports nothing,
// since somebody else may hold the job by then.
package worker
