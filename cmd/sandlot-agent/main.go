// Command sandlot-agent is process 1 of every sandbox. It speaks pkg/frame with the worker over its standard input
// and output, and says nothing of the job there that the worker has to believe.
//
//	main thread   reads frames, hands them on, never waits for the job
//	launch        a thread that cannot gain privileges; every program of the job is its child
//	hands         a thread with the job's file permissions; puts files, reads artifacts
//	step          waits for the program, ends what it left behind, reports
//	pump, feed    output and input of the program
//
// It trusts its worker and nothing else. It ends, and with it the sandbox, when the worker's end of the channel
// closes, when the worker is silent in the middle of a step, and on SIGTERM.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit codes: the end of the sandbox, as its runtime sees it.
const (
	exitShutdown = 0 // asked to by the worker
	exitSetup    = 2
	exitEOF      = 3 // the channel closed
	exitSilence  = 4
	exitProtocol = 5
	exitSignal   = 6
)

// config is what the sandbox's specification tells the agent on its command line.
type config struct {
	disk string // where a tmpfs with the size of the job's disk limit is mounted
	size int64  // the disk limit, for the layout that has to mount its own
	uid  int    // the job's user and group
	gid  int
}

func main() {
	cfg := config{disk: "/run/sandlot/disk", size: 256 << 20, uid: 1000, gid: 1000}
	flag.StringVar(&cfg.disk, "disk", cfg.disk, "mounted tmpfs that backs the writable directories")
	flag.Int64Var(&cfg.size, "size", cfg.size, "bytes of a writable directory that has to be mounted separately")
	flag.IntVar(&cfg.uid, "uid", cfg.uid, "user of the job")
	flag.IntVar(&cfg.gid, "gid", cfg.gid, "group of the job")
	flag.Parse()
	os.Exit(run(cfg))
}

func run(cfg config) int {
	// The agent ends a step by killing everything it can see.
	if os.Getpid() != 1 {
		complain("must be process 1 of its own pid namespace")
		return exitSetup
	}
	catchSignals()
	unix.Umask(0o022)
	a := newAgent(os.Stdin, os.Stdout)
	hello, err := prepare(cfg)
	if err == nil {
		err = a.startThreads(cfg)
	}
	if err != nil {
		complain("%v", err)
		a.refuse(err)
		return exitSetup
	}
	return a.serve(hello)
}

// catchSignals ends the sandbox on the signals that ask for it. SIGPIPE is caught, not ignored: a write to a closed
// channel then fails with an error, and programs still start with the default action.
func catchSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		<-end
		os.Exit(exitSignal)
	}()
}

// complain writes a diagnostic for the sandbox's log.
func complain(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "sandlot-agent: "+format+"\n", args...)
}
