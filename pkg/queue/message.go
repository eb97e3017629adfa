package queue

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Headers of our messages. The schema number stands in every one.
const (
	headerSchema  = "Sandlot-Schema"
	headerState   = "Sandlot-State"
	headerSummary = "Sandlot-Summary"

	headerJob      = "Sandlot-Job"
	headerTenant   = "Sandlot-Tenant"
	headerTimer    = "Sandlot-Timer"
	headerReleased = "Sandlot-Released-At"
	headerTrace    = "traceparent"
	// headerRecord is the sequence of the record that a hint carries.
	headerRecord = "Sandlot-Record"
	// headerSize is set by the server where it leaves out a body.
	headerSize = "Nats-Msg-Size"

	// A removed record leaves a tombstone, which the server takes for a
	// purge marker of its own and forgets without another one.
	headerOperation = "KV-Operation"
	purged          = "PURGE"
)

// MaxRecord is the largest record that can be stored, encoded. Specs above
// MaxInlineSpec belong into an object of Inputs, outputs into Outputs.
const (
	MaxRecord     = 960 << 10
	MaxInlineSpec = 16 << 10
	maxSummary    = 48 << 10 // the server's limit for all headers is 64 KiB
)

// DefaultRetention is how long a final record is kept if it does not say.
const DefaultRetention = 24 * time.Hour

// Summary is what stands of a record in its headers, so that lists and passes
// over all records need not read them whole.
type Summary struct {
	ID         string            `json:"id"`
	Tenant     string            `json:"tenant"`
	Pool       string            `json:"pool"`
	Class      string            `json:"class"`
	State      job.State         `json:"state"`
	Queue      string            `json:"queue"`
	Priority   int               `json:"priority"`
	Batch      string            `json:"batch,omitempty"`
	Key        string            `json:"key,omitempty"`
	Group      string            `json:"group,omitempty"`
	Schedule   *job.Tick         `json:"schedule,omitempty"`
	RedriveOf  string            `json:"redrive_of,omitempty"`
	CanceledBy string            `json:"canceled_by,omitempty"`
	Image      job.Image         `json:"image"`
	Labels     map[string]string `json:"labels,omitempty"`
	AcceptedAt time.Time         `json:"accepted_at"`
	UpdatedAt  time.Time         `json:"updated_at"`
	ExpiresAt  time.Time         `json:"expires_at,omitzero"`
	NotBefore  time.Time         `json:"not_before,omitzero"`
	Budgets    job.Budgets       `json:"budgets,omitzero"`
	Spill      *job.Spill        `json:"spill,omitempty"`
	Attempt    int               `json:"attempt"`
	Worker     string            `json:"worker,omitempty"`
	// Life tells two lives of a worker with one name apart.
	Life string `json:"life,omitempty"`
	// Blame and Reason are those of the verdict of a final record.
	Blame       job.Blame  `json:"blame,omitempty"`
	Reason      job.Reason `json:"reason,omitempty"`
	TraceParent string     `json:"trace_parent,omitempty"`
}

// stored is a record as it lies in RES.
type stored struct {
	job.Record
	// Life is that of the worker that holds the claim.
	Life string `json:"life,omitempty"`

	seq uint64 // where it was read, 0 if new
}

func (s stored) summary() Summary {
	sum := Summary{
		ID: s.ID, Tenant: s.Tenant, Pool: s.Pool, Class: s.Class, State: s.State,
		Queue: s.Queue, Priority: s.Priority, Batch: s.Batch, Key: s.Key, Group: s.Group, Schedule: s.Schedule, RedriveOf: s.RedriveOf, CanceledBy: s.CanceledBy,
		Image: s.Image, Labels: s.Labels, AcceptedAt: s.AcceptedAt, UpdatedAt: s.UpdatedAt,
		ExpiresAt: s.ExpiresAt, NotBefore: s.NotBefore, Budgets: s.Budgets, Spill: s.Spill, Attempt: s.Attempt,
		Worker: s.Worker, Life: s.Life, TraceParent: s.TraceParent,
	}
	if s.Result != nil {
		sum.Blame, sum.Reason = s.Result.Verdict.Blame, s.Result.Verdict.Reason
	}
	return sum
}

