package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// maxArtifacts is how many artifacts of a job are kept, maxArtifactNames how
// many bytes their names may have, so that their list fits into the record.
// The rest is dropped and evidence.hit says so.
const (
	maxArtifacts     = 500
	maxArtifactNames = 64 << 10
)

// errAborted ends the upload of an artifact that was never sealed.
var errAborted = errors.New("artifact was not sealed")

// store is the part of the queue that keeps objects.
type store interface {
	// PutOutput stores all that r holds under the name in the bucket OUT.
	PutOutput(ctx context.Context, name string, r io.Reader) error
}

// outputs is the queue as a store.
type outputs struct{ queue *queue.Queue }

// PutOutput stores an object.
func (o outputs) PutOutput(ctx context.Context, name string, r io.Reader) error {
	_, err := o.queue.Put(ctx, queue.Outputs, name, r)
	return err
}

// artifacts streams the files that a job leaves behind into the store, one
// after the other.
type artifacts struct {
	store  store
	prefix string // of the objects' names; unique per attempt

	list    []job.Artifact
	names   int // bytes of the names in list
	dropped int
	open    *artifact
}

// create opens the place for one artifact of at most size bytes.
func (a *artifacts) create(ctx context.Context, path string, size int64) (io.WriteCloser, error) {
	a.close()
	if len(a.list) >= maxArtifacts || a.names+len(path) > maxArtifactNames {
		a.dropped++
		return discard{}, nil
	}
	reader, writer := io.Pipe()
	one := &artifact{
		all: a, pipe: writer, left: size, hash: sha256.New(), uploaded: make(chan error, 1),
		meta: job.Artifact{Path: path, Ref: fmt.Sprintf("%s/artifact/%d", a.prefix, len(a.list))},
	}
	a.open = one
	go func() {
		err := a.store.PutOutput(ctx, one.meta.Ref, reader)
		// A store that gives up early must not leave the writer waiting.
		_ = reader.CloseWithError(fmt.Errorf("store artifact: %w", errors.Join(err, io.ErrClosedPipe)))
		one.uploaded <- err
	}()
	return one, nil
}

// close ends an upload that was left open and waits for it.
func (a *artifacts) close() {
	if a.open != nil {
		_ = a.open.pipe.CloseWithError(errAborted)
		<-a.open.uploaded
		a.open = nil
	}
}

// artifact is one file on its way into the store.
type artifact struct {
	all      *artifacts
	pipe     *io.PipeWriter
	left     int64
	hash     hash.Hash
	uploaded chan error
	meta     job.Artifact
}

// Write takes the next bytes of the file.
func (a *artifact) Write(p []byte) (int, error) {
	if int64(len(p)) > a.left {
		return 0, fmt.Errorf("artifact %q is longer than was said", a.meta.Path)
	}
	n, err := a.pipe.Write(p)
	a.left -= int64(n)
	a.hash.Write(p[:n])
	a.meta.Bytes += int64(n)
	return n, err
}

// Close seals the artifact once all of it is stored.
func (a *artifact) Close() error {
	if a.all.open != a {
		return nil
	}
	a.all.open = nil
	_ = a.pipe.Close()
	if err := <-a.uploaded; err != nil {
		return fmt.Errorf("store artifact %q: %w", a.meta.Path, err)
	}
	a.meta.SHA256 = hex.EncodeToString(a.hash.Sum(nil))
	a.all.list = append(a.all.list, a.meta)
	a.all.names += len(a.meta.Path)
	return nil
}

// discard takes an artifact that is one too many.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
