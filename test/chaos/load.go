package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// load is the clients of a run: they submit, look, cancel and remove, and
// write down what they asked before they ask and what they were answered. They
// speak HTTP themselves, so that nothing repeats a request behind their back.
type load struct {
	c    *cluster
	o    *observer
	http *http.Client
	seed uint64
	n    atomic.Int64

	mu   sync.Mutex
	file *os.File
	asks map[int]*check.Ask
	// accepted are jobs to look at, cancel or remove.
	accepted []ticket
	batches  map[string]string // their tenants
	// uploads are the batches that are objects, followers the clients that
	// read their results.
	uploads   []*upload
	followers sync.WaitGroup
	followed  []check.Results
	reading   context.Context // of the followers, who go on after the load
}

// ticket is a job that was accepted.
type ticket struct {
	id, tenant string
	removed    bool
	item       bool // of a batch that is an object: it goes with the batch
	slow       bool // its program takes a while
}

// most is how many jobs may be under way before the clients hold back: more
// than run at once, and not so many that they would not end soon.
func (l *load) most() int {
	if l.c.Real {
		return 30
	}
	return 500
}

func newLoad(c *cluster, o *observer, seed uint64) (*load, error) {
	file, err := os.Create(filepath.Join(c.Out, "asks.jsonl"))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32
	return &load{
		c: c, o: o, seed: seed, file: file, asks: map[int]*check.Ask{}, batches: map[string]string{},
		http: &http.Client{Transport: transport, Timeout: 6 * time.Second},
	}, err
}

// program is what a job does, and the state that it leads to.
type program struct {
	name, script, fault, want string
	wall                      int // milliseconds
	often                     int // of all together
	// later is how long it is not to run, more what else its submit says, and
	// budget after how long it may expire.
	later, budget time.Duration
	more          map[string]any
	pool          string // main if empty
}

var programs = []program{
	{name: "quick", script: "echo done", want: "succeeded", often: 31},
	{name: "short", script: "sleep 0.2; echo done", want: "succeeded", often: 20},
	{name: "slow", script: "sleep 2; echo done", want: "succeeded", often: 3},
	{name: "long", script: "sleep 9; echo done", want: "succeeded", often: 1},
	{name: "fails", script: "echo no; exit 3", want: "failed", often: 10},
	{name: "dies", script: "kill -SEGV $$", want: "failed", often: 3},
	{name: "endless", script: "sleep 500", want: "failed", wall: 300, often: 4},
	{name: "chatty", script: "head -c 100000 /dev/zero; echo done", want: "succeeded", often: 3},
	{name: "unlucky once", script: "echo done", fault: "run:1", want: "succeeded", often: 6},
	{name: "unlucky twice", script: "sleep 0.1; echo done", fault: "prepare:2", want: "succeeded", often: 3},
	{name: "later", script: "echo done", want: "succeeded", later: 2 * time.Second, often: 4},
	{name: "in a hurry", script: "echo done", want: "succeeded", budget: 800 * time.Millisecond, more: map[string]any{"budgets": map[string]any{"start_by_ms": 800}}, often: 4},
	{name: "out of time", script: "sleep 3; echo done", want: "succeeded", budget: 1500 * time.Millisecond, more: map[string]any{"budgets": map[string]any{"total_ms": 1500}}, often: 3},
	{name: "better the second time", script: "echo done", fault: "exit:1", want: "succeeded", more: map[string]any{"retry": map[string]any{"on": []string{"exited"}, "backoff_ms": 1200}}, often: 2},
	{name: "no better the second time", script: "exit 4", want: "failed", more: map[string]any{"retry": map[string]any{"on": []string{"program"}, "max_attempts": 2, "backoff_ms": 300}}, often: 2},
	{name: "hopeless", script: "crash", want: "dead", often: 1},
}

// draw takes a program by how often it should come.
func (l *load) draw(r *rand.Rand) program {
	p := drawProgram(r, l.c.Real)
	if l.c.hasSidePool() && r.IntN(8) == 0 {
		p.pool = sidePool
	}
	return p
}

func drawProgram(r *rand.Rand, real bool) program {
	for {
		n := r.IntN(100)
		for _, p := range programs {
			if n -= p.often; n < 0 {
				if real && (p.fault != "" || p.want == "dead") {
					break // nothing but a script can do it
				}
				return p
			}
		}
	}
}

// ask is a submit of the program for a tenant; the label stands in its record.
func (p program) ask(kind, tenant, label string) check.Ask {
	a := check.Ask{Kind: kind, Tenant: tenant, Body: label, Label: label, Want: p.want, Budget: p.budget}
	if p.later > 0 {
		a.NotBefore = time.Now().Add(p.later).UTC()
	}
	return a
}

