// Package telemetry follows a job through all roles: one OpenTelemetry trace
// per job, whose spans are also kept with the job's record, so that a trace
// can be read where no collector is.
//
//	caller ─traceparent─▶ submit ─┬─ accept
//	                              ├─ release
//	                              ├─ take ─ claim ─ prepare ─ run ─ decide ─ commit
//	                              └─ answer
//
// A role calls [Telemetry.Job] once per job that it touches and [Start] for
// each stage; [Recording.Spans] then yields what goes into the record. The
// spans are exported by OTLP only where an endpoint is configured. All names
// of spans, attributes and metrics stand in names.go.
package telemetry
