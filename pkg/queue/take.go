package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Delivery is a job that deserves to be claimed now.
type Delivery struct {
	// Record is as it was read: queued, or retrying and due.
	Record job.Record
	// ReleasedAt is when the scheduler released the hint, TakenAt when it
	// arrived here.
	ReleasedAt, TakenAt time.Time

	read stored
	ack  string // where the hint is acknowledged
}

// Take waits for exactly one job that may be claimed. A slot calls it when it
// is free, and only then. Hints that allow no claim are ended on the way.
func (q *Queue) Take(ctx context.Context, r *Registration) (Delivery, error) {
	for {
		m, err := q.pullAny(ctx, r.pool, r.classes)
		if err != nil {
			return Delivery{}, fmt.Errorf("take: %w", err)
		}
		d := Delivery{TakenAt: time.Now().UTC(), ack: m.Reply}
		if d.ReleasedAt, err = time.Parse(time.RFC3339Nano, m.Header.Get(headerReleased)); err != nil {
			d.ReleasedAt = d.TakenAt
		}
		// The hint is here; it is seen to even if ctx ends meanwhile.
		seeing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		ok, err := q.heed(seeing, r, m, &d)
		if err == nil && ok && ctx.Err() != nil {
			ok, err = false, q.Skip(seeing, d)
		}
		cancel()
		if err != nil {
			q.log.Warn("take", "job", m.Header.Get(headerJob), "error", err)
			_ = m.Respond([]byte(`-NAK {"delay": 1000000000}`))
		} else if ok {
			return d, nil
		}
	}
}

// advice is what a record allows whoever holds a hint of it to do.
type advice int

const (
	adviceClaim   advice = iota // take the next attempt
	adviceEnd                   // nothing is to be done: acknowledge
	adviceLater                 // not due: set the timer, acknowledge
	adviceSoon                  // due in a moment: give the hint back
	adviceLeave                 // somebody is at it: say nothing
	adviceAbandon               // its holder is lost: end that attempt first
	adviceExpire                // its time is over: end it first
)

// advise reads a record, as it stands, for the holder of a hint. held is asked
// only of a record that has a holder.
func advise(s Summary, now time.Time, held func() (bool, error)) (advice, error) {
	switch {
	case s.State.Final():
		return adviceEnd, nil
	case s.State == job.Queued, s.State == job.Retrying:
		if _, over := s.Budgets.Expiry(s.AcceptedAt, s.Attempt, now); over {
			return adviceExpire, nil
		}
		switch wait := s.NotBefore.Sub(now); {
		case wait <= 0:
			return adviceClaim, nil
		case wait <= shortWait:
			return adviceSoon, nil
		}
		return adviceLater, nil
	}
	there, err := held()
	if err != nil || there {
		return adviceLeave, err
	}
	return adviceAbandon, nil
}

// shortWait is what a hint waits for in READY instead of in DELAY, whose
// timers are not made for less.
const shortWait = time.Second

