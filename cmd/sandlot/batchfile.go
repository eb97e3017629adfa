package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// batchFile is a file of jobs, one JSON body with a key per line. It is read
// twice: to check it, and to send it. Only keys are held in memory.
type batchFile struct {
	path string
	// temporary says that the file is a copy of standard input.
	temporary bool
	// keys are those of the lines that may be sent, with their line numbers.
	keys map[string]int
	// refused are the lines that may not.
	refused []rejection
	// needs are the images and languages that the lines name.
	needs []wanted
}

// rejection is the line of the results for a line of which no job came. A
// duplicate has no key here, since its key has a result already.
type rejection struct {
	Key   *string      `json:"key"`
	Line  int          `json:"line"`
	State job.State    `json:"state"`
	Error *api.Problem `json:"error"`
}

func (r rejection) String() string {
	return fmt.Sprintf("line %d: %s", r.Line, r.Error.Error())
}

// openBatch reads the file once. Standard input is copied to a file first.
func openBatch(path string, stdin io.Reader) (*batchFile, error) {
	b := &batchFile{path: path, keys: map[string]int{}}
	if path == "-" {
		spool, err := os.CreateTemp("", "sandlot-batch-*.jsonl")
		if err != nil {
			return nil, fmt.Errorf("keep standard input: %w", err)
		}
		b.path, b.temporary = spool.Name(), true
		_, err = io.Copy(spool, stdin)
		if err = errors.Join(err, spool.Close()); err != nil {
			b.Close()
			return nil, fmt.Errorf("keep standard input: %w", err)
		}
	}
	err := b.each(func(line int, raw []byte) error {
		b.check(line, raw)
		return nil
	})
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close removes what was kept of standard input.
func (b *batchFile) Close() {
	if b.temporary {
		_ = os.Remove(b.path) // in the directory of temporary files
	}
}

// check files the line under keys or under refused.
func (b *batchFile) check(line int, raw []byte) {
	refuse := func(key *string, kind, format string, args ...any) {
		problem := api.NewProblem(422, kind, format, args...)
		b.refused = append(b.refused, rejection{key, line, api.Rejected, problem})
	}
	var item map[string]json.RawMessage
	if err := json.Unmarshal(raw, &item); err != nil {
		refuse(nil, api.TypeSyntax, "the line is not a JSON object: %v", err)
		return
	}
	key := text(item["key"])
	if key == "" {
		refuse(nil, api.TypeInvalid, "the line has no key that is text; give it one that no other line has, such as \"key\":\"item-%d\"", line)
		return
	}
	if before, twice := b.keys[key]; twice {
		refuse(nil, api.TypeInvalid, "key %q is that of line %d already; give this line another", key, before)
		return
	}
	b.keys[key] = line
	n := wanted{image: text(item["image"]), language: text(item["language"])}
	if n != (wanted{}) && !slices.Contains(b.needs, n) {
		b.needs = append(b.needs, n)
	}
}

// text is raw if it is a text, else nothing: the server says what is wrong.
func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// each calls do with every line that is not blank.
func (b *batchFile) each(do func(line int, raw []byte) error) error {
	f, err := os.Open(b.path)
	if err != nil {
		return fmt.Errorf("open batch: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	for line := 1; ; line++ {
		raw, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read batch: %w", err)
		}
		last := err != nil
		if raw = bytes.TrimSpace(raw); len(raw) > 0 {
			if err := do(line, raw); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

// sendable writes the lines to send to w: those with a good key for which
// skip says no. It returns the number in the file of each.
func (b *batchFile) sendable(skip func(key string) bool, w io.Writer, note func(line int)) error {
	return b.each(func(line int, raw []byte) error {
		var item struct {
			Key string `json:"key"`
		}
		if json.Unmarshal(raw, &item) != nil || b.keys[item.Key] != line || skip(item.Key) {
			return nil
		}
		note(line)
		_, err := w.Write(append(raw, '\n'))
		return err
	})
}
