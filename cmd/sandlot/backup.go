package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/backup"
)

// backupView is what `sandlot backup` says of what it wrote.
type backupView struct {
	File      string    `json:"file"`
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	FileBytes int64     `json:"file_bytes"`
	backup.Counts
}

func (a *app) backupCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Write all state of the server into a file",
		Long: `Write all state of the server into a file: jobs with their results, batches,
settings, images, inputs and outputs. The server goes on meanwhile. The file
holds what users have sent and the digests of their tokens: keep it safe.`,
		Example: `  sandlot backup --out sandlot-$(date +%F).backup`,
		GroupID: groupHost,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p problems
			p.check(out != "", "--out: name the file to write")
			if err := p.err(); err != nil {
				return err
			}
			return a.backUp(cmd.Context(), out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write; it must not exist")
	return cmd
}

// backUp writes to a file beside the one that is wanted, which is there only
// when it is whole.
func (a *app) backUp(ctx context.Context, name string) (err error) {
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s is there already; choose another name", name)
	}
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	part := name + ".part"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		file.Close()
		if err != nil {
			os.Remove(part)
		}
	}()
	body, err := c.Backup(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	bar := a.byteBar("backup", 0)
	counted := &countedReader{r: io.TeeReader(body, file), told: bar.tell}
	header, counts, err := backup.Verify(counted)
	if err == nil {
		_, err = io.Copy(io.Discard, counted)
	}
	bar.end()
	if err != nil {
		return fmt.Errorf("the backup did not arrive whole: %w", err)
	}
	if err := errors.Join(file.Sync(), file.Close(), os.Rename(part, name)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	v := backupView{name, header.ID, header.CreatedAt, counted.n, counts}
	return a.show(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, %s\n", name, size(v.FileBytes), countsText(counts))
	})
}

func countsText(c backup.Counts) string {
	return fmt.Sprintf("%d jobs, %d batches, %d settings, %d objects", c.Records, c.Batches, c.Settings, c.Objects)
}

func (a *app) restoreCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty server from a backup",
		Long: `Fill a server that has no jobs from a backup. The file is checked first. Jobs
that had not ended go on: an attempt that ran at the time of the backup counts as
lost, and the job runs again. Results are kept as long as if they had just come.
A restore that was cut off is finished by the same command.`,
		GroupID: groupHost,
		Args:    exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.restore(cmd.Context(), args[0])
		},
	}
}

func (a *app) restore(ctx context.Context, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	check := a.byteBar("check", info.Size())
	_, _, err = backup.Verify(&countedReader{r: file, told: check.tell})
	check.end()
	if err != nil {
		return fmt.Errorf("%s: %w; nothing was changed", name, err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	c, err := a.client(impatient)
	if err != nil {
		return err
	}
	bar := a.byteBar("restore", info.Size())
	restored, err := c.Restore(ctx, file, info.Size(), bar.tell)
	bar.end()
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	return a.show(restored, func(w io.Writer) {
		fmt.Fprintf(w, "restored: %s\n", countsText(restored.Counts))
	})
}

// countedReader tells how much was read.
type countedReader struct {
	r    io.Reader
	n    int64
	told func(int64)
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.told(c.n)
	return n, err
}

// byteBar tells how far a transfer is, on a person's screen only.
type byteBar struct {
	w     io.Writer
	what  string
	total int64
	drawn time.Time
	off   bool
}

func (a *app) byteBar(what string, total int64) *byteBar {
	return &byteBar{w: a.stderr, what: what, total: total, off: !isTerminal(a.stderr)}
}

func (b *byteBar) tell(n int64) {
	if b.off || time.Since(b.drawn) < 100*time.Millisecond {
		return
	}
	b.drawn = time.Now()
	text := size(n)
	if b.total > 0 {
		text = fmt.Sprintf("%s  %d%%", text, 100*n/b.total)
	}
	fmt.Fprintf(b.w, "\r\x1b[K%s: %s", b.what, text)
}

func (b *byteBar) end() {
	if !b.off && !b.drawn.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
