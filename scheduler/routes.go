package scheduler

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// route is one operation of the API: where, what answers, and how it is
// described.
type route struct {
	method string
	// path is a pattern of net/http.
	path   string
	handle handler
	// open routes ask for no token.
	open bool
	doc  operation
}

// routes serves everything.
func (s *Scheduler) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.table() {
		mux.Handle(r.method+" "+r.path, s.serve(r))
	}
	document := newDocument(s.table(), s.Version)
	s.serveDocument(mux, document)
	mux.Handle("/", s.serve(route{path: "/", handle: nothingAt(mux), open: true}))
	return mux
}

// nothingAt answers where there is no route: at an address that has others by
// naming their methods.
func nothingAt(mux *http.ServeMux) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
			if _, pattern := mux.Handler(probe); pattern != "/" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			return api.NewProblem(http.StatusNotFound, api.TypeNotFound, "there is no %s %s; /openapi.json says what there is", clean(r.Method), clean(r.URL.Path))
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return api.NewProblem(http.StatusMethodNotAllowed, api.TypeMethod, "%s is not for %s; it takes %s", clean(r.URL.Path), clean(r.Method), strings.Join(allowed, ", "))
	}
}

// serve puts around a handler what all have in common.
func (s *Scheduler) serve(r route) http.Handler {
	return http.HandlerFunc(func(raw http.ResponseWriter, req *http.Request) {
		started := time.Now()
		w := &response{ResponseWriter: raw}
		defer func() { s.metrics.observe(r.path, w.status, time.Since(started)) }()
		// One left from an earlier request on this connection must not count.
		_ = http.NewResponseController(raw).SetWriteDeadline(time.Time{})
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !r.open {
			who, err := s.authenticate(req)
			if err != nil {
				s.writeError(w, req, err)
				return
			}
			req = req.WithContext(withCaller(req.Context(), who))
		}
		if err := r.handle(w, req); err != nil {
			s.writeError(w, req, err)
		}
	})
}

// response knows whether an answer has begun.
type response struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write begins the answer if nothing has.
func (w *response) Write(data []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(data)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (s *Scheduler) handleWorkers(w http.ResponseWriter, r *http.Request) error {
	list := []api.Worker{}
	for _, one := range s.workers.all() {
		v := viewWorker(one)
		if !isOperator(r.Context()) {
			v.Jobs = heldOf(one, tenantOf(r.Context())) // others' are no business of theirs
		}
		list = append(list, v)
	}
	return writeJSON(w, http.StatusOK, api.Workers{Workers: list})
}

func (s *Scheduler) handleVersion(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, api.Version{Version: s.Version, API: "v1", Go: runtime.Version()})
}

// handleHealth says that the process lives.
func (s *Scheduler) handleHealth(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

// handleReady says whether jobs can be accepted and answered.
func (s *Scheduler) handleReady(w http.ResponseWriter, r *http.Request) error {
	h := api.Health{Status: "ok", Checks: map[string]string{"queue": "ok", "index": "ok"}}
	status := http.StatusOK
	fail := func(check, why string) {
		h.Status, h.Checks[check], status = "failing", why, http.StatusServiceUnavailable
	}
	if err := s.Queue.Healthy(r.Context()); err != nil {
		s.log.WarnContext(r.Context(), "not ready", "error", err)
		fail("queue", "cannot be reached")
	}
	var full *queue.FullError
	switch err := s.Queue.Writable(); {
	case errors.As(err, &full):
		fail("disk", full.What)
	case err != nil:
		s.log.WarnContext(r.Context(), "not ready", "error", err)
		fail("disk", "cannot be looked at")
	default:
		h.Checks["disk"] = "ok"
	}
	if !s.isReady() {
		fail("index", "records are being read")
	}
	if s.isStopping() {
		fail("scheduler", "is stopping")
	}
	return writeJSON(w, status, h)
}

func (s *Scheduler) handleMetrics(w http.ResponseWriter, r *http.Request) error {
	soon(w)
	s.metrics.handler().ServeHTTP(w, r)
	return nil
}
