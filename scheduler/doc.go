// Package scheduler accepts jobs, decides whose turn it is, and answers.
//
//	client ──HTTP──▶ handleSubmit ─▶ Submit ─▶ queue.Accept
//	                                              │ release, lost, reconcile (lead.go)
//	client ◀──HTTP── handleGet ◀─ answer ◀─ queue.Get
//
// The records of the queue are the truth. What the scheduler keeps in memory,
// the index of index.go, is a view of them that is rebuilt at every start: it
// serves lists, counts and those who wait, and it is bounded. A job is always
// answered from its record.
package scheduler