// heed does what the record allows; true if d may be claimed.
func (q *Queue) heed(ctx context.Context, r *Registration, m *nats.Msg, d *Delivery) (bool, error) {
	tenant, id := m.Header.Get(headerTenant), m.Header.Get(headerJob)
	if err := checkSchema(m.Header); err != nil {
		return false, err
	}
	if s, ok := carried(m); ok && s.Tenant == tenant && s.ID == id {
		d.Record, d.read = s.Record, s
		return true, nil
	}
	for latest := false; ; {
		read := q.read
		if latest {
			read = q.readAtLeader
		}
		s, err := read(ctx, tenant, id)
		if errors.Is(err, job.ErrNotFound) {
			return false, q.nc.Publish(m.Reply, []byte("+TERM"))
		}
		if err != nil {
			return false, err
		}
		now := time.Now()
		what, err := advise(s.summary(), now, func() (bool, error) { return q.heldFor(ctx, r, s) })
		if err != nil {
			return false, err
		}
		if what == adviceClaim && !s.summary().waitsAt(m.Subject) {
			if !latest && q.layout.replicated() {
				latest = true // it may be the hint that is newer
				continue
			}
			what = adviceEnd // it has spilled over, and has a hint there
		}
		switch what {
		case adviceClaim:
			d.Record, d.read = s.Record, s
			return true, nil
		case adviceEnd:
			return false, q.ackSoon(m.Reply)
		case adviceLater:
			if err := q.setTimer(ctx, s.summary()); err != nil {
				return false, err
			}
			return false, q.ack(ctx, m.Reply)
		case adviceSoon:
			return false, q.giveBack(m.Reply, s.NotBefore.Sub(now))
		case adviceLeave:
			if !latest && q.layout.replicated() {
				// To say nothing is right only if it is so by now.
				latest = true
				continue
			}
			return false, nil
		case adviceExpire:
			if _, err := q.expire(ctx, s, now); err != nil && !errors.Is(err, errMoved) {
				return false, err
			}
		case adviceAbandon:
			if _, err := q.abandon(ctx, s); err != nil && !errors.Is(err, errMoved) {
				return false, err
			}
			latest = true
		}
	}
}

// carried is the record of a hint as it was when it was released, if that
// allows to claim it and the hint comes for the first time. One that has
// changed since then refuses the claim, and the hint comes again.
func carried(m *nats.Msg) (stored, bool) {
	seq, err := strconv.ParseUint(m.Header.Get(headerRecord), 10, 64)
	if err != nil {
		return stored{}, false
	}
	if meta, err := m.Metadata(); err != nil || meta.NumDelivered > 1 {
		return stored{}, false
	}
	s, err := decode(m.Header, m.Data, seq)
	if err != nil {
		return stored{}, false
	}
	what, err := advise(s.summary(), time.Now(), func() (bool, error) { return true, nil })
	return s, err == nil && what == adviceClaim
}

// heldFor is holds, from the point of view of one worker: what it does not
// hold itself it does not hold.
func (q *Queue) heldFor(ctx context.Context, r *Registration, s stored) (bool, error) {
	if s.Life == r.life {
		return r.isHeld(s.ID, s.Attempt), nil
	}
	return q.holds(ctx, s.summary())
}

// Skip gives a delivery back unclaimed, so that another worker gets it soon.
func (q *Queue) Skip(_ context.Context, d Delivery) error {
	if err := q.giveBack(d.ack, 0); err != nil {
		return fmt.Errorf("skip job %s: %w", d.Record.ID, err)
	}
	return nil
}

// giveBack has a hint delivered again, after a while or at once. A delay is
// always named, however short: the server stores it, and forgets a hint that
// was given back without one when it restarts, until its ackWait is over.
func (q *Queue) giveBack(ack string, after time.Duration) error {
	return q.nc.Publish(ack, nak(after))
}

func nak(after time.Duration) []byte {
	return []byte(`-NAK {"delay": ` + strconv.FormatInt(int64(max(after, 1)), 10) + `}`)
}

// giveBackSurely is giveBack until the server has said that it heard it, or
// ctx ends. One that is only published is lost while the consumer's leader
// moves, and then the hint comes again only when its ackWait is over. Said
// twice it is another hint at worst.
func (q *Queue) giveBackSurely(ctx context.Context, ack string, after time.Duration) error {
	for {
		once, cancel := context.WithTimeout(ctx, time.Second)
		_, err := q.nc.RequestWithContext(once, ack, nak(after))
		cancel()
		if err == nil {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("give back: %w", err)
		}
	}
}

// ackSoon ends the hint of a job that is final, without waiting for the server
// to say so. If that gets lost the hint comes again and ends then.
func (q *Queue) ackSoon(reply string) error {
	if err := q.nc.Publish(reply, []byte("+ACK")); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}

// ack ends a hint and waits for the server to say so. The record says what is
// true, so an acknowledgement that is lost costs only another look.
func (q *Queue) ack(ctx context.Context, reply string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := q.nc.RequestWithContext(ctx, reply, []byte("+ACK")); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	return nil
}
