package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Lane is a line of hints in INTAKE that are released one after the other.
type Lane struct {
	Subject  string
	Tenant   string
	Queue    string
	Priority int
	Backlog  uint64 // hints that wait
}

// Lanes lists the lanes of the pool and class in which hints wait.
func (q *Queue) Lanes(ctx context.Context) ([]Lane, error) {
	prefix := "in." + q.cfg.Pool + "." + q.cfg.Class + "."
	info, err := q.streamInfo(ctx, intakeStream, prefix+">")
	if err != nil {
		return nil, fmt.Errorf("list lanes: %w", err)
	}
	lanes := make([]Lane, 0, len(info.State.Subjects))
	for subject, n := range info.State.Subjects {
		parts := strings.Split(strings.TrimPrefix(subject, prefix), ".")
		if len(parts) != 3 {
			continue
		}
		priority, err := strconv.Atoi(parts[2])
		if err != nil {
			continue
		}
		lanes = append(lanes, Lane{subject, parts[0], parts[1], priority, n})
	}
	slices.SortFunc(lanes, func(a, b Lane) int { return strings.Compare(a.Subject, b.Subject) })
	return lanes, nil
}

// Out is how many hints of a queue are in READY: they wait there for a slot,
// or their job runs.
type Out struct {
	Tenant, Queue string
	Hints         uint64
}

// Out counts what is in READY of the pool and class.
func (q *Queue) Out(ctx context.Context) ([]Out, error) {
	prefix := "rdy." + q.cfg.Pool + "." + q.cfg.Class + "."
	info, err := q.streamInfo(ctx, readyStream(q.cfg.Pool), prefix+">")
	if err != nil {
		return nil, fmt.Errorf("count READY: %w", err)
	}
	counts := map[Out]uint64{}
	for subject, n := range info.State.Subjects {
		// Another release may have written subjects of another form.
		if parts := strings.Split(strings.TrimPrefix(subject, prefix), "."); len(parts) == 3 {
			counts[Out{Tenant: parts[0], Queue: parts[1]}] += n
		}
	}
	list := make([]Out, 0, len(counts))
	for o, n := range counts {
		o.Hints = n
		list = append(list, o)
	}
	return list, nil
}

// streamInfo asks for the state of a stream, with the counts of the subjects
// that match filter. The first 100,000 of them come in the first answer; what
// is left is seen when those are done.
func (q *Queue) streamInfo(ctx context.Context, stream, filter string) (*jetstream.StreamInfo, error) {
	info, _, err := q.streamInfoFrom(ctx, stream, filter, 0)
	return info, err
}

// subjects counts the messages of the subjects that match filter, page by
// page: of those after the first so many; total is how many there are in all.
func (q *Queue) subjects(ctx context.Context, stream, filter string, after int) (page map[string]uint64, total int, err error) {
	info, total, err := q.streamInfoFrom(ctx, stream, filter, after)
	if err != nil {
		return nil, 0, err
	}
	return info.State.Subjects, total, nil
}

