package queue

import (
	"cmp"
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
	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Lane is a line of hints in INTAKE that are released one after the other.
type Lane struct {
	Subject  string
	Pool     string
	Class    string
	Tenant   string
	Queue    string
	Priority int
	Backlog  uint64 // hints that wait
}

// EveryPool and EveryClass stand for all there are.
const (
	EveryPool  = "*"
	EveryClass = "*"
)

// Lanes lists the lanes of a class of a pool in which hints wait.
func (q *Queue) Lanes(ctx context.Context, pool, class string) ([]Lane, error) {
	info, err := q.streamInfo(ctx, intakeStream, "in."+pool+"."+class+".>")
	if err != nil {
		return nil, fmt.Errorf("list lanes: %w", err)
	}
	lanes := make([]Lane, 0, len(info.State.Subjects))
	for subject, n := range info.State.Subjects {
		if lane, ok := LaneOf(subject); ok {
			lane.Backlog = n
			lanes = append(lanes, lane)
		}
	}
	slices.SortFunc(lanes, func(a, b Lane) int { return strings.Compare(a.Subject, b.Subject) })
	return lanes, nil
}

// Out is how many hints of a queue are in READY: they wait there for a slot,
// or their job runs.
type Out struct {
	Class, Tenant, Queue string
	Hints                uint64
}

// Out counts what is in READY of a pool.
func (q *Queue) Out(ctx context.Context, pool string) ([]Out, error) {
	prefix := "rdy." + pool + "."
	info, err := q.streamInfo(ctx, readyStream(pool), prefix+">")
	if err != nil {
		return nil, fmt.Errorf("count READY: %w", err)
	}
	counts := map[Out]uint64{}
	for subject, n := range info.State.Subjects {
		// Another release may have written subjects of another form.
		if parts := strings.Split(strings.TrimPrefix(subject, prefix), "."); len(parts) == 4 {
			counts[Out{Class: parts[0], Tenant: parts[1], Queue: parts[2]}] += n
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

// Depth is what stands in READY of a class.
type Depth struct {
	Waiting int // released, not yet delivered
	Held    int // delivered, not yet acknowledged
	Asking  int // free slots that wait for a hint
}

// Depth asks how full the READY of a pool is with hints of a class.
func (q *Queue) Depth(ctx context.Context, pool, class string) (Depth, error) {
	info, err := q.readyInfo(ctx, pool, class)
	if err != nil {
		return Depth{}, err
	}
	return Depth{Waiting: int(info.NumPending), Held: info.NumAckPending, Asking: info.NumWaiting}, nil
}

// readyInfo is what the server says of the consumer that slots pull from.
func (q *Queue) readyInfo(ctx context.Context, pool, class string) (*jetstream.ConsumerInfo, error) {
	m, err := q.request(ctx, "$JS.API.CONSUMER.INFO."+readyStream(pool)+"."+readyConsumer(class), nil)
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

// Turn is how many hints of a lane are next.
type Turn struct {
	Lane Lane
	N    int
}

// Released is what became of a turn.
type Released struct {
	Released int // hints that are in READY now
	Dropped  int // hints of jobs that need none: ended, running, not due, gone
	// Upto is when the last of them had come: no hint that is left in the
	// lane is older. Zero if there was none.
	Upto time.Time
}

// Release moves hints from the heads of lanes to READY, in the order of the
// turns, and removes them from the lanes. A crash in between repeats hints,
// which READY tells by their Msg-Id for two minutes, and the record after
// that. What is answered holds even if there is an error.
// job.ErrLostClaim: the lease is lost. job.ErrFull: READY is.
func (q *Queue) Release(ctx context.Context, l *Lease, turns ...Turn) ([]Released, error) {
	out := make([]Released, len(turns))
	heads := make([][]message, len(turns))
	err := sideBySide(ctx, len(turns), func(ctx context.Context, i int) (err error) {
		heads[i], err = q.heads(ctx, l, turns[i].Lane, turns[i].N)
		return err
	})
	if err != nil {
		return out, fmt.Errorf("release: %w", err)
	}
	all := slices.Concat(heads...)
	if len(all) == 0 {
		return out, nil
	}
	records, err := q.recordsOf(ctx, all)
	if err != nil {
		return out, fmt.Errorf("release: %w", err)
	}
	if err := q.lookAgain(ctx, all, records); err != nil {
		return out, fmt.Errorf("release: %w", err)
	}
	now := time.Now().UTC()
	msgs := make([]*nats.Msg, len(all))
	for i, head := range all {
		if rec, ok := records[head.header.Get(headerJob)]; ok && wanted(rec.Summary, now) && rec.waitsAt(head.subject) {
			msgs[i] = q.released(rec, head, now)
		}
	}
	if err := q.move(ctx, l, turns, heads, msgs, out); err != nil {
		return out, fmt.Errorf("release: %w", err)
	}
	return out, nil
}

// sideBySide calls fn for 0 to n-1, a few at a time, until one fails.
func sideBySide(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	if n == 1 {
		return fn(ctx, 0)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error { return fn(ctx, i) })
	}
	return group.Wait()
}

// heads are the first n hints of a lane.
func (q *Queue) heads(ctx context.Context, l *Lease, lane Lane, n int) ([]message, error) {
	l.mu.Lock()
	from := l.cut[lane.Subject] + 1
	l.mu.Unlock()
	heads, err := q.some(ctx, intakeStream, batchRequest{Seq: from, NextFor: lane.Subject, Batch: n})
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
	return (s.State == job.Queued || s.State == job.Retrying) && !s.waits(now)
}

// released is a hint as it goes to READY. Its Msg-Id names the hint that it
// was made from, so that releasing the same one twice is told apart from a
// new hint for the same attempt. It carries the record along where that is
// small, so that who takes it need not read it.
func (q *Queue) released(s known, head message, now time.Time) *nats.Msg {
	lane, _ := LaneOf(head.subject)
	msg := q.hint(readySubject(lane.Pool, lane.Class, lane.Tenant, lane.Queue, imageToken(s.Image.Digest)), s.Summary)
	if len(s.body) > 0 && len(s.body) <= maxCarried {
		msg.Data = s.body
		msg.Header.Set(headerRecord, strconv.FormatUint(s.seq, 10))
	}
	msg.Header.Set(headerReleased, now.Format(time.RFC3339Nano))
	msg.Header.Set(jetstream.MsgIDHeader, s.ID+"."+strconv.Itoa(s.Attempt+1)+"."+strconv.FormatUint(head.seq, 10))
	return msg
}

// move publishes msgs, where there are any, and cuts the heads that were seen
// to off their lanes, each up to the first that was not.
func (q *Queue) move(ctx context.Context, l *Lease, turns []Turn, heads [][]message, msgs []*nats.Msg, out []Released) error {
	answers := l.publish(ctx, msgs)
	var failed error
	cuts := make([]uint64, len(turns))
	next := 0
	for t, lane := range heads {
		first := next
		next += len(lane)
		for i, head := range lane {
			if err := answers[first+i].err; err != nil {
				failed = cmp.Or(failed, err)
				break
			}
			cuts[t], out[t].Upto = head.seq, head.at
			if msgs[first+i] == nil {
				out[t].Dropped++
			} else {
				out[t].Released++
			}
		}
	}
	err := sideBySide(ctx, len(turns), func(ctx context.Context, t int) error {
		if cuts[t] == 0 {
			return nil
		}
		if err := q.cutLane(ctx, turns[t].Lane, cuts[t]); err != nil {
			return err
		}
		l.noteCut(turns[t].Lane, cuts[t])
		return nil
	})
	if errors.Is(failed, errMoved) {
		failed = job.ErrLostClaim
	}
	return cmp.Or(failed, err)
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
	page, err := q.some(ctx, recordStream(shard), batchRequest{MultiLast: subjects})
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

// lookAgain reads records anew, at the leaders, that do not agree with where
// their hint lies: a replica that lags shows a job where it waited before it
// spilled over, and the hint that it got then must not be dropped for that.
func (q *Queue) lookAgain(ctx context.Context, hints []message, found map[string]known) error {
	if !q.layout.replicated() {
		return nil
	}
	for _, h := range hints {
		rec, ok := found[h.header.Get(headerJob)]
		if !ok || rec.waitsAt(h.subject) {
			continue
		}
		shard := q.shard(rec.ID)
		m, err := q.lastAtLeader(ctx, recordStream(shard), recordSubject(shard, rec.Tenant, rec.ID))
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
		rec.Summary = Summary{ID: parts[3], Tenant: parts[2], State: job.Queued}
	case err != nil:
		return sum, false
	case m.header.Get(headerSchema) == strconv.Itoa(job.Schema):
		rec.body, rec.seq = m.data, m.seq
	}
	found[rec.ID] = rec
	return rec.Summary, true
}

// LaneOf is the lane of a hint in INTAKE by its subject, without its backlog.
func LaneOf(subject string) (Lane, bool) {
	parts := strings.Split(subject, ".")
	if len(parts) != 6 || parts[0] != "in" {
		return Lane{}, false
	}
	priority, err := strconv.Atoi(parts[5])
	if err != nil || priority < 0 || priority > 9 {
		return Lane{}, false
	}
	return Lane{Subject: subject, Pool: parts[1], Class: parts[2], Tenant: parts[3], Queue: parts[4], Priority: priority}, true
}
