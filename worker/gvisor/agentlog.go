package gvisor

import (
	"fmt"
	"io"
	"sync"
)

// agentLog drains the agent's standard error and keeps its end: what an agent
// says before it dies belongs into the fault's detail.
type agentLog struct {
	reading sync.WaitGroup

	mu   sync.Mutex
	tail []byte
}

const tailSize = 512

func readAgentLog(from io.Reader) *agentLog {
	l := &agentLog{}
	l.reading.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := from.Read(buffer)
			l.keep(buffer[:n])
			if err != nil {
				return
			}
		}
	})
	return l
}

func (l *agentLog) keep(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, data...)
	if over := len(l.tail) - tailSize; over > 0 {
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
}

// quote is the log's end as an addition to a sentence; empty if there is none.
func (l *agentLog) quote() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tail) == 0 {
		return ""
	}
	return fmt.Sprintf("; the agent said %q", l.tail)
}

// wait returns when the log has ended.
func (l *agentLog) wait() { l.reading.Wait() }