// limits are those of a program that may take so many milliseconds; of 0 so
// many that no pause of a worker uses them up.
func limits(wall int) map[string]any {
	if wall == 0 {
		wall = 60_000
	}
	return map[string]any{"memory": "64Mi", "disk": "16Mi", "wall_ms": wall}
}

// body is what is sent for an ask. The label names the ask that it came from.
func (p program) body(a check.Ask) []byte {
	body := map[string]any{
		"image": image.Name, "command": []string{"sh", "-c", p.script}, "limits": limits(p.wall),
		"labels": map[string]string{check.LabelAsk: a.Label},
	}
	maps.Copy(body, p.more)
	if p.fault != "" {
		body["env"] = map[string]string{envFault: p.fault}
	}
	if !a.NotBefore.IsZero() {
		body["not_before"] = a.NotBefore
	}
	if p.pool != "" {
		body["pool"] = p.pool
	}
	switch {
	case a.Kind == check.AskLine, a.Kind == check.AskItem:
		body["key"] = a.Key
	case a.Key != "":
		body["idempotency_key"] = a.Key
	}
	data, _ := json.Marshal(body) // plain values, always valid
	return data
}

// run lets all clients work until ctx ends, and waits for them.
func (l *load) run(ctx, reading context.Context) {
	l.reading = reading
	var all sync.WaitGroup
	for i := range 14 {
		r := rand.New(rand.NewPCG(l.seed, uint64(i)+1))
		client := [14]func(context.Context, *rand.Rand){
			l.submitter, l.submitter, l.submitter, l.submitter, l.submitter, l.submitter,
			l.batcher, l.batcher, l.reader, l.canceler, l.remover, l.operator, l.uploader, l.uploader,
		}[i]
		all.Go(func() {
			for ctx.Err() == nil {
				client(ctx, r)
				_ = sleep(ctx, time.Duration(5+r.IntN(45))*time.Millisecond)
				for l.o.underWay() > l.most() && sleep(ctx, 100*time.Millisecond) == nil {
				}
			}
		})
	}
	all.Wait()
}

// anywhere is a scheduler.
func (l *load) anywhere(r *rand.Rand) *gateway { return l.c.schedulers[r.IntN(len(l.c.schedulers))] }

// asked writes down what is about to be asked.
func (l *load) asked(a check.Ask) check.Ask {
	a.N, a.Sent = int(l.n.Add(1)), time.Now()
	l.write("ask", a)
	return a
}

// answered writes down what came of it.
func (l *load) answered(a check.Ask) { l.write("answer", a) }

func (l *load) write(event string, a check.Ask) {
	line, _ := json.Marshal(map[string]any{"event": event, "ask": a}) // always valid
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asks[a.N] = &a
	_, _ = l.file.Write(append(line, '\n'))
}

// do sends a request and fills in what was answered.
func (l *load) do(a check.Ask, to *gateway, method, path string, body []byte) check.Ask {
	a.To = to.name
	a = l.asked(a)
	defer func() { l.answered(a) }()
	req, err := http.NewRequest(method, to.url+path, bytes.NewReader(body))
	if err != nil {
		a.Error = err.Error()
		return a
	}
	req.GetBody = nil // never sent twice
	authorize(req, a.Tenant)
	req.Header.Set("Content-Type", "application/json")
	answer, err := l.http.Do(req)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	a.Got, a.Status = time.Now(), answer.StatusCode
	var seen struct {
		ID       string            `json:"id"`
		State    string            `json:"state"`
		Attempts []json.RawMessage `json:"attempts"`
		Detail   string            `json:"detail"`
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &seen); err != nil {
			a.Error = err.Error()
		}
	}
	a.JobID, a.State, a.Attempt = seen.ID, seen.State, len(seen.Attempts)
	if !a.OK() {
		a.Error = seen.Detail
	}
	return a
}

