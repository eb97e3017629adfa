package worker

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogSendsSmallOutputAfterAShortWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []chunk
		begun := time.Now()
		l := newLogger(func(c chunk) bool {
			if time.Since(begun) > 2*logDelay {
				t.Errorf("a chunk waited %v", time.Since(begun))
			}
			sent = append(sent, c)
			return true
		})
		done := make(chan struct{})
		go func() { l.run(t.Context()); close(done) }()
		l.write(0, Stdout, []byte("one "))
		l.write(0, Stdout, []byte("two"))
		l.write(0, Stderr, []byte("oh"))
		time.Sleep(logDelay)
		synctest.Wait()
		if len(sent) != 2 || string(sent[0].data) != "one two" || string(sent[1].data) != "oh" {
			t.Errorf("sent %v", sent)
		}
		l.close()
		<-done
	})
}

func TestLogKeepsOffsetsAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var whole []byte
		l := newLogger(func(c chunk) bool {
			if len(c.data) > logChunk {
				t.Errorf("chunk of %d bytes", len(c.data))
			}
			if c.offset != int64(len(whole)) {
				t.Errorf("chunk begins at %d, want %d", c.offset, len(whole))
			}
			whole = append(whole, c.data...)
			return true
		})
		data := bytes.Repeat([]byte("0123456789"), 10_000)
		l.write(0, Stdout, data[:70_000])
		l.write(0, Stdout, data[70_000:])
		l.close()
		l.run(t.Context())
		if !bytes.Equal(whole, data) || l.dropped != 0 {
			t.Errorf("sent %d bytes of %d, dropped %d", len(whole), len(data), l.dropped)
		}
	})
}

func TestLogNeverHoldsTheProgramUp(t *testing.T) {
	l := newLogger(nil)
	l.write(0, Stdout, make([]byte, 3*logBuffer))
	l.write(0, Stdout, make([]byte, 100))
	if l.held > logBuffer || l.dropped != 2*logBuffer+100 {
		t.Errorf("holds %d, dropped %d", l.held, l.dropped)
	}
	chunks, _ := l.take()
	l.write(0, Stdout, []byte("later"))
	next, _ := l.take()
	if len(chunks) == 0 || len(next) != 1 || next[0].offset != 3*logBuffer+100 {
		t.Errorf("after a gap the offset is %d, want %d", next[0].offset, 3*logBuffer+100)
	}
}

func TestLogThatCannotBeSentIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogger(func(chunk) bool { return false })
		l.write(0, Stderr, make([]byte, 10))
		l.close()
		l.run(t.Context())
		if l.dropped != 10 {
			t.Errorf("dropped %d, want 10", l.dropped)
		}
	})
}
