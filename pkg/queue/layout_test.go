package queue_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestLayoutHasTheNamesOfTheDesign(t *testing.T) {
	q := fresh(t)
	want := "[DELAY DLQ INTAKE LOGS READY_main RES_0 RES_1 RES_2 RES_3]"
	if got := fmt.Sprint(queue.StreamNames(q)); got != want {
		t.Fatalf("got %s", got)
	}
}

func TestOpeningTwiceChangesNothing(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server})
	accept(t, q, spec("one"))
	get(t, open(t, queue.Config{Server: server, Name: "other"}), "one")
	if err := q.Healthy(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestServerThatIsAwayIsNotTooOld(t *testing.T) {
	for version, want := range map[string]struct{ again, wrong bool }{
		"2.14.0": {}, "2.15.2": {}, "3.0.0-beta.1": {},
		"2.9.10": {wrong: true}, "nonsense": {wrong: true},
		"": {again: true, wrong: true}, // what the client says while it reconnects
	} {
		again, err := queue.CheckServer(version)
		if again != want.again || (err != nil) != want.wrong {
			t.Errorf("version %q: again %v, %v", version, again, err)
		}
	}
}

func TestAnotherLayoutIsRefusedWithAHint(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	q := open(t, queue.Config{Server: server})
	if err := queue.AgeLayout(q, within(t)); err != nil {
		t.Fatal(err)
	}
	_, err := queue.Open(within(t), queue.Config{Server: server, Name: "other", Logger: logger(t)})
	if err == nil || !strings.Contains(err.Error(), "layout version") {
		t.Fatalf("got %v", err)
	}
}

func TestSizesCanBeChangedLater(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	open(t, queue.Config{Server: server})
	q := open(t, queue.Config{Server: server, Sizes: &queue.Sizes{Records: 64 << 20}})
	if n := queue.MaxBytes(q, within(t), "RES_3"); n != 16<<20 {
		t.Fatalf("RES_3 may have %d bytes", n)
	}
	if n := queue.MaxBytes(q, within(t), "INTAKE"); n != queue.DefaultSizes().Intake {
		t.Fatalf("INTAKE may have %d bytes", n)
	}
}

func TestServerStopsTwiceAndRefusesStrangers(t *testing.T) {
	if _, err := queue.StartServer(queue.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Logger: logger(t)}); err == nil {
		t.Fatal("it listens without a token")
	}
	s := start(t, queue.ServerConfig{Listen: "127.0.0.1:0", Token: "secret"})
	_, err := queue.Open(within(t), queue.Config{URL: withToken(s, "wrong"), Name: "stranger", Logger: logger(t)})
	if err == nil || strings.Contains(err.Error(), "wrong") {
		t.Fatalf("got %v", err)
	}
	s.Close()
	s.Close()
}

func TestDurabilityIsWhatWasInstalled(t *testing.T) {
	server := start(t, queue.ServerConfig{Profile: queue.Balanced})
	open(t, queue.Config{Server: server})
	for name, c := range map[string]queue.Config{
		"another profile":     {Durability: queue.Strict},
		"more replicas":       {Replicas: 3},
		"an unknown one":      {Durability: "careless"},
		"a cluster of one":    {Durability: queue.Cluster, ChangeDurability: true, Replicas: 1},
		"strict with several": {Durability: queue.Strict, ChangeDurability: true, Replicas: 3},
	} {
		c.Server, c.Name, c.Logger = server, "other", logger(t)
		if _, err := queue.Open(within(t), c); err == nil || !strings.Contains(err.Error(), "durability") {
			t.Errorf("%s: %v", name, err)
		}
	}
	open(t, queue.Config{Server: server, Durability: queue.Balanced, Replicas: 1})
}

func TestJobsSurviveAChangeOfDurability(t *testing.T) {
	dir := t.TempDir()
	server := start(t, queue.ServerConfig{Dir: dir, Profile: queue.Balanced})
	q := open(t, queue.Config{Server: server})
	accept(t, q, spec("waits"))
	accept(t, q, spec("too"))
	q.Close()
	server.Close()
	for _, p := range []queue.Profile{queue.Strict, queue.Fast} {
		server := start(t, queue.ServerConfig{Dir: dir, Profile: p})
		if _, err := queue.Open(within(t), queue.Config{Server: server, Name: "q", Logger: logger(t)}); err == nil || !strings.Contains(err.Error(), "change-durability") {
			t.Fatalf("%s: %v", p, err)
		}
		q := open(t, queue.Config{Server: server, ChangeDurability: true})
		if got, want := queue.WrittenLate(q, within(t)), p == queue.Strict; got != want {
			t.Fatalf("%s: hints are written late: %v", p, got)
		}
		leading(t, q, time.Millisecond)
		r := register(t, q, "w1")
		c := claim(t, q, r)
		if err := q.Commit(within(t), c, done(c)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		q.Close()
		server.Close()
	}
}

func TestRolesThatInstallNothingWait(t *testing.T) {
	server := start(t, queue.ServerConfig{})
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := queue.Open(short, queue.Config{Server: server, Name: "early", Role: queue.RoleWorker, Logger: logger(t)})
	if err == nil || !strings.Contains(err.Error(), "nothing is installed yet") {
		t.Fatalf("got %v", err)
	}
	opened := make(chan error, 1)
	ctx := within(t)
	go func() {
		q, err := queue.Open(ctx, queue.Config{Server: server, Name: "w1", Role: queue.RoleWorker, Logger: logger(t)})
		if err == nil {
			q.Close()
		}
		opened <- err
	}()
	open(t, queue.Config{Server: server, Role: queue.RoleScheduler})
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}
