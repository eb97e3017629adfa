package queue_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func TestObjectsComeBackAsTheyWere(t *testing.T) {
	q := fresh(t)
	for name, size := range map[string]int{
		"empty": 0, "a byte": 1, "one piece": 1 << 20, "just more": 1<<20 + 1,
		"exactly one part": 32 << 20, "two parts": 32<<20 + 17,
	} {
		t.Run(name, func(t *testing.T) {
			body := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(body)
			sum := sha256.Sum256(body)
			put, err := q.Put(within(t), queue.Images, name, bytes.NewReader(body))
			if err != nil || put.Size != int64(size) || put.SHA256 != hex.EncodeToString(sum[:]) {
				t.Fatalf("put: %+v %v", put, err)
			}
			r, obj, err := q.Open(within(t), queue.Images, name)
			if err != nil || obj.SHA256 != put.SHA256 || obj.Size != put.Size {
				t.Fatalf("open: %+v %v", obj, err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := q.Delete(within(t), queue.Images, name); err != nil {
				t.Fatal(err)
			}
			if _, err := q.Stat(within(t), queue.Images, name); !errors.Is(err, job.ErrNotFound) {
				t.Fatalf("after delete: %v", err)
			}
			if err := q.Delete(within(t), queue.Images, name); err != nil {
				t.Fatalf("second delete: %v", err)
			}
		})
	}
	if n := queue.ObjectBytes(q, within(t), queue.Images); n > 1<<20 {
		t.Fatalf("%d bytes are left", n)
	}
}

func TestReplacedObjectIsTheNewOne(t *testing.T) {
	q := fresh(t)
	for _, text := range []string{"first", "second"} {
		if _, err := q.Put(within(t), queue.Outputs, "job/out", bytes.NewBufferString(text)); err != nil {
			t.Fatal(err)
		}
	}
	r, _, err := q.Open(within(t), queue.Outputs, "job/out")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "second" {
		t.Fatalf("%q %v", got, err)
	}
}

// TestAnObjectIsStoredThoughAPieceGotLost would wait for minutes if nobody
// noticed that no answer comes.
func TestAnObjectIsStoredThoughAPieceGotLost(t *testing.T) {
	for _, lost := range []string{"PUB $O.OUT.C.", "PUB $O.OUT.M."} {
		s := stageFar(t)
		s.proxy.loseOnce(lost)
		if _, err := s.q.Put(within(t), queue.Outputs, "job/a", strings.NewReader("some text")); err != nil {
			t.Fatal(err)
		}
		r, _, err := s.near.Open(within(t), queue.Outputs, "job/a")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != "some text" || err != nil || !s.proxy.lost() {
			t.Errorf("%q is stored, %v; lost: %v", got, err, s.proxy.lost())
		}
		_ = r.Close()
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	q := fresh(t)
	broken := errors.New("broken")
	body := io.MultiReader(io.LimitReader(rand.NewChaCha8([32]byte{}), 40<<20), failing{broken})
	if _, err := q.Put(within(t), queue.Outputs, "job/out", body); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if _, err := q.Stat(within(t), queue.Outputs, "job/out"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if n := queue.ObjectBytes(q, within(t), queue.Outputs); n > 1<<20 {
		t.Fatalf("%d bytes are left", n)
	}
}

func TestFullBucketRefuses(t *testing.T) {
	q := open(t, queue.Config{Server: start(t, queue.ServerConfig{}), Sizes: &queue.Sizes{Outputs: 1 << 20}})
	var err error
	for range 3 {
		_, err = q.Put(within(t), queue.Outputs, "job/"+newID(), bytes.NewReader(make([]byte, 600<<10)))
		if err != nil {
			break
		}
	}
	if !errors.Is(err, job.ErrFull) {
		t.Fatalf("got %v", err)
	}
	if _, err := q.Put(within(t), queue.Outputs, "noslash", bytes.NewReader(nil)); err == nil {
		t.Fatal("a name without its job was taken")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestImagesByName(t *testing.T) {
	q := fresh(t)
	for _, img := range []queue.Image{
		{Name: "python", Digest: "sha256:p", Size: 7},
		{Name: "docker.io/library/python:3.12@sha256:…", Digest: "sha256:p"},
		{Name: "busybox", Digest: "sha256:b", Source: "built"},
	} {
		if err := q.SetImage(within(t), img); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Put(within(t), queue.Images, img.Digest, bytes.NewBufferString(img.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := q.Images(within(t))
	if err != nil || len(all) != 3 || all[0].Name != "busybox" || all[2].Size != 7 {
		t.Fatalf("%+v %v", all, err)
	}
	if img, err := q.Image(within(t), "docker.io/library/python:3.12@sha256:…"); err != nil || img.Digest != "sha256:p" {
		t.Fatalf("%+v %v", img, err)
	}
	if _, err := q.Image(within(t), "ruby"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if err := q.RemoveImage(within(t), "python"); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Stat(within(t), queue.Images, "sha256:p"); err != nil {
		t.Fatalf("the archive of another name was removed: %v", err)
	}
	if err := q.RemoveImage(within(t), "docker.io/library/python:3.12@sha256:…"); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Stat(within(t), queue.Images, "sha256:p"); !errors.Is(err, job.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if all, err := q.Images(within(t)); err != nil || len(all) != 1 {
		t.Fatalf("%+v %v", all, err)
	}
}
