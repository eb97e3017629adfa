package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// peer is a queue that others have made: its server, and a process that
// submits and works (bench/peers).
type peer struct {
	dir    string
	server *process
	client *process
	in     io.WriteCloser
}

// peers are those that take turns with ours.
func (s *settings) peers(profile queue.Profile) []contender {
	if s.peerBinary == "" {
		return nil
	}
	return []contender{
		{name: "river", start: func(ctx context.Context) (system, error) {
			return s.startPeer(ctx, "river", func(dir string) (*process, string, error) { return startPostgres(ctx, dir, profile) })
		}},
		{name: "asynq", start: func(ctx context.Context) (system, error) {
			return s.startPeer(ctx, "asynq", func(dir string) (*process, string, error) { return startRedis(ctx, dir, profile) })
		}},
	}
}

func (s *settings) startPeer(ctx context.Context, name string, server func(dir string) (*process, string, error)) (_ system, err error) {
	p := &peer{}
	if p.dir, err = os.MkdirTemp("", "sandlot-bench-"+name+"-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	address := ""
	if p.server, address, err = server(p.dir); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.peerBinary, name, address)
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.client, err = begin(ctx, name, "ready", cmd)
	return p, err
}

// turn has the peer run n jobs.
func (p *peer) turn(ctx context.Context, n int) (measured, error) {
	before, err := p.used()
	if err != nil {
		return measured{}, err
	}
	fmt.Fprintln(p.in, n)
	var word string
	select {
	case line, ok := <-p.client.lines:
		if !ok {
			return measured{}, errors.New("it ended")
		}
		word = line
	case <-ctx.Done():
		return measured{}, context.Cause(ctx)
	}
	seconds, err := strconv.ParseFloat(strings.TrimPrefix(word, "took "), 64)
	if err != nil {
		return measured{}, fmt.Errorf("it said %q", word)
	}
	after, err := p.used()
	return costs(n, time.Duration(seconds*float64(time.Second)), before, after), err
}

func (p *peer) used() ([]spent, error) {
	var all []spent
	for _, one := range []*process{p.server, p.client} {
		d, err := one.used()
		if err != nil {
			return nil, err
		}
		all = append(all, spent{one.name, d})
	}
	return all, nil
}

func (p *peer) close() error {
	return errors.Join(p.client.stop(), p.server.stop(), os.RemoveAll(p.dir))
}

// startPostgres makes a database of its own and serves it. PostgreSQL refuses
// to be root, so it is the user of its package.
func startPostgres(ctx context.Context, dir string, profile queue.Profile) (*process, string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, "", errors.New("PostgreSQL is not installed; bench/peers/setup.sh does it")
	}
	bin := filepath.Dir(slices.Max(found))
	as, err := asPostgres(dir)
	if err != nil {
		return nil, "", err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "bench", "--no-sync")
	initdb.SysProcAttr = as
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	settings := fmt.Sprintf("-D %s -p %d -k %s -c listen_addresses=127.0.0.1", data, port, dir)
	if profile == queue.Balanced {
		settings += " -c synchronous_commit=off"
	}
	cmd := exec.Command("sh", "-c", "exec "+filepath.Join(bin, "postgres")+" "+settings+" 2>&1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as.Credential}
	p, err := begin(ctx, "postgres", "ready to accept connections", cmd)
	return p, fmt.Sprintf("postgres://bench@127.0.0.1:%d/postgres?sslmode=disable", port), err
}

// asPostgres gives the directory to the user of the package where we are root.
func asPostgres(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return as, os.Chown(dir, int(uid), int(gid))
}

func startRedis(ctx context.Context, dir string, profile queue.Profile) (*process, string, error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	sync := map[queue.Profile]string{queue.Balanced: "everysec", queue.Strict: "always"}[profile]
	p, err := begin(ctx, "redis", "Ready to accept connections", exec.Command("redis-server",
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir,
		"--appendonly", "yes", "--appendfsync", sync, "--save", ""))
	return p, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

// freePort is one that nobody listens on at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
