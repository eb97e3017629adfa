package queue_test

import (
	"fmt"
	"strings"
	"testing"

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
