package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

// shelf is a store in memory.
type shelf struct {
	objects map[string][]byte
	err     error
}

func (s *shelf) PutOutput(_ context.Context, name string, r io.Reader) error {
	if s.err != nil {
		return s.err
	}
	data, err := io.ReadAll(r)
	if err == nil {
		s.objects[name] = data
	}
	return err
}

func TestArtifactsReachTheStoreWithTheirDigest(t *testing.T) {
	store := &shelf{objects: map[string][]byte{}}
	all := &artifacts{store: store, prefix: "job/1"}
	body := bytes.Repeat([]byte{0, 1, 2}, 100_000)
	place, err := all.create(t.Context(), "out/a.bin", int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	for rest := body; len(rest) > 0; rest = rest[min(4096, len(rest)):] {
		if _, err := place.Write(rest[:min(4096, len(rest))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := place.Close(); err != nil {
		t.Fatal(err)
	}
	all.close()
	sum := sha256.Sum256(body)
	if len(all.list) != 1 || all.list[0].SHA256 != hex.EncodeToString(sum[:]) || all.list[0].Bytes != int64(len(body)) {
		t.Fatalf("list is %+v", all.list)
	}
	if !bytes.Equal(store.objects[all.list[0].Ref], body) {
		t.Errorf("store holds %d bytes", len(store.objects[all.list[0].Ref]))
	}
}

func TestArtifactThatIsNotSealedIsNoArtifact(t *testing.T) {
	store := &shelf{objects: map[string][]byte{}}
	all := &artifacts{store: store, prefix: "job/1"}
	place, _ := all.create(t.Context(), "half", 100)
	_, _ = place.Write([]byte("half"))
	all.close()
	if len(all.list) != 0 || len(store.objects) != 0 {
		t.Errorf("list %v, store %v", all.list, store.objects)
	}
	if err := place.Close(); err != nil || len(all.list) != 0 {
		t.Errorf("a late close: %v, list %v", err, all.list)
	}
}

func TestArtifactMayNotBeLongerThanSaid(t *testing.T) {
	all := &artifacts{store: &shelf{objects: map[string][]byte{}}, prefix: "job/1"}
	defer all.close()
	place, _ := all.create(t.Context(), "big", 3)
	if _, err := place.Write([]byte("four")); err == nil {
		t.Error("four bytes went into three")
	}
}

func TestStoreThatFailsIsHeard(t *testing.T) {
	full := errors.New("store is full")
	all := &artifacts{store: &shelf{err: full}, prefix: "job/1"}
	place, _ := all.create(t.Context(), "a", 10)
	_, writeErr := place.Write([]byte("ten bytes"))
	if err := place.Close(); !errors.Is(errors.Join(err, writeErr), full) {
		t.Errorf("write: %v, close: %v", writeErr, err)
	}
	if len(all.list) != 0 {
		t.Errorf("list is %v", all.list)
	}
}

func TestTooManyArtifactsAreDroppedAndCounted(t *testing.T) {
	all := &artifacts{store: &shelf{objects: map[string][]byte{}}, prefix: "job/1"}
	for range maxArtifacts + 7 {
		place, err := all.create(t.Context(), "a", 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := place.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(all.list) != maxArtifacts || all.dropped != 7 {
		t.Errorf("kept %d, dropped %d", len(all.list), all.dropped)
	}
}
