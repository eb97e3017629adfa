package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Bucket is a store of objects.
type Bucket string

// The buckets. Names of objects in Inputs and Outputs begin with the job's ID
// and a slash, so that what belongs to no job can be found and removed.
const (
	Images  Bucket = "IMG" // image archives, by digest
	Inputs  Bucket = "IN"
	Outputs Bucket = "OUT"
)

// Object is what is known of a stored object.
type Object struct {
	Name   string
	Size   int64
	SHA256 string // hex
	At     time.Time
}

// An object larger than partSize is stored as several, since single large
// ones fail on replicated streams and stall slow readers. The parts come
// first, named NAME#0000 and on; the object of that name is then empty and
// says how many there are, so that it exists only when it is whole.
const (
	partSize   = 32 << 20
	metaParts  = "sandlot-parts"
	metaSize   = "sandlot-size"
	metaSHA256 = "sandlot-sha256"
	metaSchema = "sandlot-schema"
)

func partName(name string, i int) string { return fmt.Sprintf("%s#%04d", name, i) }

// Put stores an object, replacing one of the same name when it is whole.
func (q *Queue) Put(ctx context.Context, b Bucket, name string, r io.Reader) (Object, error) {
	if b != Images {
		if id, _, ok := strings.Cut(name, "/"); !ok || checkToken(id) != nil {
			return Object{}, fmt.Errorf("put %s: %q does not begin with a job's ID and a slash", b, name)
		}
	}
	store, err := q.js.ObjectStore(ctx, string(b))
	if err != nil {
		return Object{}, fmt.Errorf("put %s %s: %w", b, name, err)
	}
	obj, err := q.putParts(ctx, store, name, r)
	if err != nil {
		if full := refusedObject(b, err); full != nil {
			err = full
		}
		return Object{}, fmt.Errorf("put %s %s: %w", b, name, err)
	}
	return obj, nil
}

func (q *Queue) putParts(ctx context.Context, store jetstream.ObjectStore, name string, r io.Reader) (Object, error) {
	sum := sha256.New()
	counted := &counter{r: io.TeeReader(r, sum)}
	first, err := io.ReadAll(io.LimitReader(counted, smallObject+1))
	if err != nil {
		return Object{}, err
	}
	meta := jetstream.ObjectMeta{Name: name, Metadata: map[string]string{metaSchema: strconv.Itoa(job.Schema)}}
	parts := 0
	if len(first) > smallObject {
		rest := io.MultiReader(bytes.NewReader(first), counted)
		for more := true; more; parts++ {
			n, err := putOne(ctx, store, jetstream.ObjectMeta{Name: partName(name, parts)}, io.LimitReader(rest, partSize))
			if err != nil {
				removeParts(ctx, store, name, parts+1)
				return Object{}, err
			}
			more = n == partSize
		}
		first = nil
	}
	obj := Object{Name: name, Size: counted.n, SHA256: hex.EncodeToString(sum.Sum(nil)), At: time.Now()}
	meta.Metadata[metaParts] = strconv.Itoa(parts)
	meta.Metadata[metaSize] = strconv.FormatInt(obj.Size, 10)
	meta.Metadata[metaSHA256] = obj.SHA256
	if err := putSurely(ctx, store, meta, first); err != nil {
		removeParts(ctx, store, name, parts)
		return Object{}, err
	}
	return obj, nil
}

// smallObject is stored in one piece, after it has been read whole.
const smallObject = 1 << 20

// partTimeout bounds the way of one part, in either direction.
const partTimeout = 10 * time.Minute

// putSurely stores what is in memory, again while the server is away, until
// ctx ends.
func putSurely(ctx context.Context, store jetstream.ObjectStore, meta jetstream.ObjectMeta, body []byte) error {
	for {
		_, err := putOne(ctx, store, meta, bytes.NewReader(body))
		if err == nil || !transient(err) {
			return err
		}
		if ended := pause(ctx, 100*time.Millisecond); ended != nil {
			return fmt.Errorf("%w (%w)", ended, err)
		}
	}
}

func putOne(ctx context.Context, store jetstream.ObjectStore, meta jetstream.ObjectMeta, r io.Reader) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	// Where a deadline is set, the client sets none to the answers: one that
	// gets lost would be waited for until then.
	untimed, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, end)()
	info, err := store.Put(untimed, meta, r)
	if err != nil {
		return 0, err
	}
	return int64(info.Size), nil
}

func removeParts(ctx context.Context, store jetstream.ObjectStore, name string, parts int) {
	ctx = context.WithoutCancel(ctx)
	for i := range parts {
		_ = store.Delete(ctx, partName(name, i))
	}
}

// refusedObject is err as a FullError if it is one.
func refusedObject(b Bucket, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeStoreFailed || api.ErrorCode == codeMaxBytes || api.ErrorCode == codeNoStorage) {
		return &FullError{What: fmt.Sprintf("objects %s: %s", b, api.Description), RetryAfter: 30 * time.Second}
	}
	return nil
}

// Stat says what is known of an object, or job.ErrNotFound.
func (q *Queue) Stat(ctx context.Context, b Bucket, name string) (Object, error) {
	_, obj, _, err := q.stat(ctx, b, name)
	return obj, err
}