func (q *Queue) streamInfoFrom(ctx context.Context, stream, filter string, after int) (info *jetstream.StreamInfo, total int, err error) {
	var ask []byte
	if filter != "" {
		if ask, err = json.Marshal(map[string]any{"subjects_filter": filter, "offset": after}); err != nil {
			return nil, 0, err
		}
	}
	m, err := q.request(ctx, "$JS.API.STREAM.INFO."+stream, ask)
	if err != nil {
		return nil, 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
		jetstream.StreamInfo
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	if answer.Error != nil {
		return nil, 0, fmt.Errorf("stream %s: %w", stream, answer.Error)
	}
	return &answer.StreamInfo, answer.Total, nil
}

// Depth is what stands in READY.
type Depth struct {
	Waiting int // released, not yet delivered
	Held    int // delivered, not yet acknowledged
	Asking  int // free slots that wait for a hint
}

// Depth asks how full READY is.
func (q *Queue) Depth(ctx context.Context) (Depth, error) {
	info, err := q.readyInfo(ctx)
	if err != nil {
		return Depth{}, err
	}
	return Depth{Waiting: int(info.NumPending), Held: info.NumAckPending, Asking: info.NumWaiting}, nil
}

// readyInfo is what the server says of the consumer that slots pull from.
func (q *Queue) readyInfo(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	m, err := q.request(ctx, "$JS.API.CONSUMER.INFO."+readyStream(q.cfg.Pool)+"."+readyConsumer(q.cfg.Class), nil)
	if err != nil {
		return nil, fmt.Errorf("depth of READY: %w", err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		jetstream.ConsumerInfo
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("depth of READY: %w", err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("depth of READY: %w", answer.Error)
	}
	return &answer.ConsumerInfo, nil
}

// Released is what became of the head of a lane.
type Released struct {
	Released int // hints that are in READY now
	Dropped  int // hints of jobs that need none: ended, running, not due, gone
}

// Release moves up to n hints from the head of a lane to READY, in order, and
// removes them from the lane. A crash in between repeats hints, which READY
// tells by their Msg-Id for two minutes, and the record after that.
// job.ErrLostClaim: the lease is lost. job.ErrFull: READY is.
func (q *Queue) Release(ctx context.Context, l *Lease, lane Lane, n int) (Released, error) {
	heads, err := q.heads(ctx, l, lane, n)
	if err != nil {
		return Released{}, fmt.Errorf("release: %w", err)
	}
	if len(heads) == 0 {
		return Released{}, nil
	}
	records, err := q.recordsOf(ctx, heads)
	if err != nil {
		return Released{}, fmt.Errorf("release: %w", err)
	}
	now := time.Now().UTC()
	msgs := make([]*nats.Msg, len(heads))
	for i, head := range heads {
		if rec, ok := records[head.header.Get(headerJob)]; ok && wanted(rec.Summary, now) {
			rec.Queue = lane.Queue // all that is known of a record of a later release
			msgs[i] = q.released(rec, head, now)
		}
	}
	return q.move(ctx, l, lane, heads, msgs)
}

// heads are the first n hints of a lane.
func (q *Queue) heads(ctx context.Context, l *Lease, lane Lane, n int) ([]message, error) {
	l.mu.Lock()
	from := l.cut[lane.Subject] + 1
	l.mu.Unlock()
	heads, _, err := q.batch(ctx, intakeStream, batchRequest{Seq: from, NextFor: lane.Subject, Batch: n})
	if err != nil || len(heads) > 0 || !q.layout.replicated() {
		return heads, err
	}
	// Perhaps the one who answered has not heard of them yet.
	head, err := q.nextAtLeader(ctx, intakeStream, lane.Subject, from)
	if errors.Is(err, job.ErrNotFound) {
		return nil, nil
	}
	return []message{head}, err
}

// wanted reports whether a job needs its hint in READY.
func wanted(s Summary, now time.Time) bool {
	return (s.State == job.Queued || s.State == job.Retrying) && s.NotBefore.Sub(now) <= shortWait
}

// released is a hint as it goes to READY. Its Msg-Id names the hint that it
// was made from, so that releasing the same one twice is told apart from a
// new hint for the same attempt. It carries the record along where that is
// small, so that who takes it need not read it.
func (q *Queue) released(s known, head message, now time.Time) *nats.Msg {
	msg := q.hint(readySubject(q.cfg.Pool, q.cfg.Class, s.Tenant, s.Queue, imageToken(s.Image.Digest)), s.Summary)
	if len(s.body) > 0 && len(s.body) <= maxCarried {
		msg.Data = s.body
		msg.Header.Set(headerRecord, strconv.FormatUint(s.seq, 10))
	}
	msg.Header.Set(headerReleased, now.Format(time.RFC3339Nano))
	msg.Header.Set(jetstream.MsgIDHeader, s.ID+"."+strconv.Itoa(s.Attempt+1)+"."+strconv.FormatUint(head.seq, 10))
	return msg
}

// move publishes msgs, where there are any, and cuts the heads that were seen
// to off the lane, up to the first that was not.
func (q *Queue) move(ctx context.Context, l *Lease, lane Lane, heads []message, msgs []*nats.Msg) (Released, error) {
	var out Released
	answers := l.publish(ctx, msgs)
	var failed error
	var cut uint64
	for i, a := range answers {
		if a.err != nil {
			failed = a.err
			break
		}
		cut = heads[i].seq
		if msgs[i] == nil {
			out.Dropped++
		} else {
			out.Released++
		}
	}
	if cut > 0 {
		if err := q.cutLane(ctx, lane, cut); err != nil {
			return out, fmt.Errorf("release: %w", err)
		}
		l.noteCut(lane, cut)
	}
	if errors.Is(failed, errMoved) {
		failed = job.ErrLostClaim
	}
	if failed != nil {
		return out, fmt.Errorf("release: %w", failed)
	}
	return out, nil
}

// cutLane removes the hints of a lane up to and including seq.
func (q *Queue) cutLane(ctx context.Context, lane Lane, seq uint64) error {
	ask, err := json.Marshal(map[string]any{"filter": lane.Subject, "seq": seq + 1})
	if err != nil {
		return err
	}
	m, err := q.request(ctx, "$JS.API.STREAM.PURGE."+intakeStream, ask)
	if err != nil {
		return fmt.Errorf("cut lane %s: %w", lane.Subject, err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("cut lane %s: %w", lane.Subject, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("cut lane %s: %w", lane.Subject, answer.Error)
	}
	return nil
}

// known is a record as the release knows it.
type known struct {
	Summary
	body []byte // as it is stored
	seq  uint64
}

// maxCarried is how large a record may be that its hint carries.
const maxCarried = 8 << 10

// recordsOf reads the records that hints speak of, by job. Those that are
// gone are missing.
func (q *Queue) recordsOf(ctx context.Context, hints []message) (map[string]known, error) {
	subjects := make([][]string, q.layout.shards)
	for _, h := range hints {
		tenant, id := h.header.Get(headerTenant), h.header.Get(headerJob)
		if checkToken(tenant) == nil && checkToken(id) == nil {
			s := q.shard(id)
			subjects[s] = append(subjects[s], recordSubject(s, tenant, id))
		}
	}
	found := make(map[string]known, len(hints))
	for shard, names := range subjects {
		slices.Sort(names)
		for some := range slices.Chunk(slices.Compact(names), 64) {
			if err := q.someRecords(ctx, shard, some, found); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

func (q *Queue) someRecords(ctx context.Context, shard int, subjects []string, found map[string]known) error {
	page, _, err := q.batch(ctx, recordStream(shard), batchRequest{MultiLast: subjects})
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(page))
	for _, m := range page {
		sum, ok := q.note(m, found)
		// A replica that lags may show a job in hand that waits by now: its
		// hint must not be dropped for that.
		seen[m.subject] = !q.layout.replicated() || !ok || sum.State.Final() || wanted(sum, time.Now())
	}
	for _, subject := range subjects { // the others are asked for again at the leader
		if seen[subject] {
			continue
		}
		m, err := q.lastAtLeader(ctx, recordStream(shard), subject)
		if errors.Is(err, job.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		q.note(m, found)
	}
	return nil
}

// note adds a record to those that were found. A record of a later release
// counts as one that waits: there may be a worker that can read it, and its
// hint must not be lost because we cannot. Only a record of our own schema is
// carried along by its hint, whose schema it then shares.
func (q *Queue) note(m message, found map[string]known) (Summary, bool) {
	sum, err := decodeSummary(m.header)
	rec := known{Summary: sum}
	switch {
	case errors.Is(err, job.ErrSchema) && !gone(m.header):
		parts := strings.Split(m.subject, ".") // r.<shard>.<tenant>.<job>
		rec.Summary = Summary{ID: parts[3], Tenant: parts[2], Pool: q.cfg.Pool, Class: q.cfg.Class, State: job.Queued}
	case err != nil:
		return sum, false
	case m.header.Get(headerSchema) == strconv.Itoa(job.Schema):
		rec.body, rec.seq = m.data, m.seq
	}
	found[rec.ID] = rec
	return rec.Summary, true
}
