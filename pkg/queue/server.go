package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
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
	// Logger gets warnings and errors of the server; required.
	Logger *slog.Logger
}

// Server is a NATS server with JetStream inside this process.
type Server struct {
	nats    *server.Server
	profile Profile
	token   string
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
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start queue server: %w", err)
	}
	s.SetLoggerV2(serverLog{cfg.Logger}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(30*time.Second) || !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, errors.New("start queue server: not ready after 30 s; its log says why")
	}
	return &Server{s, cfg.Profile, cfg.Token}, nil
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
	if s.nats.Addr() == nil {
		return ""
	}
	return s.nats.ClientURL()
}

// InProcessConn is a connection without a socket.
func (s *Server) InProcessConn() (net.Conn, error) { return s.nats.InProcessConn() }

// Close stops the server and waits until its files are closed. Closing twice
// is harmless.
func (s *Server) Close() {
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
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
