package ha

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// keys is the directory that `sandlot nats roles` has made, and the text for
// the server.
func keys(t *testing.T) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	stdout, stderr, code := program(t).Run(t, "nats", "roles", "--out", dir, "--worker", "w1", "--worker", "w2", "--output", "json")
	if code != 0 {
		t.Fatalf("nats roles exits with %d: %s", code, stderr)
	}
	var files map[string]string
	if err := json.Unmarshal([]byte(stdout), &files); err != nil || files["worker-main-w1"] == "" {
		t.Fatalf("%v in %s", err, stdout)
	}
	text, err := os.ReadFile(files["config"])
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if key, err := queue.ReadKey(file); err == nil && strings.Contains(string(text), key.Seed) {
			t.Errorf("the seed of %s stands in the server's configuration", file)
		}
	}
	return dir, string(text)
}

// Each role does its whole work with its own key: a scheduler that leads, a
// gateway that is asked, a worker, an observer.
func TestEachRoleWorksWithItsOwnKey(t *testing.T) {
	dir, config := keys(t)
	url := testenv.NATSURL(testenv.NATSServers(t, need.NATSServer(t), testenv.NATSOptions{Extra: config}))
	key := func(name string) string { return filepath.Join(dir, name+".nk") }

	leader := scheduler(t, url, "--nats-nkey", key("scheduler"))
	gateway := scheduler(t, url, "--nats-nkey", key("gateway"), "--gateway")
	startWorker(t, queue.Config{URL: url, Name: "w1", Role: queue.RoleWorker, KeyFile: key("worker-main-w1")}, 2)
	admin := connect(t, queue.Config{URL: url, Name: "admin", Role: queue.RoleAdmin, KeyFile: key("admin")})
	setImage(t, admin)
	gateway.WaitForWorkers(t, 1)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(i *testenv.Instance, s api.Submit) api.Job {
		t.Helper()
		done, err := i.Client.Submit(ctx, s, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	for _, i := range []*testenv.Instance{gateway, leader} {
		if done := run(i, testenv.Sh("echo hello")); testenv.Verdict(done) != "succeeded none exited" {
			t.Errorf("%s", testenv.Verdict(done))
		}
	}
	t.Run("objects in and out", func(t *testing.T) {
		large := testenv.Sh("cat big; echo")
		large.Files = []job.File{{Path: "big", Content: strings.Repeat("0123456789abcdef", 20_000)}}
		large.Artifacts = []string{"big"}
		done := run(gateway, large)
		if testenv.Verdict(done) != "succeeded none exited" || done.Steps[0].Stdout.Bytes != 320_001 || len(done.Artifacts) != 1 {
			t.Fatalf("%s: %+v %+v", testenv.Verdict(done), done.Steps[0].Stdout, done.Artifacts)
		}
		if err := gateway.Client.Remove(ctx, done.ID); err != nil {
			t.Error(err)
		}
	})
	t.Run("cancel and logs", func(t *testing.T) {
		long, err := gateway.Client.Submit(ctx, testenv.Sh("echo begun; sleep 60"), 0)
		if err != nil {
			t.Fatal(err)
		}
		errSeen := errors.New("seen")
		err = gateway.Client.FollowLogs(ctx, long.ID, func(api.LogChunk) error { return errSeen })
		if !errors.Is(err, errSeen) {
			t.Errorf("follow logs: %v", err)
		}
		if _, err := gateway.Client.Cancel(ctx, long.ID); err != nil {
			t.Error(err)
		}
		if done, err := gateway.Client.Wait(ctx, long.ID); err != nil || done.State != job.Canceled {
			t.Errorf("%s, %v", testenv.Verdict(done), err)
		}
	})
	t.Run("observe", func(t *testing.T) {
		q := connect(t, queue.Config{URL: url, Name: "observer", Role: queue.RoleObserver, KeyFile: key("observer")})
		if workers, err := q.Workers(ctx); err != nil || len(workers) != 1 {
			t.Errorf("%v, %v", workers, err)
		}
		if _, err := q.Depth(ctx, "main", "s"); err != nil {
			t.Error(err)
		}
	})

	for _, i := range []*testenv.Instance{gateway, leader} {
		for line := range strings.Lines(i.Output()) {
			if strings.Contains(strings.ToLower(line), "violation") {
				t.Errorf("a right is missing: %s", line)
			}
		}
	}
	for name, mayNot := range map[string][]string{
		"worker-main-w1": {
			"rdy.main.s.default.x", "in.main.s.default.default.5", "lease.main", "$JS.API.STREAM.DELETE.INTAKE", "$JS.API.STREAM.PURGE.RES_0",
			"$JS.API.STREAM.UPDATE.RES_0", "$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.MSG.DELETE.RES_0", "$JS.API.CONSUMER.CREATE.RES_0.x",
			"$JS.API.CONSUMER.DELETE.READY_main.w_s", "$JS.API.CONSUMER.MSG.NEXT.DELAY.due", "$JS.ACK.DELAY.due.1.1.1.1.0",
			"$KV.WORKERS.main.w2", "$KV.CFG.x", "$KV.BATCH.default.x", "$O.IMG.M.x", "$JS.API.DIRECT.GET.KV_CFG.$KV.CFG.x", "$JS.API.STREAM.MSG.GET.KV_CFG",
			"ctl.w2",
		},
		"gateway": {
			"rdy.main.s.default.x", "lease.main", "$JS.API.STREAM.DELETE.INTAKE", "$JS.API.STREAM.PURGE.RES_0", "$JS.API.STREAM.PURGE.INTAKE",
			"$JS.API.STREAM.CREATE.MINE", "$JS.API.CONSUMER.CREATE.READY_main.x", "$JS.ACK.READY_main.w_s.1.1.1.1.0", "$KV.WORKERS.main.w1",
		},
		"scheduler": {"$JS.API.STREAM.DELETE.RES_0", "$JS.API.STREAM.DELETE.INTAKE", "$JS.API.STREAM.DELETE.KV_CFG", "$JS.API.STREAM.DELETE.OBJ_OUT", "$JS.API.ACCOUNT.PURGE.x"},
		"observer":  {"r.0.default.x", "in.main.s.default.default.5", "$KV.CFG.x", "$JS.API.CONSUMER.CREATE.RES_0.x", "$JS.API.STREAM.PURGE.LOGS", "ctl.w1"},
	} {
		t.Run(name+" is refused the rest", func(t *testing.T) {
			raw := dial(t, url, key(name))
			for _, subject := range mayNot {
				if err := raw.refused(t, func(nc *nats.Conn) error { return nc.Publish(subject, []byte("{}")) }); err != nil {
					t.Errorf("publish to %s: %v", subject, err)
				}
			}
			for _, subject := range []string{"_INBOX_*.>", "_INBOX.>", ">", "r.>", "rdy.>", "$JS.API.>", "ctl.w2"} {
				err := raw.refused(t, func(nc *nats.Conn) error {
					_, err := nc.SubscribeSync(subject)
					return err
				})
				if err != nil {
					t.Errorf("subscribe to %s: %v", subject, err)
				}
			}
		})
	}
	t.Run("a key that nobody knows", func(t *testing.T) {
		stranger, err := queue.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "stranger.nk")
		if err := os.WriteFile(file, []byte(stranger.Seed), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = queue.Open(ctx, queue.Config{URL: url, Name: "stranger", KeyFile: file, Logger: testenv.Logger(t, "stranger")})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "authorization") {
			t.Errorf("got %v", err)
		}
	})
}

// rawConn is a connection that notes what it was refused.
type rawConn struct {
	*nats.Conn
	refusals chan error
}

func dial(t *testing.T, url, keyFile string) *rawConn {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	c := &rawConn{refusals: make(chan error, 100)}
	c.Conn, err = nats.Connect(url, option, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.refusals <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// refused does something and wants it to be refused.
func (c *rawConn) refused(t *testing.T, do func(*nats.Conn) error) error {
	t.Helper()
	if err := do(c.Conn); err != nil {
		return err
	}
	if err := c.FlushTimeout(5 * time.Second); err != nil {
		return err
	}
	select {
	case err := <-c.refusals:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			return fmt.Errorf("refused for another reason: %w", err)
		}
		return nil
	case <-time.After(2 * time.Second):
		return errors.New("it was allowed")
	}
}

// Everything that crosses a wire is encrypted: NATS asks for certificates of
// its clients, the API is served by HTTPS.
func TestConnectionsAreEncrypted(t *testing.T) {
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "nats")
	clientCert, clientKey := ca.issue(t, "client")
	apiCert, apiKey := ca.issue(t, "api")
	servers := testenv.NATSServers(t, need.NATSServer(t), testenv.NATSOptions{Extra: fmt.Sprintf(
		"tls {\n  cert_file: %q\n  key_file: %q\n  ca_file: %q\n  verify: true\n}\n", serverCert, serverKey, ca.file)})
	url := strings.Replace(servers[0].URL, "nats://", "tls://", 1)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := queue.Open(ctx, queue.Config{URL: url, Name: "stranger", TLS: queue.TLS{CA: ca.file}, Logger: testenv.Logger(t, "stranger")})
	if err == nil {
		t.Error("a client without a certificate was let in")
	}

	dir := testenv.ShortDir(t)
	process := program(t).Role(t, "scheduler", dir, "--listen", "127.0.0.1:0", "--nats", url,
		"--nats-ca", ca.file, "--nats-cert", clientCert, "--nats-key", clientKey, "--tls-cert", apiCert, "--tls-key", apiKey)
	var address string
	testenv.Eventually(t, time.Minute, "the scheduler serves", func() bool {
		process.Alive(t)
		text, err := os.ReadFile(filepath.Join(dir, "address"))
		address = strings.TrimSpace(string(text))
		return err == nil
	})
	if !strings.HasPrefix(address, "https://") {
		t.Fatalf("the address is %s", address)
	}
	startWorker(t, queue.Config{URL: url, Name: "w1", TLS: queue.TLS{CA: ca.file, Cert: clientCert, Key: clientKey}}, 1)
	testenv.Eventually(t, time.Minute, "the worker is known", func() bool {
		out, _, code := program(t).Run(t, "workers", "--data-dir", dir, "--ca", ca.file, "--output", "json")
		return code == 0 && strings.Contains(out, `"w1"`)
	})
	if _, stderr, code := program(t).Run(t, "workers", "--data-dir", dir); code == 0 || !strings.Contains(stderr, "certificate") {
		t.Errorf("a client that does not trust the authority gets %d: %s", code, stderr)
	}

	// A certificate that is renewed serves without a restart.
	renewed, renewedKey := ca.issue(t, "renewed")
	for from, to := range map[string]string{renewedKey: apiKey, renewed: apiCert} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, 20*time.Second, "the new certificate is shown", func() bool {
		return ca.shownBy(t, strings.TrimPrefix(address, "https://")) == "renewed"
	})
}
