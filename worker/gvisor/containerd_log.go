package gvisor

import (
	"fmt"
	"os"
	"sync"
)

// maxLog is the size at which the log starts again; one older part is kept.
const maxLog = 8 << 20

// logFile is containerd's log, of bounded size.
type logFile struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("containerd's log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("containerd's log: %w", err)
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write never fails: a full disk must not stop containerd at its own log.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(p)) > maxLog && l.file != nil {
		l.file.Close()
		l.file = nil
		_ = os.Rename(l.path, l.path+".1")
		_ = l.open()
	}
	if l.file != nil {
		n, _ := l.file.Write(p)
		l.size += int64(n)
	}
	return len(p), nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