func (q *Queue) stat(ctx context.Context, b Bucket, name string) (jetstream.ObjectStore, Object, int, error) {
	store, err := q.js.ObjectStore(ctx, string(b))
	if err != nil {
		return nil, Object{}, 0, fmt.Errorf("object %s %s: %w", b, name, err)
	}
	info, err := store.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, Object{}, 0, fmt.Errorf("object %s %s: %w", b, name, job.ErrNotFound)
	}
	if err != nil {
		return nil, Object{}, 0, fmt.Errorf("object %s %s: %w", b, name, err)
	}
	parts, err1 := strconv.Atoi(info.Metadata[metaParts])
	size, err2 := strconv.ParseInt(info.Metadata[metaSize], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return nil, Object{}, 0, fmt.Errorf("object %s %s was not put by Sandlot: %w", b, name, err)
	}
	return store, Object{Name: name, Size: size, SHA256: info.Metadata[metaSHA256], At: info.ModTime}, parts, nil
}

// Open reads an object, or job.ErrNotFound. The reader fails instead of
// ending if the content is not what was put. Close it; it lives no longer
// than ctx.
func (q *Queue) Open(ctx context.Context, b Bucket, name string) (io.ReadCloser, Object, error) {
	store, obj, parts, err := q.stat(ctx, b, name)
	if err != nil {
		return nil, Object{}, err
	}
	names := []string{name}
	if parts > 0 {
		names = names[:0]
		for i := range parts {
			names = append(names, partName(name, i))
		}
	}
	return &objectReader{ctx: ctx, q: q, bucket: b, store: store, obj: obj, names: names, sum: sha256.New()}, obj, nil
}

// objectReader reads the parts of an object one after the other. It holds
// its context as a reader must: Read has none.
type objectReader struct {
	ctx    context.Context
	q      *Queue
	bucket Bucket
	store  jetstream.ObjectStore
	obj    Object
	names  []string
	now    *chunks

	sum  hash.Hash
	size int64
}

func (r *objectReader) Read(p []byte) (int, error) {
	for {
		if r.now == nil {
			if len(r.names) == 0 {
				return 0, r.verify()
			}
			part, err := r.open(r.names[0])
			if err != nil {
				return 0, fmt.Errorf("object %s: part %s: %w", r.obj.Name, r.names[0], err)
			}
			r.now, r.names = part, r.names[1:]
		}
		n, err := r.now.read(r.ctx, p)
		r.sum.Write(p[:n])
		r.size += int64(n)
		if errors.Is(err, io.EOF) {
			r.now, err = nil, nil
		}
		if err != nil {
			err = fmt.Errorf("object %s: %w", r.obj.Name, err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (r *objectReader) open(name string) (*chunks, error) {
	info, err := r.store.GetInfo(r.ctx, name)
	if err != nil {
		return nil, err
	}
	return &chunks{q: r.q, stream: "OBJ_" + string(r.bucket), subject: "$O." + string(r.bucket) + ".C." + info.NUID,
		left: int64(info.Size), next: 1}, nil
}

// chunks reads one stored object, page by page. The client's own reader would
// have a consumer push them, which a slow reader chokes on, and for which a
// worker would need the right to have any subject written to.
type chunks struct {
	q               *Queue
	stream, subject string
	left            int64 // bytes to come
	next            uint64
	page            []message
	rest            []byte // of the chunk that is being read
}

// chunkPage is how many chunks are asked for at once, of 128 KiB each.
const chunkPage = 16

func (c *chunks) read(ctx context.Context, p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.left <= 0 {
			return 0, io.EOF
		}
		if len(c.page) == 0 {
			if err := c.fetch(ctx); err != nil {
				return 0, err
			}
		}
		c.rest, c.page = c.page[0].data, c.page[1:]
		c.left -= int64(len(c.rest))
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunks) fetch(ctx context.Context) (err error) {
	c.page, _, err = c.q.batch(ctx, c.stream, batchRequest{Seq: c.next, NextFor: c.subject, Batch: chunkPage})
	if err == nil && len(c.page) == 0 {
		// A replica may lag; the leader knows whether it is gone.
		var m message
		if m, err = c.q.nextAtLeader(ctx, c.stream, c.subject, c.next); err == nil {
			c.page = []message{m}
		}
	}
	if err != nil {
		return fmt.Errorf("%d bytes are missing: %w", c.left, err)
	}
	c.next = c.page[len(c.page)-1].seq + 1
	return nil
}

func (r *objectReader) verify() error {
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != r.obj.SHA256 || r.size != r.obj.Size {
		return fmt.Errorf("object %s: %d bytes with sha256 %s instead of %d with %s", r.obj.Name, r.size, got, r.obj.Size, r.obj.SHA256)
	}
	return io.EOF
}

// Close ends the reading; after it Read may not be called.
func (r *objectReader) Close() error { return nil }

// Delete removes an object; one that is not there is no error.
func (q *Queue) Delete(ctx context.Context, b Bucket, name string) error {
	store, _, parts, err := q.stat(ctx, b, name)
	if errors.Is(err, job.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := store.Delete(ctx, name); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("delete %s %s: %w", b, name, err)
	}
	removeParts(ctx, store, name, parts)
	return nil
}

// objects calls fn for every object of a bucket, parts included.
func (q *Queue) objects(ctx context.Context, b Bucket, fn func(name string, at time.Time)) error {
	prefix := "$O." + string(b) + ".M."
	return q.scan(ctx, "OBJ_"+string(b), prefix+">", func(m message) {
		name, err := base64.URLEncoding.DecodeString(strings.TrimPrefix(m.subject, prefix))
		if err != nil || bytes.Contains(m.data, []byte(`"deleted":true`)) {
			return
		}
		fn(string(name), m.at)
	})
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// deleteRaw removes one entry of a bucket, be it an object or a part.
func (q *Queue) deleteRaw(ctx context.Context, b Bucket, name string) error {
	store, err := q.js.ObjectStore(ctx, string(b))
	if err == nil {
		err = store.Delete(ctx, name)
	}
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("delete %s %s: %w", b, name, err)
	}
	return nil
}
