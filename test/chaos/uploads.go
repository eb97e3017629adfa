package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// upload is a batch that is an object, as its client knows it.
type upload struct {
	check.Upload
	head   string
	bodies []string
	items  []check.Ask // of the lines of which jobs come, in their order
	opened bool
}

// drawUpload makes a batch: lines of all programs, some with keys that were
// there before or that are no items at all; sometimes with a template, and
// sometimes with groups that need only some of theirs.
func (l *load) drawUpload(r *rand.Rand) *upload {
	id := uuid.Must(uuid.NewRandom()).String()
	u := &upload{Upload: check.Upload{ID: id, Tenant: anyTenant(r)}}
	settings := map[string]any{"id": id}
	if r.IntN(3) == 0 {
		u.StopAfter = 1 + r.IntN(3)
		settings["stop_after"] = map[string]any{"passed": u.StopAfter}
	}
	templated := r.IntN(2) == 0
	if templated {
		settings["template"] = map[string]any{"image": image.Name, "command": []string{"sh", "-c", "echo {{what}}"}, "limits": limits(0)}
	}
	n := 40 + r.IntN(l.most()/2)
	if l.c.Real {
		n = 5 + r.IntN(10)
	}
	for i := range n {
		key := "k" + strconv.Itoa(i)
		line := check.Line{Key: key, Group: "g" + strconv.Itoa(r.IntN(1+n/8)), Label: id + "/" + key}
		switch r.IntN(40) {
		case 0:
			line.Refused, line.Key = true, ""
			u.bodies = append(u.bodies, `"nonsense"`)
		case 1:
			if i > 0 && !u.Lines[0].Refused {
				line.Refused, line.Key = true, u.Lines[0].Key
			}
		}
		p := l.draw(r)
		a := p.ask(check.AskItem, u.Tenant, line.Label)
		a.Batch, a.Key = id, line.Key
		if len(u.bodies) == i {
			u.bodies = append(u.bodies, itemBody(p, a, line.Group, templated))
		}
		if !line.Refused {
			u.items = append(u.items, a)
		}
		u.Lines = append(u.Lines, line)
	}
	head, _ := json.Marshal(map[string]any{"batch": settings}) // plain values, always valid
	u.head = string(head)
	return u
}

// itemBody is the line of an item.
func itemBody(p program, a check.Ask, group string, templated bool) string {
	var fields map[string]any
	_ = json.Unmarshal(p.body(a), &fields) // it was just encoded
	fields["group"] = group
	if templated {
		delete(fields, "image")
		if p.script == "echo done" {
			delete(fields, "command")
			fields["vars"] = map[string]string{"what": "done"}
		}
	}
	line, _ := json.Marshal(fields)
	return string(line)
}

// uploader uploads a batch, cut off now and then and continued in one of the
// ways that there are, and then looks at it, cancels it or sends it again.
func (l *load) uploader(ctx context.Context, r *rand.Rand) {
	defer func() { _ = sleep(ctx, time.Duration(500+r.IntN(3000))*time.Millisecond) }()
	u := l.drawUpload(r)
	for i, a := range u.items {
		u.items[i] = l.asked(a)
	}
	l.mu.Lock()
	l.uploads = append(l.uploads, u)
	l.mu.Unlock()
	for cuts := 0; !u.opened; {
		cut := -1
		if cuts < 4 && r.IntN(2) == 0 {
			cuts++
			cut = r.IntN(len(u.bodies) + 1)
		}
		from := 0
		if r.IntN(2) == 0 {
			from = l.linesOf(ctx, u, l.anywhere(r))
		}
		if !l.send(u, l.anywhere(r), from, cut, r.IntN(2) == 0) && sleep(ctx, time.Duration(50+r.IntN(200))*time.Millisecond) != nil {
			return
		}
	}
	if r.IntN(2) == 0 {
		from := l.anywhere(r)
		next := rand.New(rand.NewPCG(r.Uint64(), 1))
		l.followers.Go(func() { l.follow(l.reading, u, from, next) })
	}
	_ = sleep(ctx, time.Duration(r.IntN(3000))*time.Millisecond)
	switch r.IntN(5) {
	case 0:
		l.do(check.Ask{Kind: check.AskBatchCancel, ID: u.ID, Tenant: u.Tenant}, l.anywhere(r), http.MethodPost, "/v1/batches/"+u.ID+"/cancel", nil)
	case 1:
		l.send(u, l.anywhere(r), 0, -1, true)
	default:
		l.do(check.Ask{Kind: check.AskBatchGet, ID: u.ID, Tenant: u.Tenant}, l.anywhere(r), http.MethodGet, "/v1/batches/"+u.ID, nil)
	}
}

