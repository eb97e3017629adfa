package scheduler

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Callbacks says who may be told of the end of a batch.
type Callbacks struct {
	// Allow are the hosts that may be called: "example.org", "*.example.org"
	// for those below it, "example.org:8443" for another port than 443, "*"
	// for all. None by default.
	Allow []string
	// Private are networks that may be called although they are not public.
	Private []netip.Prefix
	// Roots are the authorities that are trusted; those of the system if nil.
	Roots *x509.CertPool
	// Backoff is the pause after the first failure, doubled after each; 2 s
	// by default.
	Backoff time.Duration
}

// A callback is tried for callbackTime, with pauses up to callbackPause; each
// try takes callbackTry at most.
const (
	callbackTime  = 24 * time.Hour
	callbackPause = 30 * time.Minute
	callbackTry   = 10 * time.Second
	// callsAtOnce is how many callbacks are under way at once.
	callsAtOnce = 8
)

// callbacks calls back. It never follows a redirect, and the address is
// checked when it is dialed, after the name has been resolved, so that no name
// can lead to where it may not.
type callbacks struct {
	Callbacks
	client *http.Client
}

func newCallbacks(cfg Callbacks) *callbacks {
	setDefault(&cfg.Backoff, 2*time.Second)
	c := &callbacks{Callbacks: cfg}
	dialer := &net.Dialer{Timeout: 5 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("address %s: %w", address, err)
		}
		return c.checkAddress(at.Addr())
	}}
	c.client = &http.Client{
		Timeout: callbackTry,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// notPublic are networks that are nobody's on the internet, beside those that
// netip knows by name.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
}

// checkAddress refuses what is not public, unless it is configured.
func (c *callbacks) checkAddress(at netip.Addr) error {
	at = at.Unmap().WithZone("")
	within := func(p netip.Prefix) bool { return p.Contains(at) }
	if slices.ContainsFunc(c.Private, within) {
		return nil
	}
	if !at.IsGlobalUnicast() || at.IsPrivate() || slices.ContainsFunc(notPublic, within) {
		return fmt.Errorf("%s is no public address, and not one that the operator allows", at)
	}
	return nil
}

// check refuses a callback that could not be made, so that its user knows at
// once and not after the batch.
func (c *callbacks) check(asked *api.Callback) error {
	if asked == nil {
		return nil
	}
	if why := c.refuse(asked.URL); why != "" {
		return invalid("callback.url", clean(asked.URL), "%s", why)
	}
	return nil
}

// refuse says why an address cannot be called, "" if it can.
func (c *callbacks) refuse(address string) string {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || len(address) > 2048:
		return "is not an address; write one such as https://example.org/done"
	case u.Scheme != "https":
		return "must begin with https://"
	case u.User != nil || u.Fragment != "":
		return "must be without user, password and fragment; callbacks are signed"
	}
	if at, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := c.checkAddress(at); err != nil {
			return err.Error()
		}
	}
	if !c.allowed(u) {
		if len(c.Allow) == 0 {
			return "cannot be called: this server allows no callbacks; its operator names hosts by --callback-allow"
		}
		return fmt.Sprintf("cannot be called: the operator allows callbacks to %s", strings.Join(c.Allow, ", "))
	}
	return ""
}

func (c *callbacks) allowed(u *url.URL) bool {
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	setDefault(&port, "443")
	return slices.ContainsFunc(c.Allow, func(rule string) bool {
		if rule == "*" {
			return true
		}
		wantPort := "443"
		if h, p, err := net.SplitHostPort(rule); err == nil {
			rule, wantPort = h, p
		}
		rule = strings.ToLower(strings.Trim(rule, "[]"))
		below, wild := strings.CutPrefix(rule, "*")
		return port == wantPort && (rule == host || wild && strings.HasPrefix(below, ".") && strings.HasSuffix(host, below))
	})
}

