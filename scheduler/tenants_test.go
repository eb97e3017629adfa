package scheduler_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/scheduler"
)

// as is a client with another token, or that speaks for another tenant.
func (w *world) as(tok, tenant string) *client.Client {
	return client.New(client.Config{Server: w.url, Token: tok, Tenant: tenant, Patience: -1})
}

// tenant makes a tenant, and a client with a token of its own.
func (w *world) tenant(id string, share job.Share) *client.Client {
	w.t.Helper()
	_, err := w.client.SetTenant(w.ctx, id, api.TenantSettings{Share: share})
	must(w.t, err)
	tok, err := w.client.NewToken(w.ctx, id, "test")
	must(w.t, err)
	return w.as(tok.Token, "")
}

func TestTenantsTokenSpeaksForItAlone(t *testing.T) {
	w := newWorld(t, nil)
	acme, other := w.tenant("acme", job.Share{Weight: 2}), w.tenant("other", job.Share{})
	mine, err := acme.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	if _, err := acme.Get(w.ctx, mine.ID); err != nil {
		t.Errorf("its own job: %v", err)
	}
	if _, err := w.as(token, "acme").Get(w.ctx, mine.ID); err != nil {
		t.Errorf("the operator on its behalf: %v", err)
	}
	for who, c := range map[string]*client.Client{"another tenant": other, "the operator for the default tenant": w.client} {
		if _, err := c.Get(w.ctx, mine.ID); problem(t, err).Status != http.StatusNotFound {
			t.Errorf("%s gets it: %v", who, err)
		}
		if _, err := c.Cancel(w.ctx, mine.ID); problem(t, err).Status != http.StatusNotFound {
			t.Errorf("%s cancels it: %v", who, err)
		}
		list, err := c.List(w.ctx, client.ListOptions{})
		must(t, err)
		if len(list.Jobs) != 0 {
			t.Errorf("%s sees %+v", who, list.Jobs)
		}
	}
	for what, ask := range map[string]func() error{
		"set tenant":   func() error { _, err := acme.SetTenant(w.ctx, "acme", api.TenantSettings{}); return err },
		"list tenants": func() error { _, err := acme.Tenants(w.ctx); return err },
		"read another": func() error { _, err := acme.Tenant(w.ctx, "other"); return err },
		"remove":       func() error { return acme.RemoveTenant(w.ctx, "other") },
		"make a token": func() error { _, err := acme.NewToken(w.ctx, "acme", ""); return err },
		"drop a token": func() error { return acme.RemoveToken(w.ctx, "other", "x") },
		"drop image":   func() error { return acme.DeleteImage(w.ctx, "python") },
	} {
		if p := problem(t, ask()); p.Status != http.StatusForbidden || p.Type != api.TypeForbidden {
			t.Errorf("%s: %v", what, p)
		}
	}
	if got, err := acme.Tenant(w.ctx, "acme"); err != nil || got.Weight != 2 || got.Queued != 1 {
		t.Errorf("itself: %+v %v", got, err)
	}
}

