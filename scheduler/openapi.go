package scheduler

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/yaml"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// operation describes a route for a reader.
type operation struct {
	id, tag, summary, text string
	// query are the parameters beside those in the path.
	query []param
	// in are bodies by media type, out the answers by status.
	in  []body
	out map[int]body
}

// param is a parameter: its name, where it is, its type and what it means.
type param struct {
	name, in string
	example  any
	text     string
	many     bool
}

// body is a media type and an example of the Go type behind it.
type body struct {
	media string
	of    any
	text  string
}

func query(name string, example any, text string) param {
	return param{name: name, in: "query", example: example, text: text}
}

// table lists all routes.
func (s *Scheduler) table() []route {
	wait := query("wait", "", "Hold the answer back until the job has ended, at most this long: 10s.")
	follow := query("follow", false, "Stay until the end.")
	jobBody := body{typeJSON, api.Job{}, "The job."}
	raw := body{typeBytes, nil, "The bytes."}
	submitOut := map[int]body{
		200: {typeJSON, api.Job{}, "The job has ended. For a batch: a line per line of the request, in order."},
		202: {typeJSON, api.Job{}, "The job is accepted, and durable."},
	}
	deadFilter := []param{query("job", "", "Only this job."), query("pool", "", "Only this pool."), query("queue", "", "Only this queue."), query("batch", "", "Only this batch."),
		query("reason", "", "Only jobs that died for this reason."), {"label", "query", "", "Only jobs with this label, name=value; may repeat.", true},
		query("since", time.Time{}, "Only jobs that died then or later."), query("until", time.Time{}, "Only jobs that died before then.")}
	none := map[int]body{204: {text: "Done."}}
	ok := func(of any) map[int]body { return map[int]body{200: {typeJSON, of, "OK"}} }

	return []route{
		{"POST", "/v1/jobs", s.handleSubmit, false, operation{
			"submit", "jobs", "Submit a job, or a batch of jobs",
			"One job as JSON, or a batch as NDJSON with a submit and its key per line. A batch is answered line by line while it is read; a line that is refused does not stop the others. Sending a batch again under the same id is harmless: an item is identified by batch and key.",
			[]param{wait, query("batch", "", "Of NDJSON: the id of the batch; made up if absent, see the header Sandlot-Batch."),
				{"Idempotency-Key", "header", "", "As idempotency_key in the body.", false},
				{"traceparent", "header", "", "W3C trace context; the job's trace joins it.", false}},
			[]body{{typeJSON, api.Submit{}, ""}, {typeNDJSON, nil, ""}}, submitOut,
		}},
		{"GET", "/v1/jobs", s.handleList, false, operation{
			"list", "jobs", "List jobs, newest first", "The newest jobs that the server keeps in mind; dropped counts those that it does not.",
			[]param{query("state", "", "Only jobs in this state."), query("queue", "", "Only this queue."), query("batch", "", "Only this batch."),
				query("reason", "", "Only jobs whose verdict has this reason."), query("schedule", "", "Only jobs of this schedule."), {"label", "query", "", "Only jobs with this label, name=value; may repeat.", true},
				query("limit", 50, "Jobs on a page, at most 1000."), query("cursor", "", "The next of the page before.")},
			nil, ok(api.List{}),
		}},
		{"GET", "/v1/jobs/{id}", s.handleGet, false, operation{"get", "jobs", "Get a job", "", []param{wait}, nil, map[int]body{200: jobBody}}},
		{"DELETE", "/v1/jobs/{id}", s.handleRemove, false, operation{"remove", "jobs", "Remove a job that has ended", "Its outputs, artifacts and log go as well.", nil, nil, none}},
		{"POST", "/v1/jobs/{id}/cancel", s.handleCancel, false, operation{"cancel", "jobs", "Cancel a job", "A job that waits is canceled at once, one that runs becomes canceling. One that has ended stays as it is.", nil, nil, map[int]body{200: jobBody}}},
		{"POST", "/v1/jobs/{id}/redrive", s.handleRedrive, false, operation{"redrive", "jobs", "Run a dead job again as a new one", "The new job has redrive_of; the dead one stays as it is. A job that was redriven before is answered with the job that was made then, unless that one is dead as well. Caps hold as for a submit; 410 if the record, or the inputs, are not stored any more.", []param{wait}, nil, submitOut}},
		{"GET", "/v1/dead", s.handleDead, false, operation{
			"dead", "jobs", "List dead jobs", "Those that the platform failed until its attempts were used up, by an index that outlives their records.",
			append(deadFilter, query("order", "", "Which come first: newest, the default, or oldest."), query("limit", 50, "Jobs on a page, at most 1000."), query("cursor", "", "The next of the page before.")),
			nil, ok(api.DeadList{}),
		}},
		{"POST", "/v1/dead/redrive", s.handleRedriveMany, false, operation{"redriveMany", "jobs", "Run many dead jobs again", "Those that match, the oldest first, up to a limit; next goes on after them. It stops at a cap, and says so; asking again goes on, since what was redriven is not redriven twice.", nil, []body{{typeJSON, api.Redrive{}, ""}}, ok(api.Redriven{})}},
		{"GET", "/v1/jobs/{id}/logs", s.handleLogs, false, operation{
			"logs", "jobs", "Follow the output of a job",
			"Server-sent events: chunk (see LogChunk), and end when all is told. From the start, or after Last-Event-ID.",
			[]param{follow, {"Last-Event-ID", "header", "", "Go on after this event.", false}}, nil, map[int]body{200: {typeEvents, nil, "Events."}},
		}},
		{"GET", "/v1/jobs/{id}/artifacts", s.handleArtifacts, false, operation{"artifacts", "jobs", "List what a job left behind", "", nil, nil, ok(api.Artifacts{})}},
		{"GET", "/v1/jobs/{id}/artifacts/{path...}", s.handleArtifact, false, operation{"artifact", "jobs", "Get a file that a job left behind", "", nil, nil, map[int]body{200: raw}}},
		{"GET", "/v1/jobs/{id}/steps/{step}/{stream}", s.handleOutput, false, operation{"output", "jobs", "Get all that a step wrote", "The step by name or counted from 0; stream is stdout or stderr.", nil, nil, map[int]body{200: raw}}},
		{"GET", "/v1/jobs/{id}/trace", s.handleTrace, false, operation{"trace", "jobs", "Get the trace of a job", "", nil, nil, ok(api.Trace{})}},
		{"GET", "/v1/jobs/{id}/explain", s.handleExplain, false, operation{"explain", "jobs", "Say why a job stands where it stands", "", nil, nil, ok(api.Explain{})}},
		{"POST", "/v1/batches", s.handleUpload, false, operation{
			"upload", "batches", "Submit a batch of up to a million items",
			"A batch is an object: its items are stored while they arrive, and become jobs when their turn is near. As NDJSON: an item (see BatchItem) per line, the settings (see BatchSettings) before them in a line {\"batch\": {…}} if there are any. As JSON: the settings as one object, whose last field is items, a list. A line that is refused does not stop the others; it ends as rejected among the results. An upload that was cut off is sent again under the same id, whole or from where GET says; after a day it is removed.",
			[]param{query("from", 0, "Only lines after this number are sent; it must be lines of the batch as it stands.")},
			[]body{{typeNDJSON, nil, ""}, {typeJSON, nil, "Settings, and then items."}},
			map[int]body{201: {typeJSON, api.Batch{}, "All items are stored, and run."}, 200: {typeJSON, api.Batch{}, "The same batch was there already."}},
		}},
		{"GET", "/v1/batches", s.handleBatches, false, operation{"batches", "batches", "List batches, newest first", "", nil, nil, ok(api.Batches{})}},
		{"POST", "/v1/batches/{id}/cancel", s.handleBatchCancel, false, operation{"cancelBatch", "batches", "Cancel a batch", "Its items that wait are canceled within moments, and those that run are ended. What has ended stays as it is.", nil, nil, ok(api.Batch{})}},
		{"DELETE", "/v1/batches/{id}", s.handleBatchRemove, false, operation{"removeBatch", "batches", "Remove a batch that has ended, or its upload", "Its items and their results go as well.", nil, nil, none}},
		{"GET", "/v1/batches/{id}/events", s.handleBatchEvents, false, operation{"batchEvents", "batches", "Follow the counts of a batch", "Server-sent events with a Batch each: progress whenever they have changed, and end with the last.", nil, nil, map[int]body{200: {typeEvents, nil, "Events."}}}},
		{"GET", "/v1/callbacks/secret", s.handleSecret, false, operation{"callbackSecret", "batches", "Get the secret that signs your callbacks", "A callback is a POST of a BatchEvent with the headers Sandlot-Event, the same at each try, and Sandlot-Signature: t=SECONDS,v1=HEX, where HEX is the HMAC-SHA256 of SECONDS, a dot and the body. Any answer of the 200s ends it; otherwise it is tried again for a day.", nil, nil, ok(api.CallbackSecret{})}},
		{"POST", "/v1/callbacks/secret", s.handleNewSecret, false, operation{"newCallbackSecret", "batches", "Replace the secret that signs your callbacks", "For a day callbacks have a second v1, by the former one.", nil, nil, ok(api.CallbackSecret{})}},
		{"GET", "/v1/batches/{id}", s.handleBatch, false, operation{"batch", "batches", "Count the jobs of a batch", "", nil, nil, ok(api.Batch{})}},
		{"GET", "/v1/batches/{id}/results", s.handleResults, false, operation{
			"results", "batches", "Stream the results of a batch",
			"A line (see BatchResult) for each job that has ended, in the order in which they did, each once. With follow the stream ends with the last job of the batch; blank lines keep it alive.",
			[]param{follow, query("after", "", "The cursor of the last line already known. After a restart of the server some may come again.")}, nil,
			map[int]body{200: {typeNDJSON, nil, "Lines."}},
		}},
		{"POST", "/v1/cancels", s.handleCancelMany, false, operation{
			"cancelMany", "jobs", "Cancel all jobs that a filter picks",
			"Of the tenant's jobs that were accepted before; later ones run. The order is stored first and carried out even if the scheduler dies: jobs that wait are canceled and those that run are ended. The answer says how far it is.",
			[]param{query("wait", "", "Hold the answer back until the order is finished, at most this long: 10s.")}, []body{{typeJSON, api.Cancel{}, ""}},
			map[int]body{200: {typeJSON, api.CancelOrder{}, "The order is finished."}, 202: {typeJSON, api.CancelOrder{}, "The order is stored, and will be finished."}},
		}},
		{"GET", "/v1/cancels/{id}", s.handleCancelOrder, false, operation{"cancelOrder", "jobs", "Say how far an order to cancel is", "Known for thirty days.", []param{query("wait", "", "Hold the answer back until the order is finished, at most this long: 10s.")}, nil, ok(api.CancelOrder{})}},
		{"GET", "/v1/workers", s.handleWorkers, false, operation{"workers", "system", "List workers", "", nil, nil, ok(api.Workers{})}},
		{"POST", "/v1/workers/{id}/drain", operatorOnly(s.handleDrain), false, operation{"drain", "pools", "Have a worker finish, take no more, and leave", "For the operator. At the deadline, if there is one, what still runs is stopped and given to others. The order holds until the worker has left.", nil, []body{{typeJSON, api.Drain{}, ""}}, ok(api.Worker{})}},
		{"POST", "/v1/workers/{id}/undrain", operatorOnly(s.handleUndrain), false, operation{"undrain", "pools", "Have a worker that is drained take jobs again", "For the operator.", nil, nil, ok(api.Worker{})}},
		{"POST", "/v1/workers/{id}/release", operatorOnly(s.handleReleaseWorker), false, operation{"releaseWorker", "pools", "Let a worker out of quarantine", "For the operator. Forgets what led to it.", nil, nil, ok(api.Worker{})}},
		{"GET", "/v1/pools", s.handlePools, false, operation{"pools", "pools", "List pools, and what waits and runs in each", "", nil, nil, ok(api.Pools{})}},
		{"GET", "/v1/pools/{pool}", s.handlePool, false, operation{"pool", "pools", "Get a pool", "", nil, nil, ok(api.Pool{})}},
		{"PUT", "/v1/pools/{pool}", operatorOnly(s.handlePutPool), false, operation{"putPool", "pools", "Make a pool, or set its classes", "For the operator. What is left out is not set. A class in which jobs have not ended cannot be left out.", nil, []body{{typeJSON, api.PoolSettings{}, ""}}, ok(api.Pool{})}},
		{"DELETE", "/v1/pools/{pool}", operatorOnly(s.handleDeletePool), false, operation{"deletePool", "pools", "Remove a pool", "For the operator. Refused while jobs of it have not ended, or workers are in it.", nil, nil, none}},
		{"GET", "/v1/queues", s.handleQueues, false, operation{"queues", "tenants", "List the queues of a tenant", "", nil, nil, ok(api.Queues{})}},
		{"PUT", "/v1/queues/{queue}", s.handlePutQueue, false, operation{"putQueue", "tenants", "Set what a queue may take", "Weight among the tenant's queues, caps, rate, pause. What is left out is not set.", nil, []body{{typeJSON, api.QueueSettings{}, ""}}, ok(api.Queue{})}},
		{"DELETE", "/v1/queues/{queue}", s.handleDeleteQueue, false, operation{"deleteQueue", "tenants", "Forget what is set for a queue", "Its jobs stay.", nil, nil, none}},
		{"GET", "/v1/schedules", s.handleSchedules, false, operation{"schedules", "schedules", "List the schedules of a tenant", "", nil, nil, ok(api.Schedules{})}},
		{"GET", "/v1/schedules/{schedule}", s.handleSchedule, false, operation{"schedule", "schedules", "Get a schedule", "", nil, nil, ok(api.Schedule{})}},
		{"PUT", "/v1/schedules/{schedule}", s.handlePutSchedule, false, operation{"putSchedule", "schedules", "Make a schedule, or change it", "What is left out is not set. The job is checked as if it were submitted now. With another cron or time_zone, and after a pause, it ticks from now on; otherwise ticks go on as they were.", nil, []body{{typeJSON, api.ScheduleSettings{}, ""}}, ok(api.Schedule{})}},
		{"DELETE", "/v1/schedules/{schedule}", s.handleDeleteSchedule, false, operation{"deleteSchedule", "schedules", "Remove a schedule", "Its jobs stay.", nil, nil, none}},
		{"POST", "/v1/schedules/{schedule}/run", s.handleRunSchedule, false, operation{"runSchedule", "schedules", "Submit the job of a schedule now", "Beside its ticks, and although it may be paused.",
			[]param{wait, {"Idempotency-Key", "header", "", "A second request with this key answers with the first one's job.", false}}, nil, map[int]body{200: jobBody, 202: {typeJSON, api.Job{}, "The job is accepted, and durable."}}}},
		{"GET", "/v1/tenants", operatorOnly(s.handleTenants), false, operation{"tenants", "tenants", "List tenants", "For the operator.", nil, nil, ok(api.Tenants{})}},
		{"GET", "/v1/tenants/{tenant}", s.handleTenant, false, operation{"tenant", "tenants", "Get a tenant", "For the operator, and for the tenant itself.", nil, nil, ok(api.Tenant{})}},
		{"PUT", "/v1/tenants/{tenant}", operatorOnly(s.handlePutTenant), false, operation{"putTenant", "tenants", "Make a tenant, or set what it may take", "For the operator. Weight among the tenants, caps, rate, pause, retention. What is left out is not set; tokens stay.", nil, []body{{typeJSON, api.TenantSettings{}, ""}}, ok(api.Tenant{})}},
		{"DELETE", "/v1/tenants/{tenant}", operatorOnly(s.handleDeleteTenant), false, operation{"deleteTenant", "tenants", "Remove a tenant", "For the operator. Its tokens end to be valid; its results stay until they expire. Refused while jobs of it have not ended.", nil, nil, none}},
		{"POST", "/v1/tenants/{tenant}/tokens", operatorOnly(s.handleNewToken), false, operation{"newToken", "tenants", "Make a token that speaks for a tenant", "For the operator. The secret is in this answer only; its digest is stored.", nil, []body{{typeJSON, api.NewToken{}, ""}}, map[int]body{201: {typeJSON, api.Token{}, "The token."}}}},
		{"DELETE", "/v1/tenants/{tenant}/tokens/{token}", operatorOnly(s.handleDeleteToken), false, operation{"deleteToken", "tenants", "Have a token end to be valid", "For the operator; the token by its id.", nil, nil, none}},
		{"GET", "/v1/images", s.handleImages, false, operation{"images", "images", "List images", "Those that are stored, and those of the catalogue that could be.", nil, nil, ok(api.Images{})}},
		{"PUT", "/v1/images/{name...}", operatorOnly(s.handlePutImage), false, operation{"putImage", "images", "Store an image under a name", "For the operator. An OCI layout or the output of docker save, as a tar.", nil, []body{{"application/x-tar", nil, ""}}, ok(api.Image{})}},
		{"PATCH", "/v1/images/{name...}", operatorOnly(s.handlePatchImage), false, operation{"patchImage", "images", "Set which pool an image prefers", "For the operator. Jobs that name the image and no pool go there, and spill over to another if they wait too long. What is left out stays as it is.", nil, []body{{typeJSON, api.ImageSettings{}, ""}}, ok(api.Image{})}},
		{"DELETE", "/v1/images/{name...}", operatorOnly(s.handleDeleteImage), false, operation{"deleteImage", "images", "Forget the name of an image", "For the operator. The image goes with its last name.", nil, nil, none}},
		{"GET", "/v1/backup", operatorOnly(s.handleBackup), false, operation{"backup", "system", "Send all state as a backup", "For the operator. A tar whose entries carry their SHA-256, closed by end.json; without that it was cut off. Everything goes on meanwhile.", nil, nil, map[int]body{200: {typeTar, nil, "The backup."}}}},
		{"POST", "/v1/restore", operatorOnly(s.handleRestore), false, operation{"restore", "system", "Fill an empty system from a backup", "For the operator. Refused where there are jobs. Until it is over no job is accepted; one that was cut off is finished by sending the same backup again.", nil, []body{{typeTar, nil, ""}}, ok(api.Restored{})}},
		{"GET", "/v1/version", s.handleVersion, false, operation{"version", "system", "Name the server", "", nil, nil, ok(api.Version{})}},
		{"GET", "/metrics", operatorOnly(s.handleMetrics), false, operation{"metrics", "system", "Metrics for Prometheus", "For the operator.", nil, nil, map[int]body{200: {"text/plain", nil, "Metrics."}}}},
		{"GET", "/healthz", s.handleHealth, true, operation{"healthz", "system", "Say that the process lives", "", nil, nil, ok(api.Health{})}},
		{"GET", "/readyz", s.handleReady, true, operation{"readyz", "system", "Say whether jobs can be accepted", "", nil, nil, map[int]body{200: {typeJSON, api.Health{}, "Ready."}, 503: {typeJSON, api.Health{}, "Not ready."}}}},
	}
}

