package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	diskSize = 1 << 30
	pageSize = 4096
	// sectorSize is what a disk writes whole or not at all.
	sectorSize = 512
)

// supply is the power of some disks, which they lose together.
type supply struct {
	mu sync.Mutex
	// left is how many writes there are still to be before the cut; negative
	// for no end.
	left int
	off  bool
	at   time.Time     // of the cut
	cut  chan struct{} // closed then
	// dead is closed once nobody waits for a disk any more; until then who
	// asks one after the cut hangs.
	dead     chan struct{}
	released bool
}

func newSupply() *supply {
	return &supply{left: -1, cut: make(chan struct{}), dead: make(chan struct{})}
}

// cutAfter cuts the power in the middle of what is being written: after so
// many writes more, or now if that many do not come.
func (s *supply) cutAfter(writes int, patience time.Duration) time.Time {
	s.mu.Lock()
	s.left = writes
	s.mu.Unlock()
	select {
	case <-s.cut:
	case <-time.After(patience):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutNow()
	return s.at
}

// cutNow is the instant of the loss: what is not flushed by now may be gone.
func (s *supply) cutNow() {
	if !s.off {
		s.off, s.at = true, time.Now()
		close(s.cut)
	}
}

// on reports whether there is power for one more request.
func (s *supply) on(write bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return false
	}
	if write && s.left >= 0 {
		if s.left--; s.left < 0 {
			s.cutNow()
			return false
		}
	}
	return true
}

// release lets those go on that hang, to an I/O error.
func (s *supply) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutNow()
	if !s.released {
		s.released = true
		close(s.dead)
	}
}

// disk is a disk with a cache of its own that forgets: what was written since
// the last flush may or may not be there when the power comes back. It is the
// one file of a FUSE file system, made a block device by the loop driver, with
// a real ext4 on it. So what a file system keeps in memory, in which order it
// writes, and what an fsync promises are the kernel's own.
//
//	server -> ext4, page cache -> loop -> FUSE -> fresh -> (flush) -> firm
type disk struct {
	dir     string // place/ is where the file system of the disk is mounted
	options string // of that mount

	loop   string
	server *fuse.Server

	mu   sync.Mutex
	firm []byte
	// fresh is what was written since the last flush, page by page.
	fresh   map[int64][]byte
	power   *supply
	flushes int64
}

// newDisk formats a disk; it is not mounted yet.
func newDisk(dir, options string) (*disk, error) {
	firm, err := unix.Mmap(-1, 0, diskSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("memory of the disk: %w", err)
	}
	d := &disk{dir: dir, options: options, firm: firm, fresh: map[int64][]byte{}, power: newSupply()}
	for _, sub := range []string{d.raw(), d.place()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
	}
	if err := d.attach(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	err = command("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", d.loop)
	if err := errors.Join(err, d.detach()); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *disk) raw() string { return filepath.Join(d.dir, "raw") }

// place is where its files are.
func (d *disk) place() string { return filepath.Join(d.dir, "place") }

// attach makes it a block device.
func (d *disk) attach() (err error) {
	d.server, err = fs.Mount(d.raw(), &folder{disk: d}, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "sandlot-power", Name: "power", MaxWrite: 1 << 20, DisableXAttrs: true,
	}})
	if err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	out, err := exec.Command("losetup", "--find", "--show", filepath.Join(d.raw(), "disk")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("losetup: %w: %s", err, out)
	}
	d.loop = strings.TrimSpace(string(out))
	return nil
}

func (d *disk) detach() (err error) {
	if d.loop != "" {
		err, d.loop = command("losetup", "--detach", d.loop), ""
	}
	if d.server != nil {
		err = errors.Join(err, d.server.Unmount())
		d.server = nil
	}
	return err
}

// mount gives the disk power and mounts its file system, which repairs itself
// from its journal.
func (d *disk) mount(power *supply) error {
	d.power = power
	if err := d.attach(); err != nil {
		return err
	}
	args := []string{"-t", "ext4"}
	if d.options != "" {
		args = append(args, "-o", d.options)
	}
	return command("mount", append(args, d.loop, d.place())...)
}

// lose takes the disk away once all that used it is dead, and decides what of
// the fresh pages survives: each does, or does not, or in part.
func (d *disk) lose(r *rand.Rand) (pages, lost int, err error) {
	d.power.release()
	if err := command("umount", d.place()); err != nil {
		return 0, 0, err
	}
	if err := d.detach(); err != nil {
		return 0, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	odds := []float64{0, 0.5, 0.9}[r.IntN(3)]
	for _, n := range slices.Sorted(maps.Keys(d.fresh)) { // the same again for a seed
		pages++
		torn := r.IntN(8) == 0
		whole := r.Float64() < odds
		kept := whole || torn
		for at := int64(0); at < pageSize; at += sectorSize {
			if whole && !torn || torn && r.Float64() < odds {
				copy(d.firm[n*pageSize+at:], d.fresh[n][at:at+sectorSize])
			} else {
				kept = false
			}
		}
		if !kept {
			lost++
		}
	}
	d.fresh = map[int64][]byte{}
	return pages, lost, nil
}

// close gives back what the disk holds, whatever state it is in.
func (d *disk) close() error {
	d.power.release()
	_ = unix.Unmount(d.place(), unix.MNT_DETACH) // it may not be mounted
	return errors.Join(d.detach(), unix.Munmap(d.firm))
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// folder is the FUSE file system; its one file is the disk.
type folder struct {
	fs.Inode
	disk *disk
}

var _ fs.NodeOnAdder = (*folder)(nil)

func (f *folder) OnAdd(ctx context.Context) {
	f.AddChild("disk", f.NewPersistentInode(ctx, &file{disk: f.disk}, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

type file struct {
	fs.Inode
	disk *disk
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
)

func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, diskSize
	return 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, into []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	err := f.disk.do(false, func(d *disk) {
		into = into[:min(int64(len(into)), diskSize-at)]
		copy(into, d.firm[at:])
		for n := at / pageSize; n*pageSize < at+int64(len(into)); n++ {
			if page := d.fresh[n]; page != nil {
				from := max(at, n*pageSize)
				copy(into[from-at:], page[from-n*pageSize:])
			}
		}
	})
	return fuse.ReadResultData(into), err
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	return uint32(len(data)), f.disk.do(true, func(d *disk) {
		for len(data) > 0 {
			n := at / pageSize
			page := d.fresh[n]
			if page == nil {
				page = slices.Clone(d.firm[n*pageSize : (n+1)*pageSize])
				d.fresh[n] = page
			}
			some := copy(page[at-n*pageSize:], data)
			data, at = data[some:], at+int64(some)
		}
	})
}

// Fsync is what the loop driver makes of a flush.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return f.disk.do(false, func(d *disk) {
		d.flushes++
		for n, page := range d.fresh {
			copy(d.firm[n*pageSize:], page)
		}
		clear(d.fresh)
	})
}

// do is one request to the disk; after the cut it hangs until all is over.
func (d *disk) do(write bool, f func(*disk)) syscall.Errno {
	d.mu.Lock()
	power := d.power
	if power.on(write) {
		defer d.mu.Unlock()
		f(d)
		return 0
	}
	d.mu.Unlock()
	<-power.dead
	return syscall.EIO
}