// submitter submits one job: mostly with a key, and then again until it is
// answered, sometimes once more, sometimes with another body.
func (l *load) submitter(ctx context.Context, r *rand.Rand) {
	p := l.draw(r)
	a := p.ask(check.AskSubmit, anyTenant(r), "a"+strconv.FormatInt(l.n.Add(1), 10))
	keyed := r.IntN(10) < 7
	if keyed {
		a.Key = "key-" + a.Label
	}
	body := p.body(a)
	path := "/v1/jobs"
	if r.IntN(12) == 0 {
		path += "?wait=1s"
	}
	got := l.do(a, l.anywhere(r), http.MethodPost, path, body)
	for keyed && !got.OK() && got.Status != http.StatusConflict {
		if sleep(ctx, time.Duration(50+r.IntN(200))*time.Millisecond) != nil {
			return
		}
		a.Again = true
		got = l.do(a, l.anywhere(r), http.MethodPost, path, body)
	}
	if !got.OK() {
		return
	}
	l.remember(ticket{id: got.JobID, tenant: a.Tenant, slow: strings.Contains(p.script, "sleep")})
	a.Again = true
	if keyed && r.IntN(8) == 0 {
		l.do(a, l.anywhere(r), http.MethodPost, path, body)
	}
	if keyed && r.IntN(12) == 0 {
		p.script += "; echo other"
		a.Body += "-other"
		l.do(a, l.anywhere(r), http.MethodPost, path, p.body(a))
	}
}

// anyTenant is one of the tenants.
func anyTenant(r *rand.Rand) string { return tenants[r.IntN(len(tenants))] }

// operator has a tenant wait for a moment, now and then.
func (l *load) operator(ctx context.Context, r *rand.Rand) {
	if sleep(ctx, time.Duration(2000+r.IntN(3000))*time.Millisecond) != nil {
		return
	}
	t := tenants[2]
	if l.c.setTenant(ctx, t, map[string]any{"weight": 2, "paused": true}) == nil {
		_ = sleep(ctx, time.Duration(500+r.IntN(2000))*time.Millisecond)
	}
	// Whatever became of it, it goes on in the end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = l.c.setTenant(ctx, t, map[string]any{"weight": 1 + r.IntN(4)})
}

func (l *load) remember(j ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted = append(l.accepted, j)
}

// some is one of the jobs that were accepted, mostly a young one.
func (l *load) some(r *rand.Rand) (j ticket, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.accepted)
	if n == 0 {
		return ticket{}, false
	}
	i := r.IntN(n)
	if r.IntN(2) == 0 {
		i = n - 1 - r.IntN(min(n, 20))
	}
	return l.accepted[i], !l.accepted[i].removed
}

// reader looks at a job that is there, or at one that never was.
func (l *load) reader(_ context.Context, r *rand.Rand) {
	if r.IntN(10) == 0 {
		id := fmt.Sprintf("00000000-0000-7000-8000-%012x", r.Uint64()>>16)
		a := check.Ask{Kind: check.AskNothing, ID: id, Tenant: anyTenant(r)}
		if j, ok := l.some(r); ok && r.IntN(2) == 0 && j.tenant != a.Tenant {
			id, a.ID = j.id, j.id // for this tenant it never was
		}
		if r.IntN(2) == 0 {
			l.do(a, l.anywhere(r), http.MethodPost, "/v1/jobs/"+id+"/cancel", nil)
		} else {
			l.do(a, l.anywhere(r), http.MethodGet, "/v1/jobs/"+id, nil)
		}
		return
	}
	if j, ok := l.some(r); ok {
		path := "/v1/jobs/" + j.id
		if r.IntN(5) == 0 {
			path += "?wait=500ms"
		}
		l.do(check.Ask{Kind: check.AskGet, ID: j.id, Tenant: j.tenant}, l.anywhere(r), http.MethodGet, path, nil)
	}
}

// canceler cancels a job, whatever it is doing: often one that may be running.
func (l *load) canceler(ctx context.Context, r *rand.Rand) {
	j, ok := l.some(r)
	for range 20 {
		if !ok || j.slow || r.IntN(10) == 0 {
			break
		}
		j, ok = l.some(r)
	}
	if ok {
		l.do(check.Ask{Kind: check.AskCancel, ID: j.id, Tenant: j.tenant}, l.anywhere(r), http.MethodPost, "/v1/jobs/"+j.id+"/cancel", nil)
	}
	_ = sleep(ctx, 100*time.Millisecond)
}

// remover forgets a job that has ended.
func (l *load) remover(ctx context.Context, r *rand.Rand) {
	defer func() { _ = sleep(ctx, 300*time.Millisecond) }()
	j, ok := l.some(r)
	if !ok || j.item {
		return
	}
	got := l.do(check.Ask{Kind: check.AskGet, ID: j.id, Tenant: j.tenant}, l.anywhere(r), http.MethodGet, "/v1/jobs/"+j.id, nil)
	if !ended[got.State] || !got.OK() {
		return
	}
	l.mu.Lock()
	for i := range l.accepted {
		if l.accepted[i].id == j.id {
			l.accepted[i].removed = true
		}
	}
	l.mu.Unlock()
	l.do(check.Ask{Kind: check.AskRemove, ID: j.id, Tenant: j.tenant}, l.anywhere(r), http.MethodDelete, "/v1/jobs/"+j.id, nil)
}

