package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// base is what every image has besides its packages.
func base(r Recipe) []string {
	if slices.Contains(r.Packages, "busybox-static") {
		return r.Packages
	}
	return append([]string{"busybox", "libc-bin"}, r.Packages...)
}

// unpack puts the recipe's packages into tree, without running anything of
// them, and returns their names and versions.
func (b Builder) unpack(ctx context.Context, r Recipe, stage, tree string, report reporter) ([]string, error) {
	list := filepath.Join(stage, "packages")
	// The hook sees the packages that were fetched, with the dependencies.
	hook := filepath.Join(stage, "list-packages")
	script := "#!/bin/sh\nprintf '%s\\n' $MMDEBSTRAP_ESSENTIAL >\"$SANDLOT_PACKAGES\"\n"
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		return nil, fmt.Errorf("unpack packages: %w", err)
	}
	args := []string{
		"mmdebstrap", "--variant=extract", "--mode=root", "--format=directory", "--architectures=" + architecture,
		"--include=" + strings.Join(base(r), ","),
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--extract-hook=" + hook,
		`--aptopt=APT::Sandbox::User "root"`,
	}
	options, err := b.aptOptions(ctx)
	if err != nil {
		return nil, err
	}
	sources, err := b.sources(ctx, r.Suite)
	if err != nil {
		return nil, err
	}
	args = append(append(args, options...), r.Suite, tree)
	args = append(args, sources...)

	steps := newStepWriter(report)
	cmd := isolated(ctx, args)
	cmd.Env = append(os.Environ(),
		"SOURCE_DATE_EPOCH="+epochSeconds(), "LC_ALL=C.UTF-8", "TMPDIR="+stage, "SANDLOT_PACKAGES="+list)
	cmd.Stdout, cmd.Stderr = steps, steps
	if err := run(ctx, cmd); err != nil {
		return nil, fmt.Errorf("unpack packages: %w%s", err, steps.tail())
	}
	return readPackages(list)
}

// readPackages turns "/var/…/python3.11_3.11.2-6+deb12u6_amd64.deb" into
// "python3.11=3.11.2-6+deb12u6".
func readPackages(list string) ([]string, error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, fmt.Errorf("read list of packages: %w", err)
	}
	var packages []string
	for _, line := range strings.Fields(string(text)) {
		fields := strings.Split(strings.TrimSuffix(path.Base(line), ".deb"), "_")
		if len(fields) != 3 {
			return nil, fmt.Errorf("read list of packages: %q is not the name of a package file", line)
		}
		version, err := url.PathUnescape(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read list of packages: %w", err)
		}
		packages = append(packages, fields[0]+"="+version)
	}
	if len(packages) == 0 {
		return nil, errors.New("read list of packages: it is empty")
	}
	slices.Sort(packages)
	return packages, nil
}

// aptOptions repeats the host's proxies, which mmdebstrap does not look at.
func (b Builder) aptOptions(ctx context.Context) ([]string, error) {
	var options []string
	if b.Snapshot != "" {
		options = append(options, `--aptopt=Acquire::Check-Valid-Until "false"`)
	}
	text, err := exec.CommandContext(ctx, "apt-config", "dump", "--no-empty", "--format", `%F "%v"%n`).Output()
	if err != nil {
		return nil, fmt.Errorf("read apt's configuration: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Acquire::http::Proxy") || strings.HasPrefix(line, "Acquire::https::Proxy") {
			options = append(options, "--aptopt="+strings.TrimSpace(line))
		}
	}
	return options, nil
}

// sources are the places that packages come from; none means Debian's own.
func (b Builder) sources(ctx context.Context, suite string) ([]string, error) {
	if b.Snapshot != "" {
		at := "http://snapshot.debian.org/archive/"
		return []string{
			debLine(at+"debian/"+b.Snapshot, suite),
			debLine(at+"debian/"+b.Snapshot, suite+"-updates"),
			debLine(at+"debian-security/"+b.Snapshot, suite+"-security"),
		}, nil
	}
	if len(b.Sources) > 0 {
		return b.Sources, nil
	}
	text, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(SIGNED_BY)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("read apt's sources: %w", err)
	}
	return hostSources(string(text), suite), nil
}

// hostSources picks the Debian sources of a suite from apt's own list.
func hostSources(targets, suite string) []string {
	var lines []string
	complete := false
	for target := range strings.Lines(targets) {
		fields := strings.Fields(target)
		if len(fields) < 3 || fields[2] != "main" {
			continue
		}
		if len(fields) > 3 && !strings.Contains(fields[3], "debian-archive") {
			continue
		}
		uri, release := fields[0], fields[1]
		if release != suite && release != suite+"-updates" && release != suite+"-security" {
			continue
		}
		complete = complete || release == suite
		if line := debLine(uri, release); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if !complete {
		return nil // a host of another suite
	}
	return lines
}

func debLine(uri, release string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, uri, release)
}

// stepWriter turns mmdebstrap's messages into progress, and keeps the last
// lines for the error.
type stepWriter struct {
	report reporter
	rest   []byte
	last   []string
	done   int64
}

// unpackSteps are the messages that mark the parts of mmdebstrap's work.
const unpackSteps = 4

func newStepWriter(report reporter) *stepWriter {
	report.count(StagePackages, "starting", 0, unpackSteps)
	return &stepWriter{report: report}
}

func (w *stepWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		at := bytes.IndexAny(w.rest, "\r\n")
		if at < 0 {
			return len(p), nil
		}
		w.line(string(bytes.TrimSpace(w.rest[:at])))
		w.rest = w.rest[at+1:]
	}
}

func (w *stepWriter) line(text string) {
	if text == "" {
		return
	}
	if w.last = append(w.last, text); len(w.last) > 12 {
		w.last = w.last[1:]
	}
	for _, step := range []string{"running apt-get update", "downloading packages", "extracting archives", "cleaning package lists"} {
		if strings.HasPrefix(text, "I: "+step) {
			w.done++
			w.report.count(StagePackages, step, w.done, unpackSteps)
		}
	}
}

// tail is what the program said last, for an error's text.
func (w *stepWriter) tail() string {
	var b strings.Builder
	scanner := bufio.NewScanner(bytes.NewReader(w.rest))
	for scanner.Scan() {
		w.line(scanner.Text())
	}
	for _, line := range w.last {
		b.WriteString("\n\t" + line)
	}
	return b.String()
}
