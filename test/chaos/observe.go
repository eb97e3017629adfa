package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// observer reads the streams on ways of its own, past all links: one
// connection to each node, since only the leader of a stream tells of it and
// nodes may be cut off from each other.
type observer struct {
	conns []*nats.Conn
	js    jetstream.JetStream // over all nodes, for reading what is stored
	all   *nats.Conn
	file  *os.File

	mu        sync.Mutex
	revisions []check.Revision
	known     map[place]bool
	state     map[string]string // of each job, as last heard
	stateSeq  map[string]uint64
	open      int // jobs that are not final
	leases    map[uint64]check.Lease
	releases  map[uint64]check.Release
	bad       []error
}

type place struct {
	stream string
	seq    uint64
}

func newObserver(c *cluster) (*observer, error) {
	o := &observer{
		known: map[place]bool{}, state: map[string]string{}, stateSeq: map[string]uint64{},
		leases: map[uint64]check.Lease{}, releases: map[uint64]check.Release{},
	}
	var err error
	if o.file, err = os.Create(filepath.Join(c.Out, "revisions.jsonl")); err != nil {
		return nil, err
	}
	options := []nats.Option{
		nats.Name("chaos observer"), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.Timeout(time.Second), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers(),
	}
	for _, n := range c.nodes {
		nc, err := nats.Connect("nats://"+n.address, options...)
		if err != nil {
			return nil, err
		}
		o.conns = append(o.conns, nc)
		for subject, hear := range map[string]nats.MsgHandler{tapped + "r.>": o.hear, "evt.lease.main": o.hearLease} {
			sub, err := nc.Subscribe(subject, hear)
			if err == nil {
				err = sub.SetPendingLimits(-1, -1)
			}
			if err != nil {
				return nil, err
			}
		}
		if err := nc.Flush(); err != nil {
			return nil, err
		}
	}
	if o.all, err = nats.Connect(c.direct(), options...); err != nil {
		return nil, err
	}
	o.js, err = jetstream.New(o.all)
	return o, err
}

func (o *observer) close() {
	for _, nc := range append(o.conns, o.all) {
		if nc != nil {
			nc.Close()
		}
	}
	_ = o.file.Close()
}

// hear takes a revision of a record.
func (o *observer) hear(m *nats.Msg) {
	r, err := check.DecodeRevision(check.Header(m.Header))
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.bad = append(o.bad, err)
		return
	}
	at := place{r.Stream, r.Seq}
	if o.known[at] {
		return
	}
	o.known[at] = true
	o.revisions = append(o.revisions, r)
	if line, err := json.Marshal(r); err == nil {
		_, _ = o.file.Write(append(line, '\n'))
	}
	o.note(r.Job, r.State, r.Seq)
}

// ended lists the final states.
var ended = map[string]bool{"succeeded": true, "failed": true, "canceled": true, "expired": true, "dead": true}

// note keeps count of the jobs that are not final.
func (o *observer) note(id, state string, seq uint64) {
	if seq < o.stateSeq[id] {
		return
	}
	before, known := o.state[id]
	live := func(known bool, s string) int {
		if known && s != "" && !ended[s] {
			return 1
		}
		return 0
	}
	o.open += live(true, state) - live(known, before)
	o.state[id], o.stateSeq[id] = state, seq
}

// underWay is how many jobs are not final, as far as was heard.
func (o *observer) underWay() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open
}

func (o *observer) hearLease(m *nats.Msg) {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.bad = append(o.bad, fmt.Errorf("lease: %w", err))
		return
	}
	o.leases[seq] = check.Lease{Seq: seq, Gone: m.Header.Get("Nats-Marker-Reason") != ""}
}

// watchReady looks at the hints in READY as often as it can, until ctx ends.
// Many are gone before they are seen; that is fine.
func (o *observer) watchReady(ctx context.Context) {
	for from := uint64(1); sleep(ctx, 100*time.Millisecond) == nil; {
		from = o.readReady(ctx, from)
	}
}

// readReady reads some hints from a sequence on, and says where to go on.
func (o *observer) readReady(ctx context.Context, from uint64) uint64 {
	inbox := o.all.NewInbox()
	sub, err := o.all.SubscribeSync(inbox)
	if err != nil {
		return from
	}
	defer sub.Unsubscribe()
	ask := fmt.Sprintf(`{"seq":%d,"batch":200,"next_by_subj":"rdy.>"}`, from)
	if o.all.PublishRequest("$JS.API.DIRECT.GET.READY_main", inbox, []byte(ask)) != nil {
		return from
	}
	for {
		wait, cancel := context.WithTimeout(ctx, time.Second)
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil || m.Header.Get("Status") != "" {
			return from
		}
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return from
		}
		from = seq + 1
		r := check.Release{Seq: seq, Job: m.Header.Get("Sandlot-Job")}
		r.Fence, _ = strconv.ParseUint(m.Header.Get("Nats-Expected-Last-Subject-Sequence"), 10, 64)
		if !strings.HasPrefix(m.Header.Get("Nats-Expected-Last-Subject-Sequence-Subject"), "lease.") {
			r.Fence = 0
		}
		if n, err := strconv.Atoi(m.Header.Get("Nats-Batch-Sequence")); err == nil && n > 1 {
			r.Follows = true
		}
		o.mu.Lock()
		o.releases[seq] = r
		o.mu.Unlock()
	}
}

// records reads every record there is from its stream.
func (o *observer) records(ctx context.Context) ([]check.Record, error) {
	var all []check.Record
	names := o.js.StreamNames(ctx, jetstream.WithStreamListSubject("r.>"))
	for name := range names.Name() {
		some, err := o.stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, some...)
	}
	return all, names.Err()
}

// stream reads one message after the other from the leader of the stream: what
// a consumer or a direct get would read may be behind.
func (o *observer) stream(ctx context.Context, name string) ([]check.Record, error) {
	var all []check.Record
	for seq := uint64(1); ; seq++ {
		ask := fmt.Sprintf(`{"seq":%d,"next_by_subj":"r.>"}`, seq)
		answer, err := o.all.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+name, []byte(ask))
		if err != nil {
			return nil, err
		}
		var got struct {
			Error   *jetstream.APIError `json:"error"`
			Message struct {
				Seq    uint64 `json:"seq"`
				Header []byte `json:"hdrs"`
				Data   []byte `json:"data"`
			} `json:"message"`
		}
		if err := json.Unmarshal(answer.Data, &got); err != nil {
			return nil, err
		}
		if got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return all, nil
		}
		if got.Error != nil {
			return nil, got.Error
		}
		seq = got.Message.Seq
		header, err := nats.DecodeHeadersMsg(got.Message.Header)
		if err != nil {
			return nil, err
		}
		r, there, err := check.DecodeRecord(check.Header(header), seq, got.Message.Data)
		if err != nil {
			return nil, err
		}
		if there {
			all = append(all, r)
		}
	}
}

// history is what was observed so far.
func (o *observer) history(h *check.History) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	h.Revisions = append([]check.Revision(nil), o.revisions...)
	for _, l := range o.leases {
		h.Leases = append(h.Leases, l)
	}
	for _, r := range o.releases {
		h.Releases = append(h.Releases, r)
	}
	return errors.Join(o.bad...)
}

// refresh takes in where the records stand, for what was not heard.
func (o *observer) refresh(records []check.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range records {
		o.note(r.ID, r.State, r.Seq)
	}
}