func TestUnknownTenantIsToldByName(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.as(token, "nobody").Submit(w.ctx, echo("x"), 0)
	if p := problem(t, err); p.Status != http.StatusNotFound || !strings.Contains(p.Detail, `no tenant "nobody"`) || !strings.Contains(p.Detail, "sandlot tenants set nobody") {
		t.Errorf("%+v", p)
	}
	w.tenant("acme", job.Share{})
	tok, err := w.client.NewToken(w.ctx, "acme", "")
	must(t, err)
	_, err = w.as(tok.Token, "default").Queues(w.ctx)
	if p := problem(t, err); p.Status != http.StatusForbidden || !strings.Contains(p.Detail, `for tenant "acme", not for "default"`) {
		t.Errorf("%+v", p)
	}
	if _, err := w.as(tok.Token, "acme").Queues(w.ctx); err != nil {
		t.Error(err)
	}
	must(t, w.client.RemoveToken(w.ctx, "acme", tok.ID))
	if _, err := w.as(tok.Token, "").Queues(w.ctx); problem(t, err).Status != http.StatusUnauthorized {
		t.Errorf("with a token that was revoked: %v", err)
	}
	if err := w.client.RemoveToken(w.ctx, "acme", tok.ID); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestSecretsAreStoredAsDigests(t *testing.T) {
	w := newWorld(t, nil)
	w.tenant("acme", job.Share{})
	tok, err := w.client.NewToken(w.ctx, "acme", "ci")
	must(t, err)
	set, _, err := w.queue.Tenant(w.ctx, "acme")
	must(t, err)
	if len(set.Tokens) != 2 || set.Tokens[1].ID != tok.ID || len(set.Tokens[1].SHA256) != 64 || strings.Contains(tok.Token, set.Tokens[1].SHA256) {
		t.Fatalf("%+v", set.Tokens)
	}
	shown, err := w.client.Tenant(w.ctx, "acme")
	must(t, err)
	if len(shown.Tokens) != 2 || shown.Tokens[1].Name != "ci" || shown.Tokens[1].Token != "" {
		t.Fatalf("%+v", shown.Tokens)
	}
}

func TestSettingsThatAreWrongAreNamed(t *testing.T) {
	w := newWorld(t, nil)
	cases := map[string]struct{ path, body, location, says string }{
		"weight":         {"/v1/tenants/acme", `{"weight":0}`, "weight", "between 1 and 1000"},
		"negative cap":   {"/v1/tenants/acme", `{"max_running":-1}`, "max_running", "0 for no cap"},
		"rate of none":   {"/v1/tenants/acme", `{"rate":{"burst":3}}`, "rate.per_second", "is missing"},
		"rate of zero":   {"/v1/queues/night", `{"rate":{"per_second":0}}`, "rate.per_second", "or pause"},
		"rate as number": {"/v1/queues/night", `{"rate":5}`, "rate", "per_second"},
		"typo":           {"/v1/queues/night", `{"wieght":5}`, "wieght", `did you mean "weight"`},
		"retention":      {"/v1/tenants/acme", `{"retention":"1ms"}`, "retention_ms", "between 1 s"},
		"of a queue":     {"/v1/queues/night", `{"retention":"1h"}`, "retention", "is not a field"},
		"tenant's name":  {"/v1/tenants/a.b", `{}`, "tenant", "letters, digits"},
		"queue's name":   {"/v1/queues/a%20b", `{}`, "queue", "letters, digits"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			status, _, body := w.ask("PUT", c.path, "application/json", c.body)
			if status != 422 || !strings.Contains(string(body), `"location":"`+c.location+`"`) || !strings.Contains(strings.ReplaceAll(string(body), `\"`, `"`), c.says) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

func TestSettingsChangeOnlyFromWhatWasRead(t *testing.T) {
	w := newWorld(t, nil)
	first, err := w.client.SetQueue(w.ctx, "night", api.QueueSettings{Share: job.Share{Weight: 3}})
	must(t, err)
	_, err = w.client.SetQueue(w.ctx, "night", api.QueueSettings{Share: job.Share{Weight: 4}})
	must(t, err)
	_, err = w.client.SetQueue(w.ctx, "night", api.QueueSettings{Share: job.Share{Weight: 5}, Revision: first.Revision})
	if p := problem(t, err); p.Status != http.StatusConflict {
		t.Errorf("%+v", p)
	}
	queues, err := w.client.Queues(w.ctx)
	must(t, err)
	if len(queues) != 1 || queues[0].Name != "night" || queues[0].Weight != 4 {
		t.Errorf("%+v", queues)
	}
	must(t, w.client.ResetQueue(w.ctx, "night"))
	if err := w.client.ResetQueue(w.ctx, "night"); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("forgotten twice: %v", err)
	}
}

func TestTenantWithJobsIsNotRemoved(t *testing.T) {
	w := newWorld(t, nil)
	acme := w.tenant("acme", job.Share{})
	waits, err := acme.Submit(w.ctx, echo("x"), 0)
	must(t, err)
	if p := problem(t, w.client.RemoveTenant(w.ctx, "acme")); p.Status != http.StatusConflict || !strings.Contains(p.Detail, "one job") {
		t.Errorf("%+v", p)
	}
	_, err = acme.Cancel(w.ctx, waits.ID)
	must(t, err)
	eventually(t, w, "it is seen to have ended", func() bool {
		got, err := w.client.Tenant(w.ctx, "acme")
		return err == nil && got.Queued == 0
	})
	must(t, w.client.RemoveTenant(w.ctx, "acme"))
	if _, err := acme.Queues(w.ctx); problem(t, err).Status != http.StatusUnauthorized {
		t.Errorf("its token: %v", err)
	}
	if err := w.client.RemoveTenant(w.ctx, "acme"); problem(t, err).Status != http.StatusNotFound {
		t.Errorf("removed twice: %v", err)
	}
	if err := w.client.RemoveTenant(w.ctx, "default"); problem(t, err).Status != http.StatusConflict {
		t.Errorf("the default one: %v", err)
	}
}

func TestEverySchedulerKnowsASettingWithinASecond(t *testing.T) {
	w := newWorld(t, nil)
	q, err := queue.Open(w.ctx, queue.Config{Server: w.server, Name: "second", Logger: w.log})
	must(t, err)
	t.Cleanup(q.Close)
	second := *w
	second.queue, second.change = q, func(c *scheduler.Config) { c.Queue = q }
	second.start("127.0.0.1:0")
	t.Cleanup(func() { second.stop() })
	for range 3 {
		tok, err := w.client.NewToken(w.ctx, "default", "")
		must(t, err)
		began := time.Now()
		there := second.as(tok.Token, "")
		eventually(t, w, "the second knows the token", func() bool { _, err := there.Queues(w.ctx); return err == nil })
		if took := time.Since(began); took > time.Second {
			t.Errorf("after %v", took)
		}
	}
}

// eventually waits until ok is true, asking again at short intervals.
func eventually(t testing.TB, w *world, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-w.ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// TestATenantsRetentionRulesItsResults: how long a result is kept is the
// tenant's setting at the time of the accept, and what is over goes with all
// that belonged to it.
func TestATenantsRetentionRulesItsResults(t *testing.T) {
	w := newWorld(t, nil)
	brief := w.tenant("brief", job.Share{})
	_, err := w.client.SetTenant(w.ctx, "brief", api.TenantSettings{Retention: 1000})
	must(t, err)
	usual := w.tenant("usual", job.Share{})
	w.work(1, func(r job.Record) (job.State, *job.Result) {
		out, err := w.queue.Put(w.ctx, queue.Outputs, r.ID+"/stdout", strings.NewReader("out"))
		must(t, err)
		return job.Succeeded, &job.Result{Verdict: job.Verdict{Reason: job.Exited}, Steps: []job.StepResult{{Name: "run", Stdout: job.Output{Ref: out.Name}}}}
	})
	short, err := brief.Submit(w.ctx, echo("x"), 20*time.Second)
	must(t, err)
	long, err := usual.Submit(w.ctx, echo("x"), 20*time.Second)
	must(t, err)
	if kept := short.ExpiresAt.Sub(short.UpdatedAt); kept != time.Second {
		t.Errorf("the brief tenant's result is kept for %s", kept)
	}
	if kept := long.ExpiresAt.Sub(long.UpdatedAt); kept != 24*time.Hour {
		t.Errorf("the usual tenant's result is kept for %s", kept)
	}
	w.until("the result is gone", func() bool {
		_, err := brief.Get(w.ctx, short.ID)
		return err != nil && problem(t, err).Status == http.StatusNotFound
	})
	_, err = w.queue.Orphans(w.ctx, 0)
	must(t, err)
	if _, err := w.queue.Stat(w.ctx, queue.Outputs, short.ID+"/stdout"); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("its output: %v", err)
	}
	if _, err := w.queue.Stat(w.ctx, queue.Outputs, long.ID+"/stdout"); err != nil {
		t.Errorf("the other's output: %v", err)
	}
	for _, ms := range []job.Millis{1, 11 * 365 * 24 * 3600 * 1000} {
		_, err := w.client.SetTenant(w.ctx, "brief", api.TenantSettings{Retention: ms})
		if p := problem(t, err); p.Status != http.StatusUnprocessableEntity || p.Errors[0].Location != "retention_ms" {
			t.Errorf("retention of %d ms: %v", ms, p)
		}
	}
}