// Headers of a callback. The signature is "t=<seconds>,v1=<hex>" with the
// HMAC-SHA256 of "<seconds>.<body>"; a second v1 is by the former secret.
const (
	headerEvent     = "Sandlot-Event"
	headerSignature = "Sandlot-Signature"
)

// sign is the signature of a body at a time.
func sign(at time.Time, body []byte, secrets ...string) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	text := "t=" + seconds
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(seconds + "."))
		mac.Write(body)
		text += ",v1=" + hex.EncodeToString(mac.Sum(nil))
	}
	return text
}

// post makes one call.
func (c *callbacks) post(ctx context.Context, address, event string, body []byte, secrets []string) error {
	if why := c.refuse(address); why != "" { // the operator may have changed his mind
		return errors.New(why)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", typeJSON)
	req.Header.Set("User-Agent", "sandlot")
	req.Header.Set(headerEvent, event)
	req.Header.Set(headerSignature, sign(time.Now(), body, secrets...))
	answer, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4096)
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("it was answered with %s", answer.Status)
	}
	return nil
}

// formerSigns is how long a secret that was replaced goes on to sign.
const formerSigns = 24 * time.Hour

// call makes the callbacks that are due, until ctx ends. What was tried is
// written down before the next try, so that a new leader goes on there; a try
// whose outcome could not be written is made again.
func (l *batchLead) call(ctx context.Context) error {
	wakes := l.s.folds.wake()
	defer l.s.folds.unwake(wakes)
	for {
		next := l.callDue(ctx)
		timer := time.NewTimer(max(next, 50*time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-wakes:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// callDue makes the callbacks that are due and says when to look again.
func (l *batchLead) callDue(ctx context.Context) time.Duration {
	due, next := l.s.folds.toCall(time.Now())
	var group errgroup.Group
	group.SetLimit(callsAtOnce)
	for _, v := range due {
		group.Go(func() error {
			if err := l.callOne(ctx, v); err != nil && ctx.Err() == nil && !errors.Is(err, job.ErrNotFound) {
				l.s.log.Warn("callback", "batch", v.ID, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait()
	if len(due) > 0 {
		return 0
	}
	return next
}

// callOne makes one try and writes down how it went.
func (l *batchLead) callOne(ctx context.Context, v foldView) error {
	secret, err := l.s.Queue.Callbacks(ctx, v.Tenant)
	if err != nil {
		return err
	}
	secrets := []string{secret.Secret}
	if time.Since(secret.CreatedAt) < formerSigns {
		secrets = append(secrets, secret.Former)
	}
	// The body must not tell of tries, or it would differ from one to the next.
	told := v.api()
	told.Called = nil
	body, err := encode(api.BatchEvent{Event: v.Called.Event, Type: "batch." + string(v.State), Batch: told})
	if err != nil {
		return err
	}
	failed := l.s.callbacks.post(ctx, v.Callback.URL, v.Called.Event, body, secrets)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c, err := l.s.Queue.ChangeBatch(ctx, v.Tenant, v.ID, func(b *job.Batch) error {
		if b.Called == nil || b.Called.Attempts != v.Called.Attempts {
			return job.ErrStale // somebody else has called
		}
		noteCall(b.Called, time.Now().UTC(), b.FinishedAt, failed, l.s.callbacks.Backoff)
		return nil
	})
	if errors.Is(err, job.ErrStale) {
		return nil
	}
	if err == nil {
		l.s.folds.set(c)
	}
	return err
}

// noteCall writes down how a try went, and when the next one is.
func noteCall(c *job.Called, now, since time.Time, failed error, backoff time.Duration) {
	c.Attempts++
	c.LastAt, c.NextAt, c.Error = now, time.Time{}, ""
	if failed == nil {
		c.DoneAt = now
		return
	}
	c.Error = clean(failed.Error())
	pause := min(backoff<<min(c.Attempts-1, 20), callbackPause)
	if next := now.Add(pause); next.Before(since.Add(callbackTime)) {
		c.NextAt = next
	}
}
