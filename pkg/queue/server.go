package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ServerConfig describes an embedded server.
type ServerConfig struct {
	// Dir holds its files; required.
	Dir string
	// Listen is host:port for other processes; empty for none. Port 0 picks one.
	Listen string
	// Token must be shown by who connects to Listen; required with Listen.
	Token string
	// Profile is Balanced if empty.
	Profile Profile
	// MinFree is how many bytes its disk must have free before a server that
	// could not write is started again; as Config.MinFree.
	MinFree int64
	// Logger gets warnings and errors of the server; required.
	Logger *slog.Logger
}

// Server is a NATS server with JetStream inside this process. A disk that is
// full, or fails, makes a NATS server stop writing until it is started again;
// this one starts itself again once there is room.
type Server struct {
	profile Profile
	token   string
	dir     string
	room    room
	log     *slog.Logger
	options *server.Options

	mu   sync.Mutex
	nats *server.Server

	closing chan struct{}
	once    sync.Once
	watched chan struct{} // closed when watch has returned
}

// StartServer starts a server and waits until it is ready.
func StartServer(cfg ServerConfig) (*Server, error) {
	if cfg.Profile == "" {
		cfg.Profile = Balanced
	}
	opts := &server.Options{
		ServerName:             "sandlot",
		JetStream:              true,
		StoreDir:               cfg.Dir,
		JetStreamMaxMemory:     16 << 20, // everything is on file
		JetStreamMaxStore:      storeLimit,
		DontListen:             true,
		NoSigs:                 true,
		NoSystemAccount:        true,
		DisableJetStreamBanner: true,
	}
	switch cfg.Profile {
	case Fast:
		opts.SyncInterval = 2 * time.Minute
	case Balanced:
		opts.SyncInterval = time.Second
	case Strict:
		opts.SyncInterval, opts.SyncAlways = time.Second, true
	default:
		return nil, fmt.Errorf("start queue server: durability %q is not one of a single server; use fast, balanced or strict", cfg.Profile)
	}
	if cfg.Listen != "" {
		if err := listen(opts, cfg); err != nil {
			return nil, fmt.Errorf("start queue server: %w", err)
		}
	}
	s := &Server{
		profile: cfg.Profile, token: cfg.Token, dir: cfg.Dir, room: room{dir: cfg.Dir, floor: cfg.MinFree}, log: cfg.Logger,
		options: opts, closing: make(chan struct{}), watched: make(chan struct{}),
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("start queue server: %w", err)
	}
	if address, ok := s.nats.Addr().(*net.TCPAddr); ok {
		opts.Port = address.Port // the next life listens there again
	}
	go s.watch()
	return s, nil
}

// start begins a life of the server.
func (s *Server) start() error {
	life, err := server.NewServer(s.options.Clone())
	if err != nil {
		return err
	}
	life.SetLoggerV2(serverLog{s.log}, false, false, false)
	life.Start()
	if !life.ReadyForConnections(30*time.Second) || !life.JetStreamEnabled() {
		life.Shutdown()
		life.WaitForShutdown()
		return errors.New("not ready after 30 s; its log says why")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nats = life
	return nil
}

// life is the server as it runs now.
func (s *Server) life() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nats
}

const (
	// watchEvery is how often it is looked whether the store can be written.
	watchEvery = 2 * time.Second
	// startWait is the longest wait between two starts.
	startWait = time.Minute
)

// watch starts the server again when it has stopped writing and there is room.
// Until then it goes on to answer what is asked of what is stored.
func (s *Server) watch() {
	defer close(s.watched)
	var last time.Time
	said := false
	for wait := watchEvery; s.pause(watchEvery); {
		why := s.stopped()
		if why == "" {
			said = false
			continue
		}
		free, floor, err := s.room.left()
		if !said {
			s.log.Error("the queue's store cannot be written: nothing is accepted and no result is stored until its disk has room, then the queue server starts again by itself",
				"reason", why, "dir", s.dir, "free", rounded(free).String(), "needed", rounded(floor).String())
			said = true
		}
		if err != nil || free < floor || time.Since(last) < wait {
			continue
		}
		if wait = min(2*wait, startWait); time.Since(last) > 2*startWait {
			wait = watchEvery
		}
		last = time.Now()
		s.log.Warn("the queue server is started again", "free", rounded(free).String())
		s.shutdown()
		if err := s.start(); err != nil {
			s.log.Error("start queue server", "error", err)
		}
	}
}

// pause waits, and says whether the server is to go on.
func (s *Server) pause(d time.Duration) bool {
	select {
	case <-s.closing:
		return false
	case <-time.After(d):
		return true
	}
}

// stopped is why the server writes no more; empty if it does.
func (s *Server) stopped() string {
	life := s.life()
	if !life.Running() || !life.JetStreamEnabled() {
		return "it is not running"
	}
	// Other complaints are no reason: a stream that is being removed is one.
	for _, e := range life.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, "write error") {
			return e.Error
		}
	}
	return ""
}

func (s *Server) shutdown() {
	life := s.life()
	life.Shutdown()
	life.WaitForShutdown()
}

func listen(opts *server.Options, cfg ServerConfig) error {
	if cfg.Token == "" {
		return errors.New("listening needs a token")
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return err
	}
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return err
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	opts.Host, opts.Authorization, opts.DontListen = host, cfg.Token, false
	return nil
}

// URL is where other processes reach the server; empty without Listen.
func (s *Server) URL() string {
	life := s.life()
	if life.Addr() == nil {
		return ""
	}
	return life.ClientURL()
}

// InProcessConn is a connection without a socket.
func (s *Server) InProcessConn() (net.Conn, error) { return s.life().InProcessConn() }

// Close stops the server and waits until its files are closed. Closing twice
// is harmless.
func (s *Server) Close() {
	s.once.Do(func() { close(s.closing) })
	<-s.watched
	s.shutdown()
}

// serverLog passes on what the server says, without its chatter.
type serverLog struct{ log *slog.Logger }

func (l serverLog) say(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "queue server", "message", fmt.Sprintf(format, v...))
}

// warnLevel is how loud a warning of the server deserves to be. After a kill
// it finds its notes on a stream older than the stream, says so and reads the
// stream instead: nothing that anybody needs to look at.
func warnLevel(format string) slog.Level {
	if strings.Contains(format, "outdated") {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

func (l serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.say(warnLevel(format), format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}
