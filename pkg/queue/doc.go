// Package queue is all that Sandlot knows of NATS JetStream, the only state
// there is. Nothing else imports NATS.
//
//	gateway              leader                  worker
//	Accept ─▶ RES ◀───────────────────────────── Claim, Commit   (records: the truth)
//	   └────▶ INTAKE ─▶ Release ─▶ READY ──────▶ Take            (hints: what to look at)
//	Follow ◀─ RES        Due ◀──── DELAY ◀────── Retry
//	Workers ◀──────────────────── WORKERS ◀───── Register        (expiring keys)
//
// There is one record per job, and every change of it is a compare-and-set
// that [job.Change] has allowed. A hint says only that a job deserves a look:
// it may repeat, come late or vanish, and whoever gets one reads the record
// and does what the record allows.
//
// Promises: an accepted job is stored before Accept returns; at most one
// attempt can commit a final record; a hint that was lost is given again by
// the reconcile pass; every stream is bounded, and what does not fit is
// refused ([job.ErrFull]) instead of pushing older jobs out.
//
// Limits: a record is at most [MaxRecord] bytes; larger inputs and outputs are
// objects that the record refers to.
package queue
