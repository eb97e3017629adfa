package check

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Header is that of a message: names and values.
type Header map[string][]string

func (h Header) get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// LabelAsk is the label by which a record names the ask it came from.
const LabelAsk = "chaos-ask"

// DecodeRevision reads what the server republishes of a record.
func DecodeRevision(h Header) (Revision, error) {
	r := Revision{Stream: h.get("Nats-Stream"), Subject: h.get("Nats-Subject")}
	parts := strings.Split(r.Subject, ".") // r.<shard>.<tenant>.<job>
	if len(parts) != 4 || parts[0] != "r" {
		return r, fmt.Errorf("%q is not the subject of a record", r.Subject)
	}
	r.Tenant, r.Job = parts[2], parts[3]
	var err error
	if r.Seq, err = strconv.ParseUint(h.get("Nats-Sequence"), 10, 64); err != nil {
		return r, fmt.Errorf("sequence of %s: %w", r.Subject, err)
	}
	if r.Last, err = strconv.ParseUint(h.get("Nats-Last-Sequence"), 10, 64); err != nil {
		return r, fmt.Errorf("sequence before %s: %w", r.Subject, err)
	}
	if r.At, err = time.Parse(time.RFC3339Nano, h.get("Nats-Time-Stamp")); err != nil {
		return r, fmt.Errorf("time of %s: %w", r.Subject, err)
	}
	return r, r.describe(h)
}

// describe fills in what a revision says of the job.
func (r *Revision) describe(h Header) error {
	if h.get("KV-Operation") != "" || h.get("Nats-Marker-Reason") != "" {
		r.Removed = true
		return nil
	}
	var sum struct {
		ID      string            `json:"id"`
		Tenant  string            `json:"tenant"`
		State   string            `json:"state"`
		Attempt int               `json:"attempt"`
		Worker  string            `json:"worker"`
		Life    string            `json:"life"`
		Reason  string            `json:"reason"`
		Labels  map[string]string `json:"labels"`
	}
	if err := json.Unmarshal([]byte(h.get("Sandlot-Summary")), &sum); err != nil {
		return fmt.Errorf("summary of %s: %w", r.Subject, err)
	}
	if sum.ID != r.Job || sum.Tenant != r.Tenant || sum.State != h.get("Sandlot-State") {
		return fmt.Errorf("record %s says of itself that it is %s of %s, %s; its header says %s",
			r.Subject, sum.ID, sum.Tenant, sum.State, h.get("Sandlot-State"))
	}
	r.State, r.Attempt, r.Worker, r.Life = sum.State, sum.Attempt, sum.Worker, sum.Life
	r.Reason, r.Ask = sum.Reason, sum.Labels[LabelAsk]
	return nil
}

// DecodeRecord reads a record as it is stored; false for one that is removed.
func DecodeRecord(h Header, seq uint64, body []byte) (Record, bool, error) {
	if h.get("KV-Operation") != "" || h.get("Nats-Marker-Reason") != "" {
		return Record{}, false, nil
	}
	r := Record{Seq: seq}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, false, fmt.Errorf("record at %d: %w", seq, err)
	}
	if r.State != h.get("Sandlot-State") {
		return r, false, fmt.Errorf("record %s is %s, its header says %s", r.ID, r.State, h.get("Sandlot-State"))
	}
	return r, true, nil
}