// encode is the message that replaces the record at sequence s.seq.
func (q *Queue) encode(s stored) (*nats.Msg, error) {
	for _, name := range []string{s.ID, s.Tenant, s.Pool, s.Class, s.Queue} {
		if err := checkToken(name); err != nil {
			return nil, fmt.Errorf("record %s: %w", s.ID, err)
		}
	}
	if s.Priority < 0 || s.Priority > 9 {
		return nil, fmt.Errorf("record %s: priority %d is not 0 to 9", s.ID, s.Priority)
	}
	s.Schema = job.Schema
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", s.ID, err)
	}
	if len(body) > MaxRecord {
		return nil, fmt.Errorf("record %s has %d bytes, more than %d: %w", s.ID, len(body), MaxRecord, ErrTooLarge)
	}
	msg := q.message(recordSubject(q.shard(s.ID), s.Tenant, s.ID))
	msg.Data = body
	msg.Header.Set(headerState, string(s.State))
	if err := setSummary(msg, s.summary()); err != nil {
		return nil, err
	}
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(s.seq, 10))
	if s.State.Final() {
		msg.Header.Set(jetstream.MsgTTLHeader, max(s.Retention.Round(time.Second), time.Second).String())
	}
	return msg, nil
}

// setSummary writes a summary into the headers of a message.
func setSummary(msg *nats.Msg, s Summary) error {
	summary, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("record %s: %w", s.ID, err)
	}
	if len(summary) > maxSummary {
		return fmt.Errorf("labels and key of record %s have %d bytes, more than %d: %w", s.ID, len(summary), maxSummary, ErrTooLarge)
	}
	msg.Header.Set(headerSummary, string(summary))
	return nil
}

// message is an empty one of the current schema.
func (q *Queue) message(subject string) *nats.Msg {
	msg := nats.NewMsg(subject)
	msg.Header.Set(headerSchema, strconv.Itoa(job.Schema))
	return msg
}

// hint is a message that says that a job deserves a look.
func (q *Queue) hint(subject string, sum Summary) *nats.Msg {
	msg := q.message(subject)
	msg.Header.Set(headerJob, sum.ID)
	msg.Header.Set(headerTenant, sum.Tenant)
	if sum.TraceParent != "" {
		msg.Header.Set(headerTrace, sum.TraceParent)
	}
	return msg
}

// checkSchema refuses what a later release wrote.
func checkSchema(h nats.Header) error {
	v, err := strconv.Atoi(h.Get(headerSchema))
	if err != nil {
		return fmt.Errorf("schema %q: %w", h.Get(headerSchema), job.ErrSchema)
	}
	return job.CheckSchema(v)
}

// decode reads a record; job.ErrNotFound for what is left of a removed one.
func decode(h nats.Header, body []byte, seq uint64) (stored, error) {
	if gone(h) {
		return stored{seq: seq}, job.ErrNotFound
	}
	if err := checkSchema(h); err != nil {
		return stored{seq: seq}, fmt.Errorf("decode record: %w", err)
	}
	s := stored{seq: seq}
	if err := json.Unmarshal(body, &s); err != nil {
		return stored{seq: seq}, fmt.Errorf("decode record: %w", err)
	}
	return s, nil
}

// gone reports whether a message says that its subject has none any more.
func gone(h nats.Header) bool {
	return h.Get(jetstream.MarkerReasonHeader) != "" || h.Get(headerOperation) == purged
}

func decodeSummary(h nats.Header) (Summary, error) {
	var sum Summary
	if err := checkSchema(h); err != nil {
		return sum, fmt.Errorf("decode summary: %w", err)
	}
	if err := json.Unmarshal([]byte(h.Get(headerSummary)), &sum); err != nil {
		return sum, fmt.Errorf("decode summary: %w", err)
	}
	return sum, nil
}

func (q *Queue) shard(id string) int { return shardOf(id, q.layout.shards) }
