package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// message is a stored message as it is read back.
type message struct {
	subject string
	header  nats.Header
	data    []byte
	seq     uint64
	at      time.Time
}

// last is the newest message of a subject; job.ErrNotFound if there is none.
// The answer may come from a replica that lags: what it finds must be
// followed by a compare-and-set, and a miss is asked again at the leader.
func (q *Queue) last(ctx context.Context, stream, subject string) (message, error) {
	m, err := q.request(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return message{}, fmt.Errorf("get %s: %w", subject, err)
	}
	found, err := direct(m)
	if errors.Is(err, job.ErrNotFound) {
		return q.lastAtLeader(ctx, stream, subject)
	}
	return found, err
}

// lastAtLeader is last, by the one who knows.
func (q *Queue) lastAtLeader(ctx context.Context, stream, subject string) (message, error) {
	return q.getAtLeader(ctx, stream, subject, map[string]any{"last_by_subj": subject})
}

// nextAtLeader is the first message of a subject from a sequence on, by the
// one who knows.
func (q *Queue) nextAtLeader(ctx context.Context, stream, subject string, from uint64) (message, error) {
	return q.getAtLeader(ctx, stream, subject, map[string]any{"next_by_subj": subject, "seq": from})
}

func (q *Queue) getAtLeader(ctx context.Context, stream, subject string, which map[string]any) (message, error) {
	ask, err := json.Marshal(which)
	if err != nil {
		return message{}, err
	}
	m, err := q.request(ctx, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return message{}, fmt.Errorf("get %s: %w", subject, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return message{}, fmt.Errorf("get %s: %w", subject, err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return message{}, job.ErrNotFound
		}
		return message{}, fmt.Errorf("get %s: %w", subject, answer.Error)
	}
	found := message{subject: answer.Message.Subject, data: answer.Message.Data, seq: answer.Message.Seq, at: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		if found.header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return message{}, fmt.Errorf("get %s: %w", subject, err)
		}
	}
	return found, nil
}

// request asks the server, again while it is away, until ctx ends.
func (q *Queue) request(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := q.nc.RequestWithContext(once, subject, data)
		cancel()
		if err == nil && m.Header.Get("Status") == "503" {
			err = nats.ErrNoResponders
		}
		if err == nil || !transient(err) {
			return m, err
		}
		if ended := pause(ctx, wait); ended != nil {
			return nil, fmt.Errorf("%w (%w)", ended, err)
		}
	}
}

// direct reads the answer to a direct get.
func direct(m *nats.Msg) (message, error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404":
		return message{}, job.ErrNotFound
	default:
		return message{}, fmt.Errorf("direct get: status %s %s", status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return message{}, fmt.Errorf("direct get: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return message{}, fmt.Errorf("direct get: %w", err)
	}
	return message{m.Header.Get(jetstream.SubjectHeader), m.Header, m.Data, seq, at}, nil
}

// batchRequest asks for many messages at once (ADR-31 of NATS).
type batchRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
}

// one asks for the first message from a sequence on, or for the last of one
// subject: what batch does, in one round trip that needs no inbox of its own.
// found is empty where there is none.
func (q *Queue) one(ctx context.Context, stream string, ask batchRequest) (found []message, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	subject, data := "$JS.API.DIRECT.GET."+stream, []byte(nil)
	if len(ask.MultiLast) == 1 {
		subject += "." + ask.MultiLast[0]
	} else if data, err = json.Marshal(batchRequest{Seq: ask.Seq, NextFor: ask.NextFor}); err != nil {
		return nil, err
	}
	m, err := q.request(ctx, subject, data)
	if err != nil {
		return nil, fmt.Errorf("get from %s: %w", stream, err)
	}
	switch found, err := direct(m); {
	case errors.Is(err, job.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get from %s: %w", stream, err)
	default:
		return []message{found}, nil
	}
}

// some is one or batch, whichever is enough.
func (q *Queue) some(ctx context.Context, stream string, ask batchRequest) (found []message, err error) {
	if ask.Batch == 1 || len(ask.MultiLast) == 1 {
		return q.one(ctx, stream, ask)
	}
	found, _, err = q.batch(ctx, stream, ask)
	return found, err
}

// batch is the answer; more says that there was more to come.
func (q *Queue) batch(ctx context.Context, stream string, ask batchRequest) (found []message, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	data, err := json.Marshal(ask)
	if err != nil {
		return nil, false, err
	}
	inbox := q.nc.NewInbox()
	// Room for all that is asked for, and the end: what does not fit is lost.
	answers := make(chan *nats.Msg, max(ask.Batch, len(ask.MultiLast))+2)
	sub, err := q.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, false, fmt.Errorf("get from %s: %w", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := q.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, data); err != nil {
		return nil, false, fmt.Errorf("get from %s: %w", stream, err)
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("get from %s: %w", stream, ctx.Err())
		}
		if m == nil { // the connection was closed
			return nil, false, fmt.Errorf("get from %s: %w", stream, nats.ErrConnectionClosed)
		}
		switch m.Header.Get("Status") {
		case "204": // the end
			return found, m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404":
			return found, false, nil
		case "503":
			return nil, false, fmt.Errorf("get from %s: %w", stream, nats.ErrNoResponders)
		}
		one, err := direct(m)
		if err != nil {
			return nil, false, fmt.Errorf("get from %s: %w", stream, err)
		}
		found = append(found, one)
	}
}

// scan calls fn for the messages that match filter, in their order, page by
// page. What comes in meanwhile may be seen or not.
func (q *Queue) scan(ctx context.Context, stream, filter string, fn func(message)) error {
	for seq := uint64(1); ; {
		page, more, err := q.batch(ctx, stream, batchRequest{Seq: seq, NextFor: filter, Batch: 256})
		if err != nil {
			return err
		}
		for _, m := range page {
			fn(m)
			seq = m.seq + 1
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
}

// read is a job's record; job.ErrNotFound, with the sequence of what stands
// in its place if anything does.
func (q *Queue) read(ctx context.Context, tenant, id string) (stored, error) {
	return q.readBy(ctx, tenant, id, q.last)
}

// readAtLeader is read, never behind.
func (q *Queue) readAtLeader(ctx context.Context, tenant, id string) (stored, error) {
	return q.readBy(ctx, tenant, id, q.lastAtLeader)
}

func (q *Queue) readBy(ctx context.Context, tenant, id string, get func(context.Context, string, string) (message, error)) (stored, error) {
	for _, name := range []string{tenant, id} {
		if checkToken(name) != nil {
			return stored{}, job.ErrNotFound // no record can have this name
		}
	}
	shard := q.shard(id)
	m, err := get(ctx, recordStream(shard), recordSubject(shard, tenant, id))
	if err != nil {
		return stored{}, err
	}
	return decode(m.header, m.data, m.seq)
}
