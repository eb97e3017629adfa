package gvisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// idleSpares makes some whose boots fail and are counted; nobody boots unless
// told.
func idleSpares(t *testing.T, most int, boots *int) *spares {
	p := newSpares(most, slog.New(slog.NewTextHandler(t.Output(), nil)), func(context.Context, string, shape) (*sandbox, error) {
		*boots++
		return nil, errors.New("no")
	})
	p.short = func() bool { return false }
	return p
}

func named(name string) shape { return shape{image: job.Image{Name: name}} }

func TestBootsThatFailAreLeftAloneForAWhile(t *testing.T) {
	boots := 0
	p := idleSpares(t, 4, &boots)
	p.take(named("a"))
	now := time.Now()
	fail := func(at time.Time) {
		for range 20 {
			if of, k := p.next(at); k != nil {
				p.add(t.Context(), of, k)
			}
		}
	}
	fail(now)
	if boots != spareFailures {
		t.Errorf("%d boots were tried in a row, %d are to be", boots, spareFailures)
	}
	fail(now.Add(spareBreak / 2))
	if boots != spareFailures {
		t.Error("it did not pause")
	}
	fail(now.Add(spareBreak + time.Second))
	if boots != 2*spareFailures {
		t.Errorf("%d boots after the pause", boots-spareFailures)
	}
	if got := time.Until(p.resume); got < 2*spareBreak-time.Minute/2 || got > 2*spareBreak {
		t.Errorf("the second pause is %s, twice the first is wanted", got)
	}
}

func TestNothingIsBootedAheadWithoutMemory(t *testing.T) {
	boots := 0
	p := idleSpares(t, 4, &boots)
	p.take(named("a"))
	p.short = func() bool { return true }
	if _, k := p.next(time.Now()); k != nil {
		t.Error("a sandbox is to be booted although memory is short")
	}
	p.tidy(time.Now())
	if len(p.kinds) != 0 {
		t.Error("what was wanted is not forgotten")
	}
}

func TestWhatIsKeptReadyIsBounded(t *testing.T) {
	boots := 0
	p := idleSpares(t, 3, &boots)
	for i := range 3 * spareKinds {
		p.take(named(fmt.Sprint(i)))
	}
	if len(p.kinds) != spareKinds {
		t.Errorf("%d shapes are remembered, %d may be", len(p.kinds), spareKinds)
	}
	n := 0
	for ; n < 100; n++ {
		if _, k := p.next(time.Now()); k == nil {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d are booted at once, 3 may be kept", n)
	}
	p.tidy(time.Now().Add(spareIdle + time.Second))
	if len(p.kinds) != 0 {
		t.Errorf("%d shapes are remembered after all were idle for long", len(p.kinds))
	}
}

func TestShapesShareTheRoom(t *testing.T) {
	boots := 0
	p := idleSpares(t, 3, &boots)
	a := &kind{want: 3, asked: time.Now(), idle: []spare{{&sandbox{}, time.Now()}, {&sandbox{}, time.Now()}, {&sandbox{}, time.Now()}}}
	p.kinds[named("a")] = a
	p.take(named("b"))
	p.take(named("b"))
	for range 2 {
		if of, k := p.next(time.Now()); k != nil && of != named("b") {
			t.Errorf("%v is booted", of)
		}
	}
	if b := p.kinds[named("b")]; len(a.idle) != 2 || b.booting != 1 || len(p.trash) != 1 {
		t.Errorf("%d of the first shape are left, %d of the second are booted, %d dropped; 2, 1 and 1 are wanted", len(a.idle), b.booting, len(p.trash))
	}
}
