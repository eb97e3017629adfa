package telemetry

// The ten steps of a job; the names of its spans and of its timings.
const (
	Submit  = "submit"
	Accept  = "accept"
	Release = "release"
	Take    = "take"
	Claim   = "claim"
	Prepare = "prepare"
	Run     = "run"
	Decide  = "decide"
	Commit  = "commit"
	Answer  = "answer"
)

// Steps lists the ten steps in their order.
func Steps() []string {
	return []string{Submit, Accept, Release, Take, Claim, Prepare, Run, Decide, Commit, Answer}
}

// Finer stages, each nested in one of the ten steps.
const (
	StageAdmit     = "admit"     // in prepare: wait for room in the host's memory
	StageImage     = "image"     // in prepare: the image is on this host
	StageBoot      = "boot"      // in prepare: the sandbox is up, its limits are read back
	StageFiles     = "files"     // in prepare: the job's files are laid in
	StageStep      = "step"      // in run: one step of the job
	StageArtifacts = "artifacts" // in run: artifacts are collected
	StageOutput    = "output"    // in commit: output and artifacts are sealed in the store
	StageClose     = "close"     // after commit: what the sandbox had on the host is removed
	StageHint      = "hint"      // in accept: the hint is published
	StageResolve   = "resolve"   // in accept: the image's name is resolved
	StageRecord    = "record"    // in accept: the record is written
)

// Keys of span attributes.
const (
	KeyJob      = "sandlot.job"
	KeyTenant   = "sandlot.tenant"
	KeyPool     = "sandlot.pool"
	KeyAttempt  = "sandlot.attempt"
	KeyWorker   = "sandlot.worker"
	KeyImage    = "sandlot.image"
	KeyDigest   = "sandlot.image.digest"
	KeyStep     = "sandlot.step"
	KeyExitCode = "sandlot.exit_code"
	KeySignal   = "sandlot.signal"
	KeyState    = "sandlot.state"
	KeyBlame    = "sandlot.blame"
	KeyReason   = "sandlot.reason"
	KeyBytes    = "sandlot.bytes"
	KeyWait     = "sandlot.wait_ms"
)

// Names of metrics.
const (
	MetricAccepted       = "sandlot_jobs_accepted_total"      // by tenant, queue
	MetricRefused        = "sandlot_jobs_refused_total"       // by tenant, code, reason
	MetricTicks          = "sandlot_schedule_ticks_total"     // by tenant, outcome
	MetricReleased       = "sandlot_jobs_released_total"      // by tenant
	MetricFinal          = "sandlot_jobs_final_total"         // by state, blame, reason
	MetricRedriven       = "sandlot_jobs_redriven_total"      // by tenant, queue
	MetricDead           = "sandlot_dead_jobs"                // entries of their index, by pool, tenant
	MetricRetried        = "sandlot_jobs_retried_total"       // by outcome
	MetricBacklog        = "sandlot_queue_backlog"            // by tenant, queue, state
	MetricDemand         = "sandlot_pool_demand"              // by pool, class
	MetricReady          = "sandlot_queue_ready"              // by pool
	MetricRecords        = "sandlot_records"                  // records stored
	MetricWorkers        = "sandlot_workers"                  // by pool
	MetricSlots          = "sandlot_worker_slots"             // by pool, worker
	MetricSparesReady    = "sandlot_worker_spares_ready"      // by pool, worker
	MetricSpareHits      = "sandlot_worker_spares_hits"       // by pool, worker
	MetricSpareMisses    = "sandlot_worker_spares_misses"     // by pool, worker
	MetricSparesDropped  = "sandlot_worker_spares_dropped"    // by pool, worker
	MetricBusy           = "sandlot_worker_slots_busy"        // by pool, worker
	MetricStageSeconds   = "sandlot_stage_seconds"            // by step word
	MetricReconcileFinds = "sandlot_reconcile_finds_total"    // hints given back
	MetricSpilled        = "sandlot_jobs_spilled_total"       // moved to another pool
	MetricLost           = "sandlot_workers_lost_total"       // expired keys
	MetricLogsDropped    = "sandlot_log_chunks_dropped_total" // not stored in LOGS
	MetricHTTPSeconds    = "sandlot_http_request_seconds"     // by route, code
)
