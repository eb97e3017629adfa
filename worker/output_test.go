package worker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func captured(t *testing.T, data []byte, chunk int) (*output, *capture) {
	t.Helper()
	o := newOutput(t.TempDir(), 16<<20)
	t.Cleanup(o.close)
	for rest := data; len(rest) > 0; {
		n := min(chunk, len(rest))
		if err := o.write(0, Stdout, rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	return o, o.captures[captureKey{0, Stdout}]
}

func TestOutputKeepsBothEndsAndTheWhole(t *testing.T) {
	random := make([]byte, 5<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	for _, size := range []int{0, 1, 100, inlineOutput - 1, inlineOutput, inlineOutput + 1, inlineOutput + 100, 3 * inlineOutput, 5 << 20} {
		for _, chunk := range []int{777, 32 << 10, 5 << 20} {
			data := random[:size]
			_, c := captured(t, data, chunk)
			out := c.inline(inlineOutput)
			sum := sha256.Sum256(data)
			if out.Bytes != int64(size) || out.SHA256 != hex.EncodeToString(sum[:]) {
				t.Fatalf("%d bytes in chunks of %d: counted %d, digest %s", size, chunk, out.Bytes, out.SHA256)
			}
			want := data
			if size > inlineOutput {
				want = append(append([]byte{}, data[:inlineOutput/2]...), data[size-inlineOutput/2:]...)
				if whole, err := os.ReadFile(c.file.Name()); err != nil || !bytes.Equal(whole, data) {
					t.Fatalf("%d bytes in chunks of %d: the file holds %d: %v", size, chunk, len(whole), err)
				}
			}
			got := out.Base64
			if out.Base64 == nil {
				got = []byte(out.Text)
			}
			if out.Truncated != (size > inlineOutput) || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes in chunks of %d: kept %d, want %d", size, chunk, len(got), len(want))
			}
		}
	}
}

func TestCutCharactersStayText(t *testing.T) {
	for name, text := range map[string]string{
		"two bytes":   "é",
		"three bytes": "€",
		"four bytes":  "🦊",
	} {
		for shift := range 4 {
			t.Run(name, func(t *testing.T) {
				data := strings.Repeat("x", shift) + strings.Repeat(text, inlineOutput)
				_, c := captured(t, []byte(data), 4096)
				out := c.inline(inlineOutput)
				if out.Base64 != nil || !out.Truncated || !utf8.ValidString(out.Text) {
					t.Fatalf("kept as base64: %v, truncated: %v", out.Base64 != nil, out.Truncated)
				}
				if lost := inlineOutput - len(out.Text); lost > 6 {
					t.Errorf("%d bytes were dropped at the cut", lost)
				}
			})
		}
	}
}

func TestBinaryIsBase64EvenWhenOnlyItsEndIsBroken(t *testing.T) {
	_, c := captured(t, []byte("ok\xff"), 10)
	if out := c.inline(inlineOutput); out.Text != "" || string(out.Base64) != "ok\xff" {
		t.Errorf("kept as %+v", out)
	}
	// Not cut by us: an incomplete character at the end is the program's.
	_, c = captured(t, []byte("ok\xe2\x82"), 10)
	if out := c.inline(inlineOutput); string(out.Base64) != "ok\xe2\x82" {
		t.Errorf("kept as %+v", out)
	}
}

func TestManyOutputsFitIntoOneRecord(t *testing.T) {
	o := newOutput(t.TempDir(), 64<<20)
	defer o.close()
	nul := make([]byte, inlineOutput)
	for i := range 20 {
		for _, s := range []Stream{Stdout, Stderr} {
			if err := o.write(i, s, nul); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep, total := o.fit(), 0
	for _, c := range o.captures {
		text, err := json.Marshal(c.inline(keep))
		if err != nil {
			t.Fatal(err)
		}
		total += len(text)
	}
	if keep < 1024 || total > inlineTotal+len(o.captures)*200 {
		t.Errorf("keeping %d of each makes %d bytes", keep, total)
	}
}

func TestOutputNeverFillsTheDisk(t *testing.T) {
	o := newOutput(t.TempDir(), 1<<20)
	defer o.close()
	chunk := make([]byte, 512<<10)
	var err error
	for range 10 {
		if err = o.write(0, Stderr, chunk); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("5 MiB were kept for a limit of 1 MiB")
	}
}

func TestClosedOutputLeavesNoFile(t *testing.T) {
	o, c := captured(t, make([]byte, 1<<20), 4096)
	if _, err := c.file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	o.close()
	if left, err := os.ReadDir(o.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left %v: %v", left, err)
	}
}
