package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"testing"
	"testing/synctest"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// wire gives an agent whose frames can be read from the other end.
func wire() (*agent, *frame.Reader) {
	r, w := io.Pipe()
	return newAgent(nil, w), frame.NewReader(r, frame.Agent)
}

func TestPumpHoldsItsBufferAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, in := wire()
		const limit = 3 * frame.MaxData
		p := newPump(1, frame.Stdout, nil, limit)
		data := make([]byte, 10*frame.MaxData)
		_, _ = rand.Read(data)
		added := 0
		p.run.Go(func() {
			for ; added < len(data); added += frame.MaxData {
				p.add(data[added : added+frame.MaxData])
			}
			p.mu.Lock()
			p.eof = true
			p.moved.Broadcast()
			p.mu.Unlock()
		})
		p.run.Go(func() { p.write(a) })
		synctest.Wait()
		// One chunk is in the hands of the writer, the buffer is full, and the next add waits.
		if want := limit + frame.MaxData; added != want {
			t.Errorf("took %d bytes with nobody reading, want %d", added, want)
		}
		var got []byte
		for seq := uint64(0); ; seq++ {
			f, err := in.Next()
			if err != nil {
				t.Fatal(err)
			}
			if end, ok := f.(*frame.OutputEOF); ok {
				if end.Chunks != seq || end.Bytes != int64(len(data)) {
					t.Errorf("%+v", end)
				}
				break
			}
			out := f.(*frame.Output)
			if out.Seq != seq {
				t.Fatalf("chunk %d, want %d", out.Seq, seq)
			}
			got = append(got, out.Data...)
		}
		p.run.Wait()
		if !bytes.Equal(got, data) {
			t.Error("data has changed on the way")
		}
	})
}

func TestPumpReadsWhatAnOpenPipeStillHolds(t *testing.T) {
	a, in := wire()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // nobody closes it before the end
	p := newPump(1, frame.Stderr, r, 1<<20)
	if _, err := io.WriteString(w, "last words"); err != nil {
		t.Fatal(err)
	}
	p.start(a)
	go p.finish()
	var got string
	for {
		f, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if out, ok := f.(*frame.Output); ok {
			got += string(out.Data)
			continue
		}
		break
	}
	if got != "last words" {
		t.Errorf("%q", got)
	}
}

func TestFeedKeepsToTheWindow(t *testing.T) {
	f := newFeed(1, true)
	full := make([]byte, frame.StdinWindow)
	if err := f.push(full); err != nil {
		t.Fatal(err)
	}
	if f.push([]byte("x")) == nil {
		t.Error("more than the window is taken")
	}
	if err := f.end(); err != nil {
		t.Error(err)
	}
	if f.end() == nil || f.push(nil) == nil {
		t.Error("input after its end is taken")
	}
	if newFeed(1, false).push([]byte("x")) == nil {
		t.Error("input is taken that nobody asked for")
	}
}

func TestFeedGivesEverythingBackWhenNobodyReads(t *testing.T) {
	a, in := wire()
	f := newFeed(1, true)
	r, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	f.start(a)
	if err := f.push(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	for left := 100_000; left > 0; {
		fr, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		left -= int(fr.(*frame.StdinTaken).Bytes)
	}
	f.stop()
}
