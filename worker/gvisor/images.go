package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// FetchArchive opens the OCI archive of the image with that manifest digest.
type FetchArchive func(ctx context.Context, digest string) (io.ReadCloser, error)

// imageStore places images: archive → containerd's content → unpacked layers
// → one read-only view, shared by all sandboxes of that image. What is placed
// stays, and is found again by a later process.
type imageStore struct {
	client      *containerd.Client
	snapshotter string
	fetch       FetchArchive
	erofs       *erofsStore // nil where there is none: roots are directories
	logger      *slog.Logger

	mu    sync.Mutex
	pulls map[digest.Digest]*pull
}

// rootfs is an image that is ready to be the root of a sandbox.
type rootfs struct {
	mounts []mount.Mount
	// file is the image as one EROFS file, which is then the root instead of
	// the mounts; empty where that cannot be had.
	file string
	env  []string
}

// places are the files and directories of the host that the root is read from.
func (r rootfs) places() []string {
	if r.file != "" {
		return []string{r.file}
	}
	return dirsOf(r.mounts)
}

// mounted is what containerd is to mount as the root: nothing if the root is a
// file.
func (r rootfs) mounted() []mount.Mount {
	if r.file != "" {
		return nil
	}
	return r.mounts
}

// pull is one placing of an image that all who need the image wait for. The
// last who stops waiting ends it. One that succeeded is kept.
type pull struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int
	root    rootfs
	err     error
}

// get returns the image's root, which is in the page cache by then. Its error
// wraps job.ErrImage unless ctx has ended or containerd is away.
func (s *imageStore) get(ctx context.Context, image job.Image) (rootfs, error) {
	want, err := digest.Parse(image.Digest)
	if err != nil {
		return rootfs{}, fmt.Errorf("image %s: %w: %w", image.Name, err, job.ErrImage)
	}
	p := s.join(ctx, want)
	select {
	case <-p.done:
		s.leave(want, p)
		if p.err != nil {
			return rootfs{}, fmt.Errorf("place image %s %s: %w", image.Name, want, p.err)
		}
		return p.root, nil
	case <-ctx.Done():
		s.leave(want, p)
		return rootfs{}, context.Cause(ctx)
	}
}

// join finds the pull of an image, or starts it.
func (s *imageStore) join(ctx context.Context, want digest.Digest) *pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pulls[want]
	if p == nil {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p = &pull{done: make(chan struct{}), cancel: cancel}
		s.pulls[want] = p
		go func() {
			defer close(p.done)
			defer cancel()
			p.root, p.err = s.place(ctx, want)
		}()
	}
	p.waiters++
	return p
}

// leave ends a pull that nobody waits for, and forgets one that failed.
func (s *imageStore) leave(want digest.Digest, p *pull) {
	s.mu.Lock()
	p.waiters--
	last := p.waiters == 0
	kept := finished(p.done) && p.err == nil
	if !kept && (last || finished(p.done)) && s.pulls[want] == p {
		delete(s.pulls, want)
	}
	s.mu.Unlock()
	if last {
		p.cancel()
		<-p.done
	}
}

func finished(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// place brings an image from wherever it is to a read-only view. An image that
// is known but cannot be unpacked, since somebody cut it short or removed a
// part, is forgotten and fetched anew, once.
func (s *imageStore) place(ctx context.Context, want digest.Digest) (rootfs, error) {
	start := time.Now()
	record, err := s.client.ImageService().Get(ctx, imageName(want))
	known := err == nil
	if errdefs.IsNotFound(err) {
		record, err = s.load(ctx, want)
	}
	if err != nil {
		return rootfs{}, err
	}
	root, err := s.view(ctx, want, record)
	if known && errors.Is(err, job.ErrImage) {
		if record, err = s.load(ctx, want); err == nil {
			root, err = s.view(ctx, want, record)
		}
	}
	if err != nil {
		return rootfs{}, err
	}
	if s.erofs != nil {
		if root.file, err = s.erofs.file(ctx, want.Encoded(), root.mounts); err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "image stays a directory", "digest", want.String(), "error", err)
		} else if err != nil {
			return rootfs{}, err
		}
	}
	read, err := warm(ctx, root.places())
	if err != nil {
		return rootfs{}, fmt.Errorf("read image: %w", err)
	}
	s.logger.InfoContext(ctx, "image is ready", "digest", want.String(), "bytes", read, "took", time.Since(start))
	return root, nil
}

// view makes the view of an image, or forgets the image.
func (s *imageStore) view(ctx context.Context, want digest.Digest, record images.Image) (rootfs, error) {
	root, err := s.unpack(ctx, want, containerd.NewImage(s.client, record))
	if err = imageError(err); errors.Is(err, job.ErrImage) {
		forgotten := s.client.ImageService().Delete(ctx, record.Name, images.SynchronousDelete())
		if forgotten != nil && !errdefs.IsNotFound(forgotten) {
			err = errors.Join(err, forgotten)
		}
	}
	return root, err
}

// load fetches the archive and imports it under a name that holds the digest.
func (s *imageStore) load(ctx context.Context, want digest.Digest) (images.Image, error) {
	archive, err := s.fetch(ctx, want.String())
	if err != nil {
		return images.Image{}, fmt.Errorf("fetch archive: %w: %w", err, job.ErrImage)
	}
	// The reader may wait for a transfer that knows nothing of ctx.
	closing := sync.OnceValue(archive.Close)
	defer closing()                                      //nolint:errcheck // it was only read
	defer context.AfterFunc(ctx, func() { closing() })() //nolint:errcheck // as above
	imported, err := s.client.Import(ctx, archive, containerd.WithDigestRef(imageName))
	if err != nil {
		return images.Image{}, imageError(fmt.Errorf("import archive: %w", err))
	}
	for _, image := range imported {
		if image.Target.Digest == want && image.Name == imageName(want) {
			return image, nil
		}
	}
	return images.Image{}, fmt.Errorf("archive holds no image of that digest: %w", job.ErrImage)
}

// unpack unpacks the image and makes the view, if that has not been done.
func (s *imageStore) unpack(ctx context.Context, want digest.Digest, image containerd.Image) (rootfs, error) {
	unpacked, err := image.IsUnpacked(ctx, s.snapshotter)
	if err == nil && !unpacked {
		err = image.Unpack(ctx, s.snapshotter)
	}
	if err != nil {
		return rootfs{}, fmt.Errorf("unpack: %w", err)
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return rootfs{}, fmt.Errorf("layers: %w", err)
	}
	config, err := image.Spec(ctx)
	if err != nil {
		return rootfs{}, fmt.Errorf("configuration: %w", err)
	}
	store := s.client.SnapshotService(s.snapshotter)
	mounts, err := store.Mounts(ctx, viewKey(want))
	if errdefs.IsNotFound(err) {
		// The label keeps it from the garbage collector, for which a view
		// that no container names is garbage.
		root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
		mounts, err = store.View(ctx, viewKey(want), identity.ChainID(layers).String(), root)
	}
	if err != nil {
		return rootfs{}, fmt.Errorf("view: %w", err)
	}
	return rootfs{mounts: mounts, env: config.Config.Env}, nil
}

func imageName(d digest.Digest) string { return "sandlot/" + d.String() }

const viewPrefix = "view-"

func viewKey(d digest.Digest) string { return viewPrefix + d.String() }

// imageError blames the image, unless containerd could not be asked.
func imageError(err error) error {
	if err == nil || errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", err, job.ErrImage)
}
