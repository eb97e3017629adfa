package backup_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/backup"
)

// sample is a backup with an object and more lines than fit into one entry.
func sample(t *testing.T) ([]byte, backup.Counts) {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Header{ID: "b1", Schema: 2, Layout: "1"})
	if err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("content", 1000)
	sum := sha256.Sum256([]byte(content))
	o := backup.Object{Bucket: "OUT", Name: "job/a ünïcode/../name", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	if err := w.Object(o, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err := w.Line(backup.Records, fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, i, strings.Repeat("x", 100_000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Line(backup.Batches, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), w.Counts()
}

func TestABackupIsReadAsItWasWritten(t *testing.T) {
	data, counts := sample(t)
	if want := (backup.Counts{Records: 30, Batches: 1, Objects: 1, Bytes: 7000}); counts != want {
		t.Errorf("written: %+v", counts)
	}
	r, err := backup.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.ID != "b1" || r.Header.Version != backup.Version {
		t.Errorf("header %+v", r.Header)
	}
	first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(first.Body)
	if err != nil || len(body) != 7000 || first.Object.Name != "job/a ünïcode/../name" || first.Object.Bucket != "OUT" {
		t.Errorf("object %+v with %d bytes, %v", first.Object, len(body), err)
	}
	n, entries := 0, 0
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries++
		for _, line := range e.Lines {
			if e.Kind == backup.Records && !bytes.HasPrefix(line, fmt.Appendf(nil, `{"n":%d,`, n)) {
				t.Fatalf("line %d is %.20s", n, line)
			}
			n++
		}
	}
	if n != 31 || entries < 4 || r.Counts() != counts {
		t.Errorf("%d lines in %d entries, %+v", n, entries, r.Counts())
	}
}

func TestADamagedBackupIsKnownAsSuch(t *testing.T) {
	data, _ := sample(t)
	cases := map[string][]byte{
		"nothing":          {},
		"something else":   []byte(strings.Repeat("no backup at all ", 1000)),
		"cut in half":      data[:len(data)/2],
		"without its end":  data[:len(data)-2048],
		"cut at an entry":  data[:3*512],
		"a part is absent": append(bytes.Clone(data[:4*512]), data[len(data)-8*512:]...),
	}
	for at := 700; at < len(data)-1100; at += len(data) / 61 {
		if data[at] == 0 {
			continue // what fills up a block of the tar means nothing
		}
		flipped := bytes.Clone(data)
		flipped[at] ^= 0x10
		cases[fmt.Sprintf("a bit is wrong at %d", at)] = flipped
	}
	for name, c := range cases {
		if _, _, err := backup.Verify(bytes.NewReader(c)); err == nil {
			t.Errorf("%s: it counts as whole", name)
		} else if !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := backup.Verify(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}
