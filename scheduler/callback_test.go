package scheduler_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// listener is who is called back; it answers with the statuses in turn, the
// last one for ever.
type listener struct {
	*httptest.Server
	statuses []int

	mu    sync.Mutex
	calls []call
}

type call struct{ event, signature, body string }

func listen(t *testing.T, statuses ...int) *listener {
	l := &listener{statuses: statuses}
	l.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.calls = append(l.calls, call{r.Header.Get("Sandlot-Event"), r.Header.Get("Sandlot-Signature"), string(body)})
		status := l.statuses[min(len(l.calls), len(l.statuses))-1]
		if status == http.StatusFound {
			w.Header().Set("Location", l.URL+"/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *listener) heard() []call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]call(nil), l.calls...)
}

// host is that of the listener, with its port.
func (l *listener) host() string { return strings.TrimPrefix(l.URL, "https://") }

// calls lets the scheduler call the listener.
func (l *listener) allowed(private ...netip.Prefix) func(*scheduler.Config) {
	return func(c *scheduler.Config) {
		roots := x509.NewCertPool()
		roots.AddCert(l.Certificate())
		port := l.host()[strings.LastIndex(l.host(), ":"):]
		c.Callbacks = scheduler.Callbacks{Allow: []string{l.host(), "localhost" + port}, Private: private, Roots: roots, Backoff: 10 * time.Millisecond}
	}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func (w *world) withCallback(url string) api.Batch {
	w.t.Helper()
	return w.uploaded(`{"batch":{"callback":{"url":"` + url + `"}}}` + "\n" + lines(3))
}

// called waits until a batch says what ok asks of its callback.
func (w *world) called(id string, ok func(job.Called) bool) job.Called {
	w.t.Helper()
	var last job.Called
	w.eventually("the callback is tried", func() bool {
		b, err := w.client.Batch(w.ctx, id)
		if err == nil && b.Called != nil {
			last = *b.Called
		}
		return err == nil && b.Called != nil && ok(*b.Called)
	})
	return last
}

func TestACallbackIsSignedAndRepeatedUntilItIsHeard(t *testing.T) {
	l := listen(t, 500, 302, 204)
	w := newWorld(t, l.allowed(loopback...))
	w.work(2, succeed)
	b := w.withCallback(l.URL + "/done?x=1")
	called := w.called(b.ID, func(c job.Called) bool { return !c.DoneAt.IsZero() })
	calls := l.heard()
	if called.Attempts != 3 || len(calls) != 3 || !called.NextAt.IsZero() || called.Error != "" {
		t.Fatalf("%d calls, noted as %+v", len(calls), called)
	}
	secret, err := w.client.CallbackSecret(w.ctx, false)
	must(t, err)
	for _, c := range calls {
		if c.event != called.Event || c.body != calls[0].body {
			t.Errorf("a try differs from the first: %+v", c)
		}
		at, mac, _ := strings.Cut(strings.TrimPrefix(c.signature, "t="), ",v1=")
		h := hmac.New(sha256.New, []byte(secret.Secret))
		h.Write([]byte(at + "." + c.body))
		if mac != hex.EncodeToString(h.Sum(nil)) {
			t.Errorf("signature %q does not fit", c.signature)
		}
	}
	var event api.BatchEvent
	must(t, json.Unmarshal([]byte(calls[0].body), &event))
	if event.Event != called.Event || event.Type != "batch.finished" || event.Batch.ID != b.ID || event.Batch.States[job.Succeeded] != 3 {
		t.Errorf("the event is %+v", event)
	}
	other, err := w.client.CallbackSecret(w.ctx, true)
	must(t, err)
	if other.Secret == secret.Secret {
		t.Error("the secret was not replaced")
	}
	next := w.withCallback(l.URL)
	w.called(next.ID, func(c job.Called) bool { return !c.DoneAt.IsZero() })
	if c := l.heard()[3]; strings.Count(c.signature, "v1=") != 2 {
		t.Errorf("after the change it is signed with %q; want both secrets", c.signature)
	}
}

func TestACallbackGoesNowhereThatIsNotAllowed(t *testing.T) {
	l := listen(t, 200)
	w := newWorld(t, l.allowed())
	w.work(2, succeed)
	// A name says nothing of where it leads: that is seen when it is called.
	byName := strings.Replace(l.URL, "127.0.0.1", "localhost", 1)
	b := w.withCallback(byName)
	called := w.called(b.ID, func(c job.Called) bool { return c.Attempts >= 2 })
	if !strings.Contains(called.Error, "no public address") {
		t.Errorf("it failed because %q", called.Error)
	}
	if n := len(l.heard()); n != 0 {
		t.Errorf("%d calls arrived", n)
	}
	for url, says := range map[string]string{
		l.URL:                             "no public address",
		"http://example.org/":             "https://",
		"https://user:pw@localhost/":      "without user",
		"https://example.org/":            "allows callbacks to",
		"https://[fe80::1]/":              "no public address",
		"https://[::ffff:10.0.0.1]/":      "no public address",
		"https://100.100.100.200/":        "no public address",
		"https://localhost/":              "allows callbacks to",
		"nonsense":                        "is not an address",
		"https://[64:ff9b::a9fe:a9fe]/":   "no public address",
		"https://0.0.0.0/":                "no public address",
		"https://metadata.example.net:80": "allows callbacks to",
	} {
		_, err := w.upload("application/x-ndjson", `{"batch":{"callback":{"url":"`+url+`"}}}`+"\n"+lines(1))
		if err == nil {
			t.Errorf("%s was taken", url)
			continue
		}
		if p := problem(t, err); p.Status != 422 || !strings.Contains(p.Error(), says) {
			t.Errorf("%s: %v; want %q", url, p, says)
		}
	}
}
