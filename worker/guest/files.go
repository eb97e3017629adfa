package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// File is one input, laid below the work directory.
type File struct {
	Path string      // relative and clean
	Mode fs.FileMode // permission bits
	Size int64
	Body io.Reader // exactly Size bytes
}

// PutFiles lays files into the sandbox, in order; it replaces those that are there. An AgentError names the first file
// that could not be put, the rest of the batch is in no certain state, and the session can go on. A bad path is
// refused before anything is sent. Every other error ends the session.
func (s *Session) PutFiles(ctx context.Context, files []File) error {
	if err := s.checkFiles(files); err != nil {
		return fmt.Errorf("put files: %w", err)
	}
	defer s.endsWith(ctx)()
	var writing sync.WaitGroup
	sent := make(chan struct{})
	writing.Go(func() {
		if err := s.sendFiles(files); err != nil {
			s.writeFailed(err)
			return
		}
		close(sent)
	})
	err := s.awaitFiles(files, sent)
	if err != nil && !reported(err, frame.CodeFile, frame.CodeDiskFull) {
		s.abort(err)
		err = s.Err()
	}
	s.join(&writing)
	if err != nil {
		return fmt.Errorf("put files: %w", err)
	}
	return nil
}

func (s *Session) checkFiles(files []File) error {
	var total int64
	for _, f := range files {
		if err := frame.CheckPath(f.Path); err != nil {
			return err
		}
		if f.Size < 0 || f.Size > s.settings.FileMax {
			return fmt.Errorf("%s has %d bytes, at most %d are allowed", f.Path, f.Size, s.settings.FileMax)
		}
		total += f.Size
	}
	if total > s.settings.FilesMax || len(files) > s.settings.FileCount {
		return fmt.Errorf("%d files of %d bytes, at most %d of %d are allowed",
			len(files), total, s.settings.FileCount, s.settings.FilesMax)
	}
	return nil
}

func (s *Session) sendFiles(files []File) error {
	buf := make([]byte, frame.MaxData)
	for _, f := range files {
		if err := s.sendFile(f, buf); err != nil {
			return err
		}
	}
	return s.out.Write(&frame.FilesEnd{})
}

func (s *Session) sendFile(f File, buf []byte) error {
	if err := s.out.Write(&frame.FileOpen{Path: f.Path, Mode: uint32(f.Mode.Perm()), Size: f.Size}); err != nil {
		return err
	}
	for left := f.Size; left > 0; {
		n, err := io.ReadFull(f.Body, buf[:min(left, frame.MaxData)])
		if err != nil {
			return &bodyError{fmt.Errorf("read %s: %w", f.Path, err)}
		}
		if err := s.out.Write(&frame.FileData{Data: buf[:n]}); err != nil {
			return err
		}
		left -= int64(n)
	}
	return s.out.Write(&frame.FileEnd{})
}

// bodyError is a failure to read what was to be sent.
type bodyError struct{ error }

func (e *bodyError) Unwrap() error { return e.error }

// writeFailed ends the session for a failed write. When the channel broke, the reading side knows the better reason
// (the agent's last words, or its end) and is given the time to say it.
func (s *Session) writeFailed(err error) {
	var body *bodyError
	if errors.As(err, &body) || errors.Is(err, frame.ErrMalformed) {
		s.abort(err)
		return
	}
	select {
	case <-s.down:
	case <-time.After(s.settings.Grace):
		s.abort(err)
	}
}

func (s *Session) awaitFiles(files []File, sent <-chan struct{}) error {
	f, err := s.next()
	select {
	case <-sent:
	default:
		// The last frame may be written and its answer here before the writer has said so: only the counts below
		// can tell. A report, though, must not come before the end of the batch.
		if reported(err, frame.CodeFile, frame.CodeDiskFull) {
			select {
			case <-sent:
			case <-s.down:
				return s.Err()
			case <-time.After(s.settings.Grace):
				return violation("answer in the middle of a batch")
			}
		}
	}
	if err != nil {
		return err
	}
	done, ok := f.(*frame.FilesDone)
	if !ok {
		return s.unexpected(f)
	}
	var total int64
	for _, f := range files {
		total += f.Size
	}
	if done.Count != uint32(len(files)) || done.Bytes != total {
		return violation("agent has %d files of %d bytes, %d of %d were sent", done.Count, done.Bytes, len(files), total)
	}
	return nil
}
