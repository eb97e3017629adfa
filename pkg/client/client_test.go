package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// serve is a client of a server that answers by f.
func serve(t *testing.T, f http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return client.New(client.Config{Server: s.URL, Token: "t", Patience: 10 * time.Second})
}

func refuse(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func TestABusyServerIsAskedAgain(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t" {
			t.Error("no token")
		}
		if calls.Add(1) < 3 {
			p := api.NewProblem(http.StatusTooManyRequests, api.TypeFull, "full")
			p.RetryAfter = 10
			refuse(w, p)
			return
		}
		_ = json.NewEncoder(w).Encode(api.Job{ID: "x", State: job.Queued})
	})
	j, err := c.Submit(context.Background(), api.Submit{}, 0)
	if err != nil || j.ID != "x" || calls.Load() != 3 {
		t.Errorf("got %+v, %v after %d calls", j, err, calls.Load())
	}
}

func TestARefusalIsNotRepeated(t *testing.T) {
	for name, p := range map[string]*api.Problem{
		"invalid":  api.NewProblem(http.StatusUnprocessableEntity, api.TypeInvalid, "no"),
		"internal": api.NewProblem(http.StatusInternalServerError, api.TypeInternal, "no"),
		"unfit":    api.NewProblem(http.StatusServiceUnavailable, api.TypeUnfit, "no worker can enforce limits.pids"),
	} {
		var calls atomic.Int64
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); refuse(w, p) })
		_, err := c.Get(context.Background(), "x")
		var got *api.Problem
		if !errors.As(err, &got) || got.Type != p.Type || calls.Load() != 1 {
			t.Errorf("%s: %v after %d calls", name, err, calls.Load())
		}
	}
}

func TestASubmitWithoutAKeyIsSentOnce(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		refuse(w, api.NewProblem(http.StatusServiceUnavailable, api.TypeUnavailable, "away"))
	})
	if _, err := c.SubmitJSON(context.Background(), []byte(`{}`), "", 0); err == nil || calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestAServerThatIsNotThereIsExplained(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c := client.New(client.Config{Server: address, Patience: -1})
	_, err = c.Workers(context.Background())
	var away *client.Unreachable
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "sandlot up") || !strings.Contains(err.Error(), address) {
		t.Errorf("got %v", err)
	}
}

func TestAnAnswerOfSomethingElseIsAProblemToo(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "I am a proxy", http.StatusForbidden) })
	_, err := c.Get(context.Background(), "x")
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != http.StatusForbidden || !strings.Contains(err.Error(), "I am a proxy") {
		t.Errorf("got %v", err)
	}
}

// TestLinesThatWereNotAnsweredAreSentAgain has a server that answers two
// lines a time, then finds the queue full or breaks off.
func TestLinesThatWereNotAnsweredAreSentAgain(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		n := calls.Add(1)
		for i, line := range strings.Split(strings.TrimRight(string(body), "\n"), "\n") {
			var key struct{ Key string }
			if json.Unmarshal([]byte(line), &key) != nil {
				continue
			}
			a := api.LineAnswer{Line: i + 1, Key: key.Key, ID: key.Key, State: job.Queued}
			if i == 2 && n%2 == 0 {
				panic(http.ErrAbortHandler)
			}
			if i == 2 {
				a = api.LineAnswer{Line: 3, State: api.Rejected, Error: api.NewProblem(429, api.TypeFull, "full")}
			}
			_ = json.NewEncoder(w).Encode(a)
			w.(http.Flusher).Flush()
		}
	})
	var in strings.Builder
	for i := range 7 {
		fmt.Fprintf(&in, "{\"key\":\"k%d\"}\n", i)
	}
	next := 0
	err := c.SubmitMany(context.Background(), "b", strings.NewReader(in.String()), func(a api.LineAnswer) error {
		if a.Line != next+1 || a.Key != fmt.Sprintf("k%d", next) || a.Error != nil {
			t.Errorf("answer %d is %+v", next, a)
		}
		next++
		return nil
	})
	if err != nil || next != 7 {
		t.Errorf("%d answers, %v", next, err)
	}
}

func TestALogThatBreaksGoesOnWhereItWas(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		switch calls.Add(1) {
		case 1:
			fmt.Fprint(w, ":\n\nid: 5\nevent: chunk\ndata: {\"attempt\":1,\"step\":\"run\",\"stream\":\"stdout\",\"offset\":0,\"text\":\"abc\"}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			if r.Header.Get("Last-Event-ID") != "5" {
				t.Errorf("asked again after %q", r.Header.Get("Last-Event-ID"))
			}
			fmt.Fprint(w, "id: 6\nevent: chunk\ndata: {\"attempt\":1,\"step\":\"run\",\"stream\":\"stdout\",\"offset\":1,\"text\":\"bcdef\"}\n\n")
			fmt.Fprint(w, "event: end\ndata: {}\n\n")
		}
	})
	var out strings.Builder
	err := c.FollowLogs(context.Background(), "x", func(c api.LogChunk) error {
		if c.Offset != int64(out.Len()) {
			t.Errorf("offset %d after %d bytes", c.Offset, out.Len())
		}
		out.Write(c.Bytes())
		return nil
	})
	if err != nil || out.String() != "abcdef" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		cancel(why)
		_ = json.NewEncoder(w).Encode(api.Job{State: job.Running})
	})
	if _, err := c.Wait(ctx, "x"); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}
