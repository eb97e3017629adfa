package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

const (
	// inlineOutput is how much of one stream of one step stands in the record.
	// Of what is longer, half of it is kept from either end.
	inlineOutput = 64 << 10
	// inlineTotal is how much all outputs of a job may take in the record as
	// JSON, which can be six times as long as the text that it holds. A record
	// is at most 1 MiB.
	inlineTotal = 512 << 10
	// spillSlack is what may be kept above the job's output limit, since the
	// limit is noticed a chunk late.
	spillSlack = 1 << 20
)

// output keeps what a job writes: of each stream the two ends in memory, the
// count and digest of all of it, and the whole in a file once it is too long
// for the record.
type output struct {
	dir   string // where files go; made for the first of them
	made  bool   // the directory
	limit int64  // how much all files together may hold
	files int64  // how much they do hold
	// captures has two entries per step, stdout and stderr; nil until the
	// first byte came.
	captures map[captureKey]*capture
}

type captureKey struct {
	step   int
	stream Stream
}

func newOutput(dir string, limit job.Bytes) *output {
	return &output{dir: dir, limit: int64(limit) + spillSlack, captures: map[captureKey]*capture{}}
}

// write takes what step i wrote to the stream.
func (o *output) write(i int, stream Stream, data []byte) error {
	key := captureKey{i, stream}
	c := o.captures[key]
	if c == nil {
		c = &capture{hash: sha256.New()}
		o.captures[key] = c
	}
	c.hash.Write(data)
	before := c.bytes
	c.bytes += int64(len(data))
	c.keep(data)
	if c.bytes <= inlineOutput {
		return nil
	}
	if c.file == nil {
		if err := o.create(c, key); err != nil {
			return fmt.Errorf("keep output: %w", err)
		}
		if err := o.spill(c, c.head[:before]); err != nil {
			return err
		}
	}
	return o.spill(c, data)
}

// create makes the file of a stream. Most jobs have none, and then there is
// no directory either.
func (o *output) create(c *capture, key captureKey) (err error) {
	if !o.made {
		if err := os.MkdirAll(o.dir, 0o700); err != nil {
			return err
		}
		o.made = true
	}
	// The name says whose it is to a reader of the directory.
	c.file, err = os.Create(filepath.Join(o.dir, fmt.Sprintf("%d-%s", key.step, key.stream)))
	return err
}

func (o *output) spill(c *capture, data []byte) error {
	if o.files+int64(len(data)) > o.limit {
		return fmt.Errorf("keep output: more than the %d bytes that its limit allows", o.limit)
	}
	n, err := c.file.Write(data)
	o.files += int64(n)
	if err != nil {
		return fmt.Errorf("keep output: %w", err)
	}
	return nil
}

// close removes the files and their directory.
func (o *output) close() {
	for _, c := range o.captures {
		if c.file != nil {
			_ = c.file.Close()
		}
	}
	if o.made {
		_ = os.RemoveAll(o.dir)
	}
}

// capture is one stream of one step.
type capture struct {
	head  []byte // the first bytes, at most inlineOutput
	tail  []byte // the last bytes, at least inlineOutput/2 of what follows head
	bytes int64
	hash  hash.Hash
	file  *os.File // holds all bytes; nil while head does
}

func (c *capture) keep(data []byte) {
	n := min(len(data), inlineOutput-len(c.head))
	c.head = append(c.head, data[:n]...)
	data = data[n:]
	// Twice what is needed is kept before the front is cut off, so that small
	// writes do not move all of it each time.
	c.tail = append(c.tail, data[max(0, len(data)-inlineOutput):]...)
	if len(c.tail) > 2*inlineOutput {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-inlineOutput:]...)
	}
}

// ends are the first and last keep/2 bytes of a stream that is longer than
// keep, else all of it and nothing.
func (c *capture) ends(keep int) (head, tail []byte) {
	if c.bytes <= int64(keep) {
		return c.head, nil
	}
	half := keep / 2
	all := append(c.head[:len(c.head):len(c.head)], c.tail...)
	return all[:half], all[len(all)-half:]
}

// digest is the SHA-256 of the whole, in hex.
func (c *capture) digest() string { return hex.EncodeToString(c.hash.Sum(nil)) }

// emptyDigest is that of a stream to which nothing was written.
var emptyDigest = (&capture{hash: sha256.New()}).digest()

// inline is the stream as it stands in the record, keep bytes of it at most,
// without the reference to the whole.
func (c *capture) inline(keep int) job.Output {
	if c == nil {
		return job.Output{SHA256: emptyDigest}
	}
	head, tail := c.ends(keep)
	out := job.Output{Bytes: c.bytes, SHA256: c.digest(), Truncated: c.bytes > int64(keep)}
	// A character cut in two by us must not turn text into base64.
	wholeHead, wholeTail := head, tail
	if out.Truncated {
		wholeHead, wholeTail = trimEnd(head), trimStart(tail)
	}
	if utf8.Valid(wholeHead) && utf8.Valid(wholeTail) {
		out.Text = string(wholeHead) + string(wholeTail)
	} else {
		out.Base64 = append(append([]byte{}, head...), tail...)
	}
	return out
}

// trimEnd is b without an incomplete character at its end.
func trimEnd(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		last := b[len(b)-i:]
		if utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return b[:len(b)-i]
			}
			return b
		}
	}
	return b
}

// trimStart is b without the rest of a character at its start.
func trimStart(b []byte) []byte {
	for i := 0; i < utf8.UTFMax && i < len(b); i++ {
		if utf8.RuneStart(b[i]) {
			return b[i:]
		}
	}
	return b
}

// fit is how many bytes of each stream may stand in the record, so that all
// of them together fit.
func (o *output) fit() int {
	for keep := inlineOutput; keep > 0; keep /= 2 {
		total := 0
		for _, c := range o.captures {
			total += encodedLen(c.inline(keep))
		}
		if total <= inlineTotal {
			return keep
		}
	}
	return 0
}

// encodedLen is about how long the output is as JSON, never less.
func encodedLen(o job.Output) int {
	n := len(o.Base64)*4/3 + 4 + len(o.Text)
	for _, b := range []byte(o.Text) {
		if b < 0x20 || b == 0x7f || strings.IndexByte(`<>&`, b) >= 0 {
			n += 5
		} else if b == '"' || b == '\\' {
			n++
		}
	}
	return n
}
