package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// clients speak HTTP themselves, so that nothing is repeated behind their back,
// and have the ledger know what they were told.
type clients struct {
	url, token string
	http       *http.Client
}

// ask asks once and decodes what is answered; err is for no answer, or one
// that says no.
func (c *clients) ask(ctx context.Context, method, path string, body any, into any) (status int, err error) {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		in = bytes.NewReader(data)
	}
	answer, err := c.send(ctx, method, path, "application/json", in)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	if answer.StatusCode/100 != 2 {
		return answer.StatusCode, fmt.Errorf("%s %s: %s: %.300s", method, path, answer.Status, data)
	}
	return answer.StatusCode, json.Unmarshal(data, into)
}

func (c *clients) send(ctx context.Context, method, path, kind string, in io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, in)
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // never sent twice
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", kind)
	return c.http.Do(req)
}

// scripts are what jobs do.
var scripts = []string{"echo done", "echo done", "echo done", "sleep 0.1; echo done", "sleep 0.5; echo done", "echo no; exit 3", "head -c 80000 /dev/zero; echo done", "sleep 2; echo done"}

func submit(r *rand.Rand) api.Submit {
	return api.Submit{Image: image.Name, Command: []string{"sh", "-c", scripts[r.IntN(len(scripts))]}, Limits: api.Limits{Memory: 64 * job.MiB, Disk: 16 * job.MiB}}
}

// work has them submit, one by one and in lines, wait, look and cancel, until
// ctx ends. At most a few hundred jobs are under way.
func (c *clients) work(ctx context.Context, l *ledger, r *rand.Rand) {
	var all sync.WaitGroup
	for _, one := range []func(context.Context, *ledger, *rand.Rand){
		c.submitter, c.submitter, c.submitter, c.submitter, c.waiter, c.waiter, c.waiter, c.lines, c.lines, c.reader, c.canceler,
	} {
		r := rand.New(rand.NewPCG(r.Uint64(), 3))
		all.Go(func() {
			for ctx.Err() == nil {
				one(ctx, l, r)
				for l.open() > 400 && sleep(ctx, 20*time.Millisecond) == nil {
				}
				_ = sleep(ctx, time.Duration(r.IntN(15))*time.Millisecond)
			}
		})
	}
	all.Wait()
}

// told has the ledger know an answer about a job.
func (c *clients) told(l *ledger, sent time.Time, j api.Job, err error) {
	if err == nil {
		l.accepted(j.ID, sent)
		l.told(j)
	}
}

func (c *clients) submitter(ctx context.Context, l *ledger, r *rand.Rand) {
	var j api.Job
	sent := time.Now()
	_, err := c.ask(ctx, http.MethodPost, "/v1/jobs", submit(r), &j)
	c.told(l, sent, j, err)
}

// waiter submits and waits for the result with the same request.
func (c *clients) waiter(ctx context.Context, l *ledger, r *rand.Rand) {
	var j api.Job
	sent := time.Now()
	_, err := c.ask(ctx, http.MethodPost, "/v1/jobs?wait=3s", submit(r), &j)
	c.told(l, sent, j, err)
}

func (c *clients) reader(ctx context.Context, l *ledger, r *rand.Rand) {
	if id := l.some(r); id != "" {
		var j api.Job
		if _, err := c.ask(ctx, http.MethodGet, "/v1/jobs/"+id+"?wait=1s", nil, &j); err == nil {
			l.told(j)
		}
	}
}

func (c *clients) canceler(ctx context.Context, l *ledger, r *rand.Rand) {
	if id := l.some(r); id != "" {
		var j api.Job
		if _, err := c.ask(ctx, http.MethodPost, "/v1/jobs/"+id+"/cancel", nil, &j); err == nil {
			l.told(j)
		}
	}
	_ = sleep(ctx, 50*time.Millisecond)
}

// lines submits many at once; each line of the answer acknowledges one.
func (c *clients) lines(ctx context.Context, l *ledger, r *rand.Rand) {
	var body bytes.Buffer
	for i := range 5 + r.IntN(60) {
		one := submit(r)
		one.Key = "k" + strconv.Itoa(i)
		data, _ := json.Marshal(one) // plain values, always valid
		body.Write(append(data, '\n'))
	}
	sent := time.Now()
	batch := fmt.Sprintf("b%x", r.Uint64())
	answer, err := c.send(ctx, http.MethodPost, "/v1/jobs?batch="+url.QueryEscape(batch), "application/x-ndjson", &body)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	for in := bufio.NewScanner(answer.Body); in.Scan(); {
		var said struct {
			ID    string          `json:"id"`
			State job.State       `json:"state"`
			Error json.RawMessage `json:"error"`
		}
		if json.Unmarshal(in.Bytes(), &said) == nil && said.ID != "" && said.Error == nil {
			l.accepted(said.ID, sent)
		}
	}
	_ = sleep(ctx, time.Duration(r.IntN(300))*time.Millisecond)
}
