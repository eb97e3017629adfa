package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where the queue is. Give Server or URL.
type Config struct {
	// Server is an embedded server of this process.
	Server *Server
	// URL is that of an external server; a token may stand in it as user.
	URL string
	// CredsFile holds the credentials for URL; optional.
	CredsFile string
	// KeyFile holds the seed of an nkey for URL; optional.
	KeyFile string
	// Role is what this process does, where it has a key of its own. Only
	// RoleAdmin, RoleScheduler and the empty one make streams; the others
	// wait until these are there.
	Role Role
	// TLS is how a server with tls:// is spoken to; optional.
	TLS TLS
	// Name tells this process from others: it names the connection and owns
	// the release lease. A process that comes back under its old name takes
	// its lease over at once, so no two that live may share one. Required.
	Name string
	// Sizes bounds the streams. Nil keeps what is installed, and installs
	// DefaultSizes where nothing is.
	Sizes *Sizes
	// Replicas of every stream. Zero is what is installed, else what
	// Durability needs.
	Replicas int
	// Durability is what a loss of power may take. Empty is that of Server,
	// or what is installed, else Cluster for several replicas and Balanced
	// for one. Another one than is installed is refused.
	Durability Profile
	// ChangeDurability has what is installed changed to Durability and
	// Replicas instead. No worker may run meanwhile.
	ChangeDurability bool
	// StoreDir is where the server keeps its files, if this process can see
	// them; that of Server by default. While its disk has less than MinFree
	// left no job is accepted.
	StoreDir string
	// MinFree is in bytes; 2 % of the disk by default, at least 32 MiB and at
	// most 1 GiB.
	MinFree int64
	// Logger gets what happens in the background; required.
	Logger *slog.Logger
}

// TLS says which certificates are used. All are PEM files and optional.
type TLS struct {
	// CA is trusted to sign the server's, instead of the system's.
	CA string
	// Cert and Key are shown to a server that asks for them.
	Cert, Key string
}

func (t TLS) options() []nats.Option {
	var opts []nats.Option
	if t.CA != "" {
		opts = append(opts, nats.RootCAs(t.CA))
	}
	if t.Cert != "" {
		opts = append(opts, nats.ClientCert(t.Cert, t.Key))
	}
	return opts
}

// Queue is a connection to the records and the hints of all pools. All methods
// may be called at the same time.
type Queue struct {
	cfg    Config
	log    *slog.Logger
	nc     *nats.Conn
	js     jetstream.JetStream // for what is awaited
	logs   jetstream.JetStream // for log chunks, which may be dropped
	layout layout
	bounds bounds
	room   room

	trouble trouble

	pullers     pullers
	wakers      wakers
	groups      [maxShards]group // by shard; only under Strict
	droppedLogs atomic.Int64

	mu          sync.Mutex
	reconnected chan struct{}
}

// Open connects, creates what is missing of the layout and checks the rest.
// It keeps trying to reach the server until ctx ends.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	q := &Queue{cfg: cfg, log: cfg.Logger, room: room{cfg.StoreDir, cfg.MinFree}, reconnected: make(chan struct{})}
	if cfg.Server != nil && cfg.StoreDir == "" {
		q.room.dir = cfg.Server.dir
	}
	if err := q.connect(ctx); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	if err := q.install(ctx); err != nil {
		q.nc.Close()
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return q, nil
}

func (q *Queue) connect(ctx context.Context) error {
	opts := []nats.Option{
		nats.Name("sandlot " + q.cfg.Name),
		nats.MaxReconnects(-1),
		// Of what is asked for one by one few answers ever wait. The client
		// would set half a megabyte aside for each who asks.
		nats.SyncQueueLen(syncQueue),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.Timeout(2 * time.Second),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				q.log.Warn("queue disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			q.log.Info("queue reconnected")
			q.trouble.note("") // it may be another life of the server
			q.signalReconnect()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			q.log.Warn("queue connection", "error", err)
		}),
	}
	address := q.cfg.URL
	if q.cfg.Server != nil {
		address = ""
		opts = append(opts, nats.InProcessServer(q.cfg.Server), nats.Token(q.cfg.Server.token))
	}
	if q.cfg.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(q.cfg.CredsFile))
	}
	if q.cfg.KeyFile != "" {
		key, err := ReadKey(q.cfg.KeyFile)
		if err != nil {
			return err
		}
		opts = append(opts, key.options()...)
	}
	opts = append(opts, q.cfg.TLS.options()...)
	for {
		nc, err := nats.Connect(address, opts...)
		if err == nil {
			q.nc = nc
			break
		}
		if errors.Is(err, nats.ErrAuthorization) || pause(ctx, 250*time.Millisecond) != nil {
			return fmt.Errorf("connect to %s: %w", q.address(), err)
		}
	}
	var err error
	if q.js, err = jetstream.New(q.nc, jetstream.WithPublishAsyncMaxPending(asyncWindow),
		jetstream.WithDefaultTimeout(apiTimeout)); err != nil {
		return err
	}
	q.logs, err = jetstream.New(q.nc, jetstream.WithPublishAsyncMaxPending(logWindow),
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) { q.droppedLogs.Add(1) }))
	return err
}

// address is where the queue is, for messages: without the token.
func (q *Queue) address() string {
	if q.cfg.Server != nil {
		return "the server of this process"
	}
	if u, err := url.Parse(q.cfg.URL); err == nil {
		u.User = nil
		return u.String()
	}
	return "NATS"
}

const (
	// syncQueue is how many messages wait for a slot at most: its hint, and
	// what was said to earlier requests.
	syncQueue = 64
	// asyncWindow is how many publishes may be under way at once.
	asyncWindow = 512
	// logWindow is how many log chunks may be; more are dropped.
	logWindow  = 256
	apiTimeout = 5 * time.Second
)

// Close ends the connection. What others of this process wait for then fails.
func (q *Queue) Close() {
	if !q.nc.IsClosed() {
		// Acknowledgements may still be on their way out.
		_ = q.nc.FlushTimeout(time.Second)
	}
	q.nc.Close()
}

// Healthy reports why the queue cannot be used now, nil if it can.
func (q *Queue) Healthy(ctx context.Context) error {
	if !q.nc.IsConnected() {
		return fmt.Errorf("queue: not connected (%s)", q.nc.Status())
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for s := range q.layout.shards {
		if _, err := q.js.Stream(ctx, recordStream(s)); err != nil {
			return fmt.Errorf("queue: stream %s: %w", recordStream(s), err)
		}
	}
	return nil
}

// Name is the process's name as configured.
func (q *Queue) Name() string { return q.cfg.Name }

// DroppedLogs counts log chunks that were dropped under back-pressure.
func (q *Queue) DroppedLogs() int64 { return q.droppedLogs.Load() }

// Reconnected is closed at the next reconnect, after which anything kept in
// memory about the queue may be old. Ask again for the one after.
func (q *Queue) Reconnected() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reconnected
}

func (q *Queue) signalReconnect() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.reconnected)
	q.reconnected = make(chan struct{})
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
