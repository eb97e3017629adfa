package scheduler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// Origin is where a submit comes from.
type Origin struct {
	// Batch is empty for a single submit.
	Batch string
	// Schedule is the tick that it is from, if it is.
	Schedule *job.Tick
	// Firing names the job of a tick; nil if Schedule was asked for by hand.
	Firing *job.Firing
	// Received is when its first byte was here.
	Received time.Time
}

// Submit accepts one job: expand, check, resolve, record. A second submit
// with the same key answers with the record of the first. What the client is
// to blame for is an *api.Problem.
func (s *Scheduler) Submit(ctx context.Context, in api.Submit, from Origin) (job.Record, error) {
	ctx, recording := s.Telemetry.Job(ctx)
	ctx, stage := telemetry.StartAt(ctx, telemetry.Submit, from.Received)
	rec, err := s.draft(ctx, in, from)
	if err != nil {
		stage.End(err)
		return job.Record{}, err
	}
	stage.Set(attribute.String(telemetry.KeyJob, rec.ID), attribute.String(telemetry.KeyImage, rec.Image.Name))
	rec.Timings.Submit = time.Now().UTC()
	stage.EndAt(rec.Timings.Submit, nil)
	rec.Spans = recording.Spans()

	ctx, stage = telemetry.Start(ctx, telemetry.Accept, attribute.String(telemetry.KeyJob, rec.ID))
	stored, _, err := s.accept(ctx, rec)
	stage.End(err)
	return stored, err
}

// accept makes the record durable; created says that it was not there yet.
func (s *Scheduler) accept(ctx context.Context, rec job.Record) (stored job.Record, created bool, err error) {
	settled, err := s.admit(ctx, rec)
	if err != nil {
		return job.Record{}, false, err
	}
	defer settled()
	if err := s.storeSpec(ctx, &rec); err != nil {
		return job.Record{}, false, err
	}
	// Not given up half-way when the client goes: a record without a hint
	// waits until somebody misses it.
	stored, created, err = s.Queue.Accept(context.WithoutCancel(ctx), rec)
	if err != nil {
		return job.Record{}, false, fmt.Errorf("accept job %s: %w", rec.ID, err)
	}
	s.noteAccepted(stored, created)
	return stored, created, nil
}

func (s *Scheduler) noteAccepted(rec job.Record, created bool) {
	if created {
		s.metrics.accepted.WithLabelValues(rec.Tenant, rec.Queue).Inc()
	}
	sum := summaryOf(rec)
	s.index.accepted(sum)
}

// draft is the record of a job that is not accepted yet.
func (s *Scheduler) draft(ctx context.Context, in api.Submit, from Origin) (job.Record, error) {
	if err := s.mayAccept(); err != nil {
		return job.Record{}, err
	}
	in, err := s.expand(in)
	if err != nil {
		return job.Record{}, err
	}
	spec := in.Spec()
	hash, err := bodyHash(spec)
	if err != nil {
		return job.Record{}, err
	}
	id, err := jobID(tenantOf(ctx), in, from)
	if err != nil {
		return job.Record{}, err
	}
	at, err := s.possible(ctx, &spec, id, hash)
	if err != nil {
		return job.Record{}, err
	}
	rec := recordOf(&spec, hash)
	at.into(&rec)
	rec.ID, rec.Tenant, rec.IdempotencyKey, rec.Batch, rec.Key = id, tenantOf(ctx), in.IdempotencyKey, from.Batch, in.Key
	rec.Retention, rec.TraceParent = s.retention(rec.Tenant), telemetry.TraceParent(ctx)
	rec.Schedule = from.Schedule
	if from.Firing != nil {
		rec.Retention = from.Firing.Retention
	}
	return rec, nil
}

// recordOf is a record with what follows from what is to run.
func recordOf(spec *job.Spec, hash string) job.Record {
	return job.Record{
		Schema: job.Schema, State: job.Queued, Spec: spec, BodyHash: hash,
		Image: spec.Image, Queue: spec.Queue, Priority: spec.Priority, Labels: spec.Labels,
		NotBefore: spec.NotBefore, Budgets: spec.Budgets,
	}
}

// retention is how long the results of a tenant are kept: fixed when a job is
// accepted, so that a later setting does not reach back.
func (s *Scheduler) retention(tenant string) time.Duration {
	if set, _ := s.settings.tenant(tenant); set.Retention > 0 {
		return set.Retention.Duration()
	}
	return s.Retention
}

// possible says where the job runs, and what its image is, if it can be run at
// all. A submit that is repeated is answered whatever has become of pools,
// workers and images since.
func (s *Scheduler) possible(ctx context.Context, spec *job.Spec, id, hash string) (at placement, err error) {
	if at, err = s.place(ctx, *spec); err == nil {
		spec.Image.Digest, err = s.digest(ctx, spec.Image.Name)
	}
	if err != nil {
		if known, getErr := s.Queue.Get(ctx, tenantOf(ctx), id); getErr == nil && known.BodyHash == hash {
			spec.Image.Digest = known.Image.Digest
			return placement{Place: job.Place{Pool: known.Pool, Class: known.Class}}, nil
		}
	}
	return at, err
}