// batcher submits some lines under one name, and those again that were not
// answered.
func (l *load) batcher(ctx context.Context, r *rand.Rand) {
	defer func() { _ = sleep(ctx, time.Duration(500+r.IntN(1000))*time.Millisecond) }()
	batch := fmt.Sprintf("b%d-%d", l.seed, l.n.Add(1))
	tenant := anyTenant(r)
	l.mu.Lock()
	l.batches[batch] = tenant
	l.mu.Unlock()
	var lines []check.Ask
	bodies := map[string][]byte{}
	for i := range 10 + r.IntN(l.most()/5) {
		p := l.draw(r)
		key := "k" + strconv.Itoa(i)
		a := p.ask(check.AskLine, tenant, batch+"/"+key)
		a.Batch, a.Key = batch, key
		bodies[key] = p.body(a)
		lines = append(lines, a)
	}
	for len(lines) > 0 {
		lines = l.submitLines(batch, lines, bodies, l.anywhere(r))
		if len(lines) > 0 && sleep(ctx, time.Duration(100+r.IntN(300))*time.Millisecond) != nil {
			return
		}
	}
}

// submitLines sends lines and returns those that are to be sent again.
func (l *load) submitLines(batch string, lines []check.Ask, bodies map[string][]byte, to *gateway) (left []check.Ask) {
	var body bytes.Buffer
	asked := make([]check.Ask, len(lines))
	for i, a := range lines {
		a.To = to.name
		asked[i] = l.asked(a)
		body.Write(bodies[a.Key])
		body.WriteByte('\n')
	}
	done := 0
	defer func() {
		for i, a := range asked[done:] {
			if a.Error == "" {
				a.Error = "no answer"
			}
			l.answered(a)
			again := lines[done+i]
			again.Again = true
			left = append(left, again)
		}
	}()
	req, err := http.NewRequest(http.MethodPost, to.url+"/v1/jobs?batch="+url.QueryEscape(batch), &body)
	if err != nil {
		return
	}
	req.GetBody = nil
	authorize(req, lines[0].Tenant)
	req.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := l.http.Do(req)
	if err != nil || answer.StatusCode != http.StatusOK {
		if err == nil {
			answer.Body.Close()
		}
		return
	}
	defer answer.Body.Close()
	for in := bufio.NewScanner(answer.Body); done < len(asked) && in.Scan(); {
		var said struct {
			Line  int    `json:"line"`
			Key   string `json:"key"`
			ID    string `json:"id"`
			State string `json:"state"`
			Error *struct {
				Status int    `json:"status"`
				Detail string `json:"detail"`
			} `json:"error"`
		}
		if len(strings.TrimSpace(in.Text())) == 0 {
			continue
		}
		a := asked[done]
		if json.Unmarshal(in.Bytes(), &said) != nil || said.Key != a.Key {
			return
		}
		if said.Error != nil {
			a.Status, a.Error = said.Error.Status, said.Error.Detail
			asked[done] = a
			if a.Status/100 == 5 || a.Status == http.StatusTooManyRequests {
				return // this one and those after it again
			}
			a.Got = time.Now()
			l.answered(a)
			done++
			continue
		}
		a.Got, a.Status, a.JobID, a.State = time.Now(), http.StatusOK, said.ID, said.State
		l.answered(a)
		l.remember(ticket{id: said.ID, tenant: a.Tenant})
		done++
	}
	return
}

// lastLook asks for every job that was accepted, and for one that never was.
func (l *load) lastLook(ctx context.Context) {
	l.mu.Lock()
	jobs := append([]ticket(nil), l.accepted...)
	l.mu.Unlock()
	var all sync.WaitGroup
	next := make(chan ticket)
	for i := range 8 {
		all.Go(func() {
			for j := range next {
				l.do(check.Ask{Kind: check.AskGet, ID: j.id, Tenant: j.tenant}, l.c.schedulers[i%len(l.c.schedulers)], http.MethodGet, "/v1/jobs/"+j.id, nil)
			}
		})
	}
	for _, j := range jobs {
		if !j.removed && ctx.Err() == nil {
			next <- j
		}
	}
	close(next)
	all.Wait()
}

// history is what the clients wrote down.
func (l *load) history(h *check.History) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.asks {
		h.Asks = append(h.Asks, *a)
	}
	for _, u := range l.uploads {
		h.Uploads = append(h.Uploads, u.Upload)
	}
	h.Results = append(h.Results, l.followed...)
}

func (l *load) close() {
	_ = l.file.Sync()
	_ = l.file.Close()
	l.http.CloseIdleConnections()
}