// linesOf asks how many lines of an upload are stored.
func (l *load) linesOf(ctx context.Context, u *upload, at *gateway) int {
	var o check.Object
	if at.get(ctx, u.Tenant, "/v1/batches/"+u.ID, &o) != nil || o.State != "uploading" {
		return 0
	}
	return o.Lines
}

var errCut = errors.New("cut off")

// send sends the lines of a batch from one on; the connection breaks before
// the line cut, if that is not negative. It reports whether the batch is
// complete. In pieces says that the server sees the lines come one by one.
func (l *load) send(u *upload, to *gateway, from, cut int, pieces bool) bool {
	a := check.Ask{Kind: check.AskUpload, ID: u.ID, Tenant: u.Tenant, To: to.name, Again: from > 0}
	a = l.asked(a)
	defer func() { l.answered(a) }()
	path := to.url + "/v1/batches"
	if from > 0 {
		path += "?from=" + url.QueryEscape(strconv.Itoa(from))
	}
	body, in := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { _ = in.CloseWithError(writeLines(in, u, from, cut, pieces)) })
	defer writing.Wait()
	defer body.Close()
	req, err := http.NewRequest(http.MethodPost, path, body)
	if err != nil {
		a.Error = err.Error()
		return false
	}
	authorize(req, u.Tenant)
	req.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := l.http.Do(req)
	if err != nil {
		a.Error = err.Error()
		return false
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		a.Error = err.Error()
		return false
	}
	var said struct {
		State  string `json:"state"`
		Detail string `json:"detail"`
	}
	_ = json.Unmarshal(data, &said) // what is no JSON has no state
	a.Got, a.Status, a.State, a.Error = time.Now(), answer.StatusCode, said.State, said.Detail
	if a.OK() {
		l.open(u)
	}
	return a.OK()
}

// writeLines writes an upload.
func writeLines(w io.Writer, u *upload, from, cut int, pieces bool) error {
	var some bytes.Buffer
	some.WriteString(u.head + "\n")
	for i, line := range u.bodies {
		if i == cut {
			_, _ = w.Write(append(some.Bytes(), line[:len(line)/2]...))
			return errCut
		}
		if i < from {
			continue
		}
		some.WriteString(line + "\n")
		if pieces {
			if _, err := w.Write(some.Bytes()); err != nil {
				return err
			}
			some.Reset()
		}
	}
	if _, err := w.Write(some.Bytes()); err != nil {
		return err
	}
	if cut >= len(u.bodies) {
		return errCut // all lines are there, but not the end
	}
	return nil
}

// open notes that a batch is complete: from now on each of its items is a job.
func (l *load) open(u *upload) {
	if u.opened {
		return
	}
	u.opened = true
	for i, a := range u.items {
		a.Got, a.Status, a.JobID = time.Now(), http.StatusCreated, fmt.Sprintf("%s-%d", u.ID, i)
		l.answered(a)
		if i%3 == 0 {
			l.remember(ticket{id: a.JobID, tenant: u.Tenant, item: true})
		}
	}
}

