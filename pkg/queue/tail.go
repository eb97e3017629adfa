package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// tail reads a stream in order, from somewhere on and then live.
type tail struct {
	stream, filter string
	headersOnly    bool
	after          uint64 // the sequence that was the last to be seen
	each           func(message) error
	// caughtUp is called once, when all that was there at first is passed.
	// errTailDone, returned by it, ends the tail.
	caughtUp func() error
}

var errTailDone = errors.New("done")

// tail reads until ctx ends or a function returns an error. It begins anew
// where it was when the consumer is lost, the connection was, or a message is
// missing.
func (q *Queue) tail(ctx context.Context, t tail) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		before := t.after
		err := q.tailOnce(ctx, &t)
		if errors.Is(err, errTailDone) {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var own ownError
		if errors.As(err, &own) {
			return own.error
		}
		if t.after > before {
			wait = 50 * time.Millisecond
		}
		q.log.Debug("follow again", "stream", t.stream, "after", t.after, "error", err)
		if pause(ctx, wait) != nil {
			return context.Cause(ctx)
		}
	}
}

// ownError is one of the tail's own functions, not of the connection.
type ownError struct{ error }

func (q *Queue) tailOnce(ctx context.Context, t *tail) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reconnected := q.Reconnected()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-reconnected:
			cancel()
		case <-stop:
		}
	}()

	config := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, FilterSubject: t.filter, HeadersOnly: t.headersOnly,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	}
	if t.after > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, t.after+1
	}
	create, createCancel := context.WithTimeout(ctx, apiTimeout)
	consumer, err := q.js.CreateConsumer(create, t.stream, config)
	createCancel()
	if err != nil {
		return fmt.Errorf("follow %s: %w", t.stream, err)
	}
	defer q.forget(t.stream, consumer.CachedInfo().Name)
	if consumer.CachedInfo().NumPending == 0 {
		if err := t.caught(); err != nil {
			return err
		}
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessages(500), jetstream.PullHeartbeat(3*time.Second),
		jetstream.PullExpiry(30*time.Second), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("follow %s: %w", t.stream, err)
	}
	defer iter.Stop()
	for order := uint64(1); ; order++ {
		m, err := t.next(ctx, iter, consumer)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("follow %s: %w", t.stream, err)
		}
		if meta.Sequence.Consumer != order {
			return fmt.Errorf("follow %s: message %d instead of %d", t.stream, meta.Sequence.Consumer, order)
		}
		if err := t.each(message{m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp}); err != nil {
			return ownError{err}
		}
		t.after = meta.Sequence.Stream
		if meta.NumPending == 0 {
			if err := t.caught(); err != nil {
				return err
			}
		}
	}
}

// next is the next message. While the tail has not caught up it also looks
// from time to time whether there is anything left to come: the last of what
// was there may have been removed.
func (t *tail) next(ctx context.Context, iter jetstream.MessagesContext, consumer jetstream.Consumer) (jetstream.Msg, error) {
	for t.caughtUp != nil {
		short, cancel := context.WithTimeout(ctx, time.Second)
		m, err := iter.Next(jetstream.NextContext(short))
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return m, err
		}
		info, err := consumer.Info(ctx)
		if err != nil {
			return nil, err
		}
		if info.NumPending == 0 {
			if err := t.caught(); err != nil {
				return nil, err
			}
		}
	}
	return iter.Next(jetstream.NextContext(ctx))
}

func (t *tail) caught() error {
	if t.caughtUp == nil {
		return nil
	}
	f := t.caughtUp
	t.caughtUp = nil
	if err := f(); err != nil {
		if errors.Is(err, errTailDone) {
			return err
		}
		return ownError{err}
	}
	return nil
}

// forget removes a consumer early; the server would do so by itself.
func (q *Queue) forget(stream, consumer string) {
	if !q.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = q.js.DeleteConsumer(ctx, stream, consumer)
}
