// Command sandlot-runtime is the resident runtime: one process that serves all
// tasks of runtime io.containerd.sandlot.v1 of one containerd. See package
// resident.
//
//	sandlot-runtime -socket PATH -events PATH -settings FILE
//
// It is to be started in a mount namespace of its own, and ends with SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	gvisorlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/version"

	"github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/resident"
)

// The linker keeps version.Version only if something refers to it.
var _ = version.Version()

func main() {
	var o options
	flag.StringVar(&o.socket, "socket", "", "where to serve, an absolute `path`")
	flag.StringVar(&o.events, "events", "", "containerd's socket for events, a `path`")
	flag.StringVar(&o.settings, "settings", "", "the settings of runsc, a TOML `file`")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "sandlot-runtime:", err)
		os.Exit(1)
	}
}

type options struct{ socket, events, settings string }

func run(o options) (err error) {
	if o.socket == "" || o.events == "" || o.settings == "" {
		return errors.New("-socket, -events and -settings are required")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := keepStreams(); err != nil {
		return err
	}
	settings, err := resident.ReadSettings(o.settings, resident.Unified())
	if err != nil {
		return err
	}
	if err := resident.Recover(settings); err != nil {
		return err
	}
	events, err := resident.SendEvents(o.events)
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	service := resident.New(settings, events)
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(resident.Interceptor))
	if err != nil {
		return err
	}
	service.Register(server)
	if err := os.Remove(o.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", o.socket)
	if err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	select {
	case <-ctx.Done():
		err = server.Close()
		<-served
	case err = <-served:
	}
	return errors.Join(err, service.Close())
}

// ready tells whoever started this process that it serves, as systemd wants to
// be told.
func ready() error {
	to := os.Getenv("NOTIFY_SOCKET")
	if to == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", to)
	if err != nil {
		return fmt.Errorf("say that it serves: %w", err)
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}

// keepStreams keeps the log to this process: what runsc calls standard streams
// of its own process it hands to every sandbox.
func keepStreams() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	log.L.Logger.SetOutput(os.Stderr)
	log.L.Logger.SetLevel(log.WarnLevel)
	// gVisor warns anew at every sandbox of what is known and no fault. What
	// fails comes back as an error.
	gvisorlog.SetTarget(gvisorlog.GoogleEmitter{Writer: &gvisorlog.Writer{Next: io.Discard}})
	gvisorlog.SetLevel(gvisorlog.Warning)
	os.Stdin, os.Stdout, os.Stderr = null, null, null
	return nil
}
