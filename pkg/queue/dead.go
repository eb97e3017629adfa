package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// DLQ is an index of dead jobs: an entry each, with the summary of the record
// as it died, in the order in which they did. The record is what counts; an
// entry that a crash loses is given again by the reconcile pass.

func deadSubject(pool, tenant string) string { return "dlq." + pool + "." + tenant }

// Dead is an entry of the index of dead jobs.
type Dead struct {
	Summary        // as the job died
	Place   uint64 // in the index; a later entry has a greater one
}

// deadEntry lists a dead job. One death is one entry for two minutes.
func (q *Queue) deadEntry(s Summary) (*nats.Msg, error) {
	msg := q.hint(deadSubject(s.Pool, s.Tenant), s)
	if err := setSummary(msg, s); err != nil {
		return nil, err
	}
	msg.Header.Set(jetstream.MsgIDHeader, s.ID+"."+strconv.Itoa(s.Attempt))
	return msg, nil
}

// bury lists a job that has just died. Should that fail the reconcile pass
// does it.
func (q *Queue) bury(ctx context.Context, s stored) {
	msg, err := q.deadEntry(s.summary())
	if err == nil {
		_, err = q.publishOnce(ctx, msg, 2*time.Second)
	}
	if err != nil {
		q.log.Warn("list dead job", "job", s.ID, "error", err)
	}
}

// Bury lists dead jobs that the index lacks, and says how many those were.
// Jobs whose entries were dropped for their age, or because there were too
// many, are not listed again.
func (q *Queue) Bury(ctx context.Context, dead []Summary) (int, error) {
	missing, err := q.unlisted(ctx, dead)
	if err != nil {
		return 0, fmt.Errorf("look for dead jobs in their index: %w", err)
	}
	for i, s := range missing {
		msg, err := q.deadEntry(s)
		if err == nil {
			_, err = q.publish(ctx, msg)
		}
		if err != nil {
			return i, fmt.Errorf("list dead job %s: %w", s.ID, err)
		}
	}
	return len(missing), nil
}

// unlisted are those of dead jobs that should be in the index and are not.
func (q *Queue) unlisted(ctx context.Context, dead []Summary) ([]Summary, error) {
	info, err := q.streamInfo(ctx, deadStream, "dlq.>")
	if err != nil {
		return nil, err
	}
	missing := make(map[string]Summary, len(dead))
	for _, s := range dead {
		missing[s.ID] = s
	}
	oldest := map[string]time.Time{} // by subject
	err = q.scan(ctx, deadStream, "dlq.>", func(m message) {
		delete(missing, m.header.Get(headerJob))
		if _, known := oldest[m.subject]; !known {
			oldest[m.subject] = m.at
		}
	})
	if err != nil {
		return nil, err
	}
	crowded := info.Config.MaxBytes > 0 && info.State.Bytes > uint64(info.Config.MaxBytes)/10*9
	var left []Summary
	for _, s := range missing {
		subject := deadSubject(s.Pool, s.Tenant)
		first := oldest[subject]
		if crowded {
			first = info.State.FirstTime
		}
		full := crowded || int64(info.State.Subjects[subject]) >= info.Config.MaxMsgsPerSubject
		if time.Since(s.UpdatedAt) < info.Config.MaxAge && (!full || !s.UpdatedAt.Before(first)) {
			left = append(left, s)
		}
	}
	slices.SortFunc(left, func(a, b Summary) int { return a.UpdatedAt.Compare(b.UpdatedAt) })
	return left, nil
}

// DeadQuery says which entries of the index are wanted.
type DeadQuery struct {
	Tenant string
	Pool   string // every pool if empty
	// OldestFirst turns the order around, which is newest first.
	OldestFirst bool
	// After is the place of the last entry already known, 0 for none.
	After uint64
	Limit int
	// Want picks entries; nil for all.
	Want func(Summary) bool
}

