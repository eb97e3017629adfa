// Package frame is the codec between a worker and the agent inside a sandbox.
//
//	worker                                   agent (PID 1)
//	       ◄── Hello ─────────────────────
//	       ─── Settings ─────────────────►
//	       ─── FileOpen FileData… FileEnd ► … FilesEnd
//	       ◄── FilesDone ─────────────────
//	       ─── StepStart ────────────────►
//	       ◄── StepStarted ───────────────
//	       ─── Beat, StdinData, StdinEOF ►
//	       ◄── StdinTaken, Output… ───────
//	       ◄── OutputEOF (twice) ─────────
//	       ◄── StepExit ──────────────────
//	       ─── Collect ──────────────────►
//	       ◄── ArtifactOpen ArtifactData… ArtifactEnd … CollectDone
//	       ─── Shutdown ─────────────────►
//
// A frame is a four-byte big-endian payload length, one byte of kind, and the payload. Kinds 1 to 63 go from worker
// to agent, 65 to 127 back; a reader takes one direction only. Numbers and layouts are fixed within a Version.
//
// The promise: every length has a bound that is checked before anything is allocated, every field is checked on
// encode and on decode, and a payload has no spare bytes. The worker decodes what an untrusted program may have
// forged, so its direction has small bounds. What the codec cannot know, the order of frames, is for the two ends.
//
// The package imports the standard library only: it is linked into the agent.
package frame
