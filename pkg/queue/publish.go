package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of the server that decide what happens next.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10071
	// codeWriteInFlight: another write to the subject is under way.
	codeWriteInFlight jetstream.ErrorCode = 10164
	codeStoreFailed   jetstream.ErrorCode = 10077
	codeNoResources   jetstream.ErrorCode = 10023
	codeNoStorage     jetstream.ErrorCode = 10047
	codeMaxBytes      jetstream.ErrorCode = 10122
)

// publish stores a message and returns its sequence. While the server is away
// it tries again until ctx ends, so every message must be safe to repeat: by
// its expected sequence, or by its Msg-Id. errMoved means that the expected
// sequence was wrong, perhaps because of our own write whose answer got lost.
func (q *Queue) publish(ctx context.Context, msg *nats.Msg) (uint64, error) {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		seq, err := q.tryPublish(ctx, msg)
		if err == nil {
			return seq, nil
		}
		switch {
		case inFlight(err):
			wait = time.Duration(5+rand.IntN(15)) * time.Millisecond
		case !transient(err):
			return 0, q.refused(msg, err)
		}
		if ended := pause(ctx, wait); ended != nil {
			return 0, fmt.Errorf("publish %s: %w (%w)", msg.Subject, ended, err)
		}
	}
}

func (q *Queue) tryPublish(ctx context.Context, msg *nats.Msg) (uint64, error) {
	if q.grouped(msg) {
		return q.publishInGroup(ctx, msg)
	}
	return q.publishOnce(ctx, msg, 2*time.Second)
}

// publishOnce tries once and waits at most d for the answer.
func (q *Queue) publishOnce(ctx context.Context, msg *nats.Msg, d time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	ack, err := q.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// published is the fate of one message of publishAll.
type published struct {
	seq uint64
	err error
}

// publishAll sends messages back to back, at most asyncWindow of them under
// way, and waits for all answers. Each is tried once.
func (q *Queue) publishAll(ctx context.Context, msgs []*nats.Msg) []published {
	for _, msg := range msgs {
		if msg != nil && q.grouped(msg) { // all of them are then
			return q.publishInGroups(ctx, msgs)
		}
	}
	return q.publishEach(ctx, msgs)
}

func (q *Queue) publishEach(ctx context.Context, msgs []*nats.Msg) []published {
	futures := make([]jetstream.PubAckFuture, len(msgs))
	out := make([]published, len(msgs))
	for i, msg := range msgs {
		if msg == nil {
			continue
		}
		if out[i].err = ctx.Err(); out[i].err == nil {
			futures[i], out[i].err = q.js.PublishMsgAsync(msg, jetstream.WithStallWait(5*time.Second), jetstream.WithRetryAttempts(0))
		}
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		select {
		case ack := <-f.Ok():
			out[i].seq = ack.Sequence
		case err := <-f.Err():
			out[i].err = err
			if !transient(err) {
				out[i].err = q.refused(f.Msg(), err)
			}
		case <-ctx.Done():
			out[i].err = context.Cause(ctx)
		}
	}
	return out
}

// refused says in our terms why the server did not store a message.
func (q *Queue) refused(msg *nats.Msg, err error) error {
	if isCode(err, codeWrongLastSequence) {
		return errMoved
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		if broken(api) {
			q.trouble.note(api.Description)
		}
		switch {
		case api.ErrorCode == codeStoreFailed, api.ErrorCode == codeNoResources,
			api.ErrorCode == codeNoStorage, api.ErrorCode == codeMaxBytes, api.Code == 429:
			return &FullError{What: fmt.Sprintf("%s refused: %s", family(msg.Subject), api.Description), RetryAfter: 2 * time.Second,
				Lane: strings.HasPrefix(msg.Subject, "in.") && strings.Contains(api.Description, "per subject")}
		}
	}
	return fmt.Errorf("publish %s: %w", msg.Subject, err)
}

// broken reports whether the server could not write, as on a full disk. Then
// it writes nothing more to that stream until it is started again. At a limit
// of the stream it says so with the same code.
func broken(err *jetstream.APIError) bool {
	return err.ErrorCode == codeStoreFailed && !strings.HasPrefix(err.Description, "maximum ")
}

// family is what a subject is for, for messages to people.
func family(subject string) string {
	for i := range subject {
		if subject[i] != '.' {
			continue
		}
		switch subject[:i] {
		case "r":
			return "record"
		case "in", "rdy":
			return "hint"
		case "sched":
			return "timer"
		}
		break
	}
	return "message"
}

// inFlight reports whether another write stands in the way that is not stored
// yet: it will be over in a moment.
func inFlight(err error) bool {
	return isCode(err, codeWriteInFlight) || isCode(err, codeRepeatInFlight)
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
