package scheduler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// A segment of a manifest has at most so many lines and about so many bytes.
const (
	segmentLines = 5000
	segmentBytes = 8 << 20
	// maxSegments bounds what a batch's key has to name.
	maxSegments = 4096
)

// manifestLine is one line of an upload as it is stored: an item, or why the
// line was refused.
type manifestLine struct {
	Line  int    `json:"line"`
	Key   string `json:"key,omitempty"`
	Group string `json:"group,omitempty"`
	// Pool and Class are where it runs.
	Pool  string `json:"pool,omitempty"`
	Class string `json:"class,omitempty"`
	// Preferred and Spill are those of the record.
	Preferred string     `json:"preferred,omitempty"`
	Spill     *job.Spill `json:"spill,omitempty"`
	// Spec has the digest of its image.
	Spec  *job.Spec    `json:"spec,omitempty"`
	Error *api.Problem `json:"error,omitempty"`
}

// packed writes lines of JSON, compressed.
type packed struct {
	out  *zstd.Encoder
	size int64
}

func newPacked(w io.Writer) *packed {
	// The options are constant and valid.
	z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	return &packed{out: z}
}

func (p *packed) add(line any) error {
	data, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	data = append(data, '\n')
	p.size += int64(len(data))
	_, err = p.out.Write(data)
	return err
}

// segment is a manifest segment in the making.
type segment struct {
	job.ManifestSegment
	lines int
	data  bytes.Buffer
	*packed
}

func newSegment(first, line int) *segment {
	s := &segment{ManifestSegment: job.ManifestSegment{First: first, Line: line}}
	s.packed = newPacked(&s.data)
	return s
}

// add takes one line.
func (s *segment) add(l manifestLine) error {
	s.lines++
	if l.Error != nil {
		s.Refused++
	} else {
		s.Jobs++
	}
	return s.packed.add(l)
}

func (s *segment) full() bool { return s.lines >= segmentLines || s.size >= segmentBytes }

// store puts the segment where its batch may name it.
func (s *segment) store(ctx context.Context, q *queue.Queue, batch string, number int) error {
	if err := s.out.Close(); err != nil {
		return fmt.Errorf("pack manifest: %w", err)
	}
	s.Name = fmt.Sprintf("%s/manifest-%04d-%s", batch, number, uuid.NewString()[:8])
	_, err := q.Put(ctx, queue.Inputs, s.Name, &s.data)
	return err
}

// packedReader reads lines of an object.
type packedReader struct {
	z  *zstd.Decoder
	in *bufio.Reader
}

// openPacked opens an object of lines. Close it.
func openPacked(ctx context.Context, q *queue.Queue, b queue.Bucket, name string) (*packedReader, error) {
	object, _, err := q.Open(ctx, b, name)
	if err != nil {
		return nil, err
	}
	// Whole, since who reads may pause for long; compressed it is small.
	data, err := io.ReadAll(object)
	if err = errors.Join(err, object.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &packedReader{z: z, in: bufio.NewReaderSize(z, 64<<10)}, nil
}

// next decodes the next line into v; io.EOF at the end.
func (p *packedReader) next(v any) error {
	raw, err := p.in.ReadBytes('\n')
	if err != nil {
		return err // a line without an end is not there either
	}
	return json.Unmarshal(raw, v)
}

func (p *packedReader) close() { p.z.Close() }

// manifest reads the items of a batch in their order.
type manifest struct {
	q     *queue.Queue
	batch job.Batch
	// at is the next item, left how many the open segment still has.
	at, left int
	open     *packedReader
}

func newManifest(q *queue.Queue, b job.Batch, at int) *manifest {
	return &manifest{q: q, batch: b, at: at}
}

// next is the next item; io.EOF after the last.
func (m *manifest) next(ctx context.Context) (manifestLine, int, error) {
	var l manifestLine
	for {
		if m.open == nil {
			if err := m.seek(ctx); err != nil {
				return l, 0, err
			}
		}
		l = manifestLine{}
		err := m.open.next(&l)
		if errors.Is(err, io.EOF) && m.left == 0 {
			m.close()
			continue
		}
		if err != nil {
			return l, 0, fmt.Errorf("manifest of batch %s at item %d: %w", m.batch.ID, m.at, errEarly(err))
		}
		if l.Error != nil {
			continue
		}
		m.left--
		m.at++
		return l, m.at - 1, nil
	}
}

// errEarly is err, an end being one that came too early.
func errEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// seek opens the segment of the next item there.
func (m *manifest) seek(ctx context.Context) error {
	if m.at >= m.batch.Jobs {
		return io.EOF
	}
	segments := m.batch.Manifest
	i := slices.IndexFunc(segments, func(s job.ManifestSegment) bool { return m.at >= s.First && m.at < s.First+s.Jobs })
	if i < 0 {
		return fmt.Errorf("manifest of batch %s names no item %d", m.batch.ID, m.at)
	}
	open, err := openPacked(ctx, m.q, queue.Inputs, segments[i].Name)
	if err != nil {
		return err
	}
	m.open, m.left = open, segments[i].Jobs
	for skip := m.at - segments[i].First; skip > 0; {
		var l struct {
			Error json.RawMessage `json:"error"`
		}
		if err := open.next(&l); err != nil {
			return fmt.Errorf("manifest of batch %s: %w", m.batch.ID, errEarly(err))
		}
		if l.Error == nil {
			skip--
			m.left--
		}
	}
	return nil
}

func (m *manifest) close() {
	if m.open != nil {
		m.open.close()
		m.open = nil
	}
}

// itemAt is one item of a batch.
func itemAt(ctx context.Context, q *queue.Queue, b job.Batch, index int) (manifestLine, error) {
	m := newManifest(q, b, index)
	defer m.close()
	l, _, err := m.next(ctx)
	return l, err
}