// schemas is where references to schemas point.
const schemas = "#/components/schemas/"

// schemaName tells apart types that have one name in Go: what is asked for
// and what is answered.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[api.Limits]():
		return "SubmitLimits"
	case reflect.TypeFor[api.StepLimits]():
		return "SubmitStepLimits"
	case reflect.TypeFor[api.Step]():
		return "SubmitStep"
	case reflect.TypeFor[api.Budgets]():
		return "SubmitBudgets"
	case reflect.TypeFor[api.Retry]():
		return "SubmitRetry"
	case reflect.TypeFor[job.Image]():
		return "JobImage"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// newDocument describes the routes in OpenAPI 3.1.
func newDocument(table []route, version string) *huma.OpenAPI {
	registry := huma.NewMapRegistry(schemas, schemaName)
	d := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Sandlot", Version: version, License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			Description: "A distributed job queue of sandbox workers: submit untrusted programs, get right and complete results.",
		},
		Tags: []*huma.Tag{{Name: "jobs"}, {Name: "batches"}, {Name: "images"}, {Name: "schedules"}, {Name: "tenants"}, {Name: "pools"}, {Name: "system"}},
		Components: &huma.Components{
			Schemas:         registry,
			SecuritySchemes: map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}},
		},
		Security: []map[string][]string{{"token": {}}},
	}
	for _, one := range []any{api.LogChunk{}, api.LineAnswer{}, api.BatchResult{}, api.BatchSettings{}, api.BatchItem{}, api.BatchEvent{}} {
		schemaOf(registry, one)
	}
	for _, r := range table {
		d.AddOperation(r.describe(registry))
	}
	amend(registry)
	return d
}

