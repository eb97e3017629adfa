package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of an atomic batch (ADR-50 of NATS), for which the client has none.
const (
	headerBatch       = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
	// atomicMost is how many messages one batch carries; the server takes
	// 1,000, and holds them in memory until the last.
	atomicMost = 256
)

const (
	// codeBatchRepeats: a message of the batch is stored already, by its
	// Msg-Id; then nothing of the batch is stored.
	codeBatchRepeats jetstream.ErrorCode = 10201
	// codeRepeatInFlight: a message with this Msg-Id is under way.
	codeRepeatInFlight jetstream.ErrorCode = 10158
	// codeBatchIncomplete: a part of the batch did not arrive.
	codeBatchIncomplete jetstream.ErrorCode = 10176
)

// publishAtomic stores all of the messages, at most atomicMost, or none. It
// tries once and waits at most d for the answer.
func (q *Queue) publishAtomic(ctx context.Context, msgs []*nats.Msg, d time.Duration) (last uint64, err error) {
	if len(msgs) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	id := uuid.NewString()
	for i, msg := range msgs {
		msg.Header.Set(headerBatch, id)
		msg.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
	}
	final := msgs[len(msgs)-1]
	final.Header.Set(headerBatchCommit, "1")
	defer func() {
		for _, msg := range msgs { // the caller may send them once more, one by one
			msg.Header.Del(headerBatch)
			msg.Header.Del(headerBatchSeq)
			msg.Header.Del(headerBatchCommit)
		}
	}()
	for _, msg := range msgs[:len(msgs)-1] {
		if err := q.nc.PublishMsg(msg); err != nil {
			return 0, fmt.Errorf("publish batch: %w", err)
		}
	}
	answer, err := q.nc.RequestMsgWithContext(ctx, final)
	if err != nil {
		return 0, fmt.Errorf("publish batch: %w", err)
	}
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("publish batch: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Sequence, nil
}
