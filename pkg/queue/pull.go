package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// A slot that is free has exactly one request for one hint outstanding: no
// more, or hints would wait in the hands of a worker that has no room. The
// requests are made here and not by the client's consumers, which ask ahead
// and forget what arrives while they are being stopped.

const (
	pullExpiry = 30 * time.Second
	pullBeat   = 5 * time.Second
)

// pullers are the idle ones, one per slot and line at most.
type pullers struct {
	mu   sync.Mutex
	idle map[line][]*puller
}

// line is where slots wait for the jobs of one class.
type line struct{ pool, class string }

// puller asks for one hint at a time.
type puller struct {
	q     *Queue
	line  line
	sub   *nats.Subscription
	inbox string
	n     int // of requests
	// subject and ask make a request.
	subject string
	ask     []byte
}

var errPullAgain = errors.New("pull again")

// pullAny waits for one hint of any of the classes. Where several lines answer
// at once, all but one give their hint back.
func (q *Queue) pullAny(ctx context.Context, pool string, classes []string) (*nats.Msg, error) {
	if len(classes) == 1 {
		return q.pull(ctx, line{pool, classes[0]})
	}
	type answer struct {
		m   *nats.Msg
		err error
	}
	answers := make(chan answer, len(classes))
	ctx, stop := context.WithCancelCause(ctx)
	for _, class := range classes {
		go func() {
			m, err := q.pull(ctx, line{pool, class})
			answers <- answer{m, err}
		}()
	}
	first := <-answers
	stop(errPullAgain)
	for range len(classes) - 1 {
		if a := <-answers; a.m != nil {
			if first.m != nil {
				_ = q.giveBack(a.m.Reply, 0)
				continue
			}
			first = a
		}
	}
	return first.m, first.err
}

// pull waits for one hint.
func (q *Queue) pull(ctx context.Context, from line) (*nats.Msg, error) {
	for {
		p, err := q.puller(from)
		if err == nil {
			var m *nats.Msg
			if m, err = p.next(ctx); err == nil {
				q.pullers.put(p)
				return m, nil
			}
			p.discard()
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return nil, fmt.Errorf("pull: %w", err)
		}
		if !errors.Is(err, errPullAgain) {
			q.log.Debug("pull", "error", err)
			if ended := pause(ctx, 100*time.Millisecond); ended != nil {
				return nil, ended
			}
		}
	}
}

func (q *Queue) puller(from line) (*puller, error) {
	q.pullers.mu.Lock()
	defer q.pullers.mu.Unlock()
	if idle := q.pullers.idle[from]; len(idle) > 0 {
		p := idle[len(idle)-1]
		q.pullers.idle[from] = idle[:len(idle)-1]
		return p, nil
	}
	ask, err := json.Marshal(map[string]any{
		"batch": 1, "expires": pullExpiry, "idle_heartbeat": pullBeat, "group": priorityGroup, "priority": 0,
	})
	if err != nil {
		return nil, err
	}
	inbox := q.nc.NewInbox()
	sub, err := q.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return nil, err
	}
	return &puller{
		q: q, line: from, sub: sub, inbox: inbox, ask: ask,
		subject: "$JS.API.CONSUMER.MSG.NEXT." + readyStream(from.pool) + "." + readyConsumer(from.class),
	}, nil
}

func (all *pullers) put(p *puller) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.idle == nil {
		all.idle = map[line][]*puller{}
	}
	all.idle[p.line] = append(all.idle[p.line], p)
}

// next asks once and waits for the answer. After an error the puller must be
// discarded: its request may still be alive.
func (p *puller) next(ctx context.Context) (*nats.Msg, error) {
	p.n++
	reply := p.inbox + "." + strconv.Itoa(p.n)
	reconnected := p.q.Reconnected()
	if err := p.q.nc.PublishRequest(p.subject, reply, p.ask); err != nil {
		return nil, err
	}
	for {
		m, err := p.hear(ctx, reconnected)
		if err != nil {
			return nil, err
		}
		status := m.Header.Get("Status")
		switch {
		case status == "":
			return m, nil
		case m.Subject != reply || status == "100": // of an earlier request; a beat
			continue
		case status == "408" || status == "404":
			return nil, errPullAgain // nothing came
		default: // consumer moved, server goes down, too many wait, …
			return nil, fmt.Errorf("pull: status %s %s", status, m.Header.Get("Description"))
		}
	}
}

// hear waits for a message, no longer than two beats and the connection last.
func (p *puller) hear(ctx context.Context, reconnected <-chan struct{}) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*pullBeat+pullBeat/2, errors.New("pull: no sign of life"))
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-reconnected:
			cancel()
		case <-stop:
		}
	}()
	m, err := p.sub.NextMsgWithContext(ctx)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("pull: %w", err)
	}
	return m, err
}

// discard ends the request. A hint that is on its way then is given back, so
// that another slot gets it at once.
func (p *puller) discard() {
	if p.sub.Drain() != nil {
		return
	}
	for {
		m, err := p.sub.NextMsg(time.Second)
		if err != nil {
			return
		}
		if m.Header.Get("Status") == "" {
			_ = p.q.giveBack(m.Reply, 0)
		}
	}
}