// follow reads the results of a batch to their end, and goes on where it was,
// wherever that is, when a connection breaks.
func (l *load) follow(ctx context.Context, u *upload, at *gateway, r *rand.Rand) {
	told := check.Results{From: "a follower", ID: u.ID}
	cursor := ""
	for {
		err := l.readResults(ctx, at, u, "&follow=true", cursor, func(r check.Result) {
			told.Told = append(told.Told, r)
			cursor = r.Cursor
		})
		if err == nil {
			break
		}
		at = l.anywhere(r)
		if sleep(ctx, 200*time.Millisecond) != nil {
			told.Trouble = err.Error()
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.followed = append(l.followed, told)
}

// readResults reads a stream of results; an error says that it was cut off.
func (l *load) readResults(ctx context.Context, at *gateway, u *upload, more, after string, fn func(check.Result)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url+"/v1/batches/"+u.ID+"/results?after="+url.QueryEscape(after)+more, nil)
	if err != nil {
		return err
	}
	authorize(req, u.Tenant)
	answer, err := (&http.Client{Transport: l.http.Transport}).Do(req) // no end is set to it
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return &statusError{answer.StatusCode, "results"}
	}
	for in := bufio.NewReader(answer.Body); ; {
		line, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			one, err := check.DecodeResult(line, u.Tenant)
			if err != nil {
				return err
			}
			fn(one)
		}
		if err != nil {
			return nil
		}
	}
}

// finishUploads completes the uploads that are not: now that all is well,
// nothing stands in their way.
func (l *load) finishUploads(ctx context.Context) (found []check.Finding) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for i, u := range l.allUploads() {
		for n := i; !u.opened && !l.send(u, l.c.schedulers[n%len(l.c.schedulers)], 0, -1, false); n++ {
			if sleep(ctx, 300*time.Millisecond) != nil {
				found = append(found, check.Finding{Rule: check.RuleStuck, Job: u.ID, Text: "the upload cannot be completed although all is well"})
				break
			}
		}
	}
	return found
}

func (l *load) allUploads() []*upload {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*upload(nil), l.uploads...)
}

// openBatches is how many batches have not ended, as far as somebody knows.
func (l *load) openBatches(ctx context.Context) (n int) {
	for _, u := range l.allUploads() {
		var o check.Object
		if !u.opened {
			continue
		}
		if err := l.c.schedulers[0].get(ctx, u.Tenant, "/v1/batches/"+u.ID, &o); err != nil || o.State != "finished" && o.State != "canceled" {
			n++
		}
	}
	return n
}

// countObjects asks every scheduler for every batch and for its results. Each
// follows what the leader does a moment later, so it has some time to know
// that a batch has ended.
func (l *load) countObjects(ctx context.Context) (objects []check.Object, results []check.Results) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for _, g := range l.c.schedulers {
		for _, u := range l.allUploads() {
			o := check.Object{}
			_ = again(ctx, func() error {
				now := check.Object{Status: http.StatusOK}
				err := g.get(ctx, u.Tenant, "/v1/batches/"+u.ID, &now)
				var status *statusError
				if errors.As(err, &status) {
					now.Status = status.status
				} else if err != nil {
					return err // what was answered before stands
				}
				o = now
				if err == nil && u.opened && o.State != "finished" && o.State != "canceled" {
					return errors.New("it has not ended here")
				}
				return err
			})
			o.From, o.ID = g.name, u.ID
			objects = append(objects, o)
			if o.State == "finished" || o.State == "canceled" {
				results = append(results, l.allResults(ctx, g, u))
			}
		}
	}
	return objects, results
}

func (l *load) allResults(ctx context.Context, g *gateway, u *upload) check.Results {
	told := check.Results{From: g.name, ID: u.ID}
	err := again(ctx, func() error {
		told.Told = nil
		return l.readResults(ctx, g, u, "", "", func(r check.Result) { told.Told = append(told.Told, r) })
	})
	if err != nil {
		told.Trouble = err.Error()
	}
	return told
}