// Dead is a page of the index of dead jobs; more says that others follow.
func (q *Queue) Dead(ctx context.Context, ask DeadQuery) (page []Dead, more bool, err error) {
	if ask.Pool == "" {
		ask.Pool = EveryPool
	} else if err := checkToken(ask.Pool); err != nil {
		return nil, false, nil //nolint:nilerr // no pool has this name, so no job died there
	}
	read := q.deadBackwards
	if ask.OldestFirst {
		read = q.deadForwards
	}
	if page, err = read(ctx, ask, ask.Limit+1); err != nil {
		return nil, false, fmt.Errorf("list dead jobs: %w", err)
	}
	if len(page) > ask.Limit {
		return page[:ask.Limit], true, nil
	}
	return page, false, nil
}

// enough ends a look at the index.
var errEnough = errors.New("enough")

func (q *Queue) deadForwards(ctx context.Context, ask DeadQuery, n int) ([]Dead, error) {
	var found []Dead
	err := q.deadBetween(ctx, ask, ask.After+1, math.MaxUint64, func(d Dead) error {
		if found = append(found, d); len(found) == n {
			return errEnough
		}
		return nil
	})
	return found, err
}

const (
	deadWindow    = 1 << 10
	maxDeadWindow = 1 << 16
)

// deadBackwards reads windows of the index, each from its beginning on, since
// a stream cannot be read backwards. They grow, as there may be gaps.
func (q *Queue) deadBackwards(ctx context.Context, ask DeadQuery, n int) ([]Dead, error) {
	info, err := q.streamInfo(ctx, deadStream, "")
	if err != nil {
		return nil, err
	}
	end := info.State.LastSeq + 1
	if ask.After > 0 {
		end = min(end, ask.After)
	}
	var found []Dead
	for window := uint64(deadWindow); end > info.State.FirstSeq && len(found) < n; window = min(2*window, maxDeadWindow) {
		begin := info.State.FirstSeq
		if end > window {
			begin = max(begin, end-window)
		}
		var some []Dead
		err := q.deadBetween(ctx, ask, begin, end, func(d Dead) error {
			if some = append(some, d); len(some) > n { // the latest count
				some = slices.Delete(some, 0, 1)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.Reverse(some)
		found = append(found, some...)
		end = begin
	}
	return found[:min(n, len(found))], nil
}

// deadBetween calls fn for the entries that are wanted from a place on, up to
// an end that is not included, until it has enough.
func (q *Queue) deadBetween(ctx context.Context, ask DeadQuery, place, end uint64, fn func(Dead) error) error {
	filter := deadSubject(ask.Pool, ask.Tenant)
	for {
		page, more, err := q.batch(ctx, deadStream, batchRequest{Seq: place, NextFor: filter, Batch: 256})
		if err != nil {
			return err
		}
		for _, m := range page {
			if m.seq >= end {
				return nil
			}
			place = m.seq + 1
			d, err := deadOf(m)
			if err != nil {
				q.log.Error("unreadable entry of a dead job", "place", m.seq, "error", err)
				continue
			}
			if ask.Want != nil && !ask.Want(d.Summary) {
				continue
			}
			if err := fn(d); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
}

// deadOf reads an entry. One of a release that stored no summary tells what
// its subject does.
func deadOf(m message) (Dead, error) {
	if m.header.Get(headerSummary) == "" {
		pool, _, _ := strings.Cut(strings.TrimPrefix(m.subject, "dlq."), ".")
		return Dead{Summary: Summary{ID: m.header.Get(headerJob), Tenant: m.header.Get(headerTenant), Pool: pool, State: job.Dead,
			Blame: job.BlamePlatform, UpdatedAt: m.at}, Place: m.seq}, checkSchema(m.header)
	}
	sum, err := decodeSummary(m.header)
	return Dead{Summary: sum, Place: m.seq}, err
}

// DeadCount is how many entries the index has of a pool and a tenant.
type DeadCount struct {
	Pool, Tenant string
	Entries      uint64
}

// CountDead counts the index.
func (q *Queue) CountDead(ctx context.Context) ([]DeadCount, error) {
	info, err := q.streamInfo(ctx, deadStream, "dlq.>")
	if err != nil {
		return nil, fmt.Errorf("count dead jobs: %w", err)
	}
	var all []DeadCount
	for subject, n := range info.State.Subjects {
		if parts := strings.Split(subject, "."); len(parts) == 3 {
			all = append(all, DeadCount{parts[1], parts[2], n})
		}
	}
	return all, nil
}