func schemaOf(registry huma.Registry, of any) *huma.Schema {
	if of == nil {
		return &huma.Schema{Type: huma.TypeString}
	}
	return registry.Schema(reflect.TypeOf(of), true, "")
}

func (r route) describe(registry huma.Registry) *huma.Operation {
	path := strings.ReplaceAll(r.path, "...}", "}")
	op := &huma.Operation{
		OperationID: r.doc.id, Method: r.method, Path: path, Summary: r.doc.summary, Description: r.doc.text,
		Tags: []string{r.doc.tag}, Responses: map[string]*huma.Response{},
	}
	if r.open {
		op.Security = []map[string][]string{{}}
	}
	for _, piece := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(piece, "{"); ok {
			op.Parameters = append(op.Parameters, &huma.Param{Name: strings.TrimSuffix(name, "}"), In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
		}
	}
	for _, p := range r.doc.query {
		schema := huma.SchemaFromType(registry, reflect.TypeOf(p.example))
		if p.many {
			schema = &huma.Schema{Type: huma.TypeArray, Items: schema}
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: p.in, Description: p.text, Schema: schema})
	}
	for _, in := range r.doc.in {
		if op.RequestBody == nil {
			op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
		}
		op.RequestBody.Content[in.media] = &huma.MediaType{Schema: schemaOf(registry, in.of)}
	}
	for status, out := range r.doc.out {
		answer := &huma.Response{Description: out.text}
		if out.media != "" {
			answer.Content = map[string]*huma.MediaType{out.media: {Schema: schemaOf(registry, out.of)}}
		}
		op.Responses[strconv.Itoa(status)] = answer
	}
	op.Responses["default"] = &huma.Response{
		Description: "What is wrong, and what to do about it.",
		Content:     map[string]*huma.MediaType{api.ProblemType: {Schema: schemaOf(registry, api.Problem{})}},
	}
	return op
}