// expand turns the short form language into files and steps.
func (s *Scheduler) expand(in api.Submit) (api.Submit, error) {
	if in.Language == "" {
		return in, nil
	}
	language, ok := s.catalogue.Language(in.Language)
	if !ok {
		var names []string
		for _, l := range s.catalogue.Languages() {
			names = append(names, l.Name)
		}
		return in, invalid("language", in.Language, "is not known; there are %s. For others give image, files and command", strings.Join(names, ", "))
	}
	for i, f := range in.Files {
		if f.Path == language.File || strings.HasPrefix(f.Path, language.File+"/") {
			return in, invalid(fmt.Sprintf("files[%d].path", i), f.Path, "is where code goes; choose another name")
		}
	}
	in.Files = append(slices.Clone(in.Files), job.File{Path: language.File, Content: in.Code})
	setDefault(&in.Image, language.Image)
	for i, step := range language.Steps {
		full := api.Step{Name: step.Name, Command: step.Command, Env: in.Env}
		if i == len(language.Steps)-1 {
			full.Stdin, full.StdinBase64 = in.Stdin, in.StdinBase64
		}
		in.Steps = append(in.Steps, full)
	}
	return in, nil
}

func invalid(location string, value any, format string, args ...any) *api.Problem {
	return api.Invalid([]api.FieldError{{Location: location, Value: value, Message: fmt.Sprintf(format, args...)}})
}

// bodyHash tells two submits under one key apart. The digest of the image is
// left out: a submit repeated after the image was built anew is the same.
func bodyHash(spec job.Spec) (string, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("hash submit: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// namespace sets our derived ids apart from anybody else's.
const namespace = "sandlot.dev/job"

// jobID derives the id from the client's key where there is one, so that the
// record itself is the arbiter of two submits with one key.
func jobID(tenant string, in api.Submit, from Origin) (string, error) {
	switch {
	case from.Batch != "":
		return derivedID(tenant, "batch", from.Batch, in.Key), nil
	case from.Firing != nil:
		return from.Firing.Job, nil
	case in.IdempotencyKey != "":
		return derivedID(tenant, "key", in.IdempotencyKey), nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return id.String(), nil
}

func derivedID(parts ...string) string {
	data, _ := json.Marshal(append([]string{namespace}, parts...)) // texts, always valid
	return uuid.NewHash(sha256.New(), uuid.Nil, data, 8).String()
}

// withDigests is ctx with a memory of what names stand for, so that a window
// of a batch asks once for each.
func withDigests(ctx context.Context) context.Context {
	return context.WithValue(ctx, digestsKey{}, map[string]string{})
}

type digestsKey struct{}

// digest is resolve with the memory of ctx, if it has one.
func (s *Scheduler) digest(ctx context.Context, name string) (string, error) {
	known, _ := ctx.Value(digestsKey{}).(map[string]string)
	if d, ok := known[name]; ok {
		return d, nil
	}
	d, err := s.resolve(ctx, name)
	if err == nil && known != nil {
		known[name] = d
	}
	return d, err
}

// resolve is the digest that the name of an image stands for now.
func (s *Scheduler) resolve(ctx context.Context, name string) (string, error) {
	if strings.HasPrefix(name, "sha256:") {
		_, err := s.Queue.Stat(ctx, queue.Images, name)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, job.ErrNotFound) {
			return "", fmt.Errorf("resolve image %s: %w", name, err)
		}
	}
	img, err := s.Queue.Image(ctx, name)
	switch {
	case err == nil:
		return img.Digest, nil
	case !errors.Is(err, job.ErrNotFound):
		return "", fmt.Errorf("resolve image %s: %w", name, err)
	}
	fix := "sandlot image pull " + name
	if _, ok := s.catalogue.Recipe(name); ok {
		fix = "sandlot image build " + name
	}
	return "", invalid("image", name, "is not stored here; run `%s` first", fix)
}

// storeSpec moves a large spec into an object. Its name holds the body's
// hash, so that a second submit under a key cannot change the first's.
func (s *Scheduler) storeSpec(ctx context.Context, rec *job.Record) error {
	data, err := json.Marshal(rec.Spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if len(data) <= queue.MaxInlineSpec {
		return nil
	}
	name := rec.ID + "/spec-" + rec.BodyHash[:16]
	if _, err := s.Queue.Put(ctx, queue.Inputs, name, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("store spec of job %s: %w", rec.ID, err)
	}
	limits := rec.Spec.Limits // a copy: the spec may be large
	rec.Spec, rec.SpecRef, rec.Limits = nil, name, &limits
	return nil
}

// summaryOf is what the index needs of a record.
func summaryOf(r job.Record) queue.Summary {
	sum := queue.Summary{
		ID: r.ID, Tenant: r.Tenant, Pool: r.Pool, Class: r.Class, State: r.State, Queue: r.Queue, Priority: r.Priority,
		Batch: r.Batch, Key: r.Key, Image: r.Image, Labels: r.Labels, AcceptedAt: r.AcceptedAt, UpdatedAt: r.UpdatedAt,
		ExpiresAt: r.ExpiresAt, NotBefore: r.NotBefore, Attempt: r.Attempt, Worker: r.Worker, Schedule: r.Schedule, RedriveOf: r.RedriveOf,
	}
	if r.Result != nil {
		sum.Blame, sum.Reason = r.Result.Verdict.Blame, r.Result.Verdict.Reason
	}
	return sum
}

// singleOnly checks what only a single submit or only a line may have.
func singleOnly(in api.Submit, batch bool) *api.Problem {
	switch {
	case batch && in.Key == "":
		return invalid("key", nil, "is missing; each line of a batch needs one that is unique in its batch")
	case batch && in.IdempotencyKey != "":
		return invalid("idempotency_key", in.IdempotencyKey, "is for single submits; a line of a batch is identified by its key")
	case !batch && in.Key != "":
		return invalid("key", in.Key, "names a line of a batch; a single submit takes idempotency_key")
	}
	return nil
}

// statusOf is 200 for a job that has ended, 202 for one that is under way.
func statusOf(state job.State) int {
	if state.Final() {
		return http.StatusOK
	}
	return http.StatusAccepted
}
