// Package guest is the worker's end of the channel to the agent in a sandbox.
//
//	Open ─► PutFiles ─► Run (once per step) ─► Collect ─► Close
//
// A Session does one thing at a time. It believes nothing that comes out of the sandbox: besides the form of every
// frame, which pkg/frame checks, it checks that the frame may come now, that numbers follow each other, that sums are
// right and that bounds are kept. What does not fit is ErrProtocol and ends the session. Times are this side's own.
//
// The limits of a step that the agent cannot be trusted with, its time and its output, are enforced here; memory, CPU
// time and processes are the business of whoever owns the sandbox, who ends a step by ending its context.
package guest