// timings says what has happened by each of the times of a job.
func timings() map[string]string {
	return map[string]string{
		"submit": "The request was read and checked, its image resolved.", "accept": "The record was written: the job is durable.",
		"release": "The scheduler said that it is the job's turn.", "take": "A worker with a free slot received it.",
		"claim": "The worker's claim was written.", "prepare": "The sandbox was up, with image and files.",
		"run": "The last step had ended.", "decide": "The verdict was fixed.", "commit": "The result was about to be written by the worker.",
		"answer": "The result went to a client for the first time, as far as this server knows.",
	}
}

// amend says what Go types cannot: that sizes and durations may be texts,
// that a duration may lose its suffix, that answers may gain fields, that an
// exit code may be null, and what the times mean.
func amend(registry huma.Registry) {
	for name, text := range timings() {
		registry.SchemaFromRef(schemas + "Timings").Properties[name].Description = text
	}
	for name, schema := range registry.Map() {
		if !strings.HasPrefix(name, "Submit") && name != "File" {
			schema.AdditionalProperties = nil
		}
	}
	registry.SchemaFromRef(schemas + "StepResult").Properties["exit_code"].Nullable = true
	for _, name := range []string{"Schedule", "ScheduleSettings"} {
		registry.SchemaFromRef(schemas + name).Properties["job"] = &huma.Schema{Ref: schemas + "Submit"}
	}
	either := func(text string) *huma.Schema {
		return &huma.Schema{Description: text, OneOf: []*huma.Schema{{Type: huma.TypeInteger, Format: "int64"}, {Type: huma.TypeString}}}
	}
	for _, name := range []string{"SubmitLimits", "SubmitStepLimits", "SubmitBudgets", "SubmitRetry"} {
		schema := registry.SchemaFromRef(schemas + name)
		for field, old := range schema.Properties {
			short, isTime := strings.CutSuffix(field, "_ms")
			switch {
			case isTime:
				schema.Properties[short] = &huma.Schema{Type: huma.TypeString, Description: "As " + field + ", as a text such as 10s. Not both."}
			case field != "memory" && field != "disk" && field != "output":
				continue
			}
			schema.Properties[field] = either(old.Description)
		}
	}
}

// serveDocument serves the description, ready made.
func (s *Scheduler) serveDocument(mux *http.ServeMux, d *huma.OpenAPI) {
	asJSON, err := json.Marshal(d)
	if err != nil {
		panic(err) // plain data, built from code alone: a test would have seen it
	}
	var asYAML strings.Builder
	if err := yaml.Convert(&asYAML, strings.NewReader(string(asJSON))); err != nil {
		panic(err)
	}
	for path, one := range map[string]struct{ media, text string }{
		"/openapi.json": {"application/openapi+json", string(asJSON)},
		"/openapi.yaml": {"application/openapi+yaml", asYAML.String()},
	} {
		mux.Handle("GET "+path, s.serve(route{path: path, open: true, handle: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", one.media)
			_, err := w.Write([]byte(one.text))
			return err
		}}))
	}
}
