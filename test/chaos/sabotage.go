package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// Deliberate bugs, for the test of the test: what the product would do if a
// line of it were wrong, done to it on the wire. So the product has no switch
// for them, and each is exactly what the servers would see of the bug.
const (
	// sabotageToken has workers write records whatever stands there: claims
	// and commits name no expected sequence.
	sabotageToken = "no-token"
	// sabotageFence has schedulers release whoever holds the lease.
	sabotageFence = "no-fence"
	// sabotageAck has workers acknowledge a hint when they get it, before
	// anything of the job is recorded.
	sabotageAck = "early-ack"
)

// sabotages lists them.
var sabotages = []string{sabotageToken, sabotageFence, sabotageAck}

// sabotage puts the bug that the setup names into the link of a process.
func sabotage(c *cluster, l *link, process string) error {
	isWorker := strings.HasPrefix(process, "w")
	switch c.Sabotage {
	case "":
	case sabotageToken:
		if isWorker {
			l.saboteur = forget("r.")
		}
	case sabotageFence:
		if !isWorker {
			l.saboteur = forget("rdy.")
		}
	case sabotageAck:
		if isWorker {
			l.overhear = acknowledge(c.direct())
		}
	default:
		return fmt.Errorf("sabotage %q: there are %v", c.Sabotage, sabotages)
	}
	return nil
}

// forget makes a writer that takes expected sequences out of what is published
// under a prefix. The header gets another name of the same length, so that
// all lengths stay right.
func forget(prefix string) func(io.Writer) io.WriteCloser {
	return func(to io.Writer) io.WriteCloser {
		return &frames{to: to, edit: func(subject string, header []byte) {
			if strings.HasPrefix(subject, prefix) {
				copy(header, bytes.ReplaceAll(header, []byte("\r\nNats-Expected-Last-Subject-"), []byte("\r\nXats-Expected-Last-Subject-")))
			}
		}}
	}
}

// frames cuts a client's side of the NATS protocol into its messages and lets
// edit change the headers of each.
type frames struct {
	to     io.Writer
	edit   func(subject string, header []byte)
	buffer []byte
}

// Write takes some bytes and passes on all messages that are whole.
func (f *frames) Write(data []byte) (int, error) {
	f.buffer = append(f.buffer, data...)
	whole := 0
	for {
		n := f.next(f.buffer[whole:])
		if n == 0 {
			break
		}
		whole += n
	}
	_, err := f.to.Write(f.buffer[:whole])
	f.buffer = append(f.buffer[:0], f.buffer[whole:]...)
	return len(data), err
}

// next edits the first message and says how long it is; 0 if it is not whole.
func (f *frames) next(b []byte) int {
	end := bytes.Index(b, []byte("\r\n"))
	if end < 0 {
		return 0
	}
	words := strings.Fields(string(b[:end]))
	end += 2
	if len(words) < 3 || words[0] != "PUB" && words[0] != "HPUB" {
		return end
	}
	size, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		return end
	}
	all := end + size + 2
	if len(b) < all {
		return 0
	}
	if words[0] == "HPUB" {
		if header, err := strconv.Atoi(words[len(words)-2]); err == nil {
			f.edit(words[1], b[end:end+header])
		}
	}
	return all
}

// Close drops what never became whole.
func (f *frames) Close() error { return nil }

// hintReply is where a hint that is delivered is to be acknowledged.
var hintReply = regexp.MustCompile(`\$JS\.ACK\.READY_[^ \r\n]+ `)

// acknowledge makes a listener that acknowledges every hint it hears of.
func acknowledge(url string) func([]byte) {
	var mu sync.Mutex
	var tail []byte
	var nc *nats.Conn
	return func(data []byte) {
		mu.Lock()
		defer mu.Unlock()
		if nc == nil {
			nc, _ = nats.Connect(url, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true)) // the next piece tries again
		}
		tail = append(tail, data...)
		done := 0
		for _, at := range hintReply.FindAllIndex(tail, -1) {
			if nc != nil {
				_ = nc.Publish(string(tail[at[0]:at[1]-1]), []byte("+ACK"))
			}
			done = at[1]
		}
		tail = append([]byte(nil), tail[max(done, len(tail)-300):]...)
	}
}
