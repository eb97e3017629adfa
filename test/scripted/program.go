package scripted

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// program is one step while it runs.
type program struct {
	box   *sandbox
	index int
	step  job.Step
	dir   string
	cpu   time.Duration
	// file is where the current command writes instead of standard output.
	file   string
	stream worker.Stream
}

// endless is the one word of the suite that holds the separator.
const endless = "while :; do :; done"

// run interprets the step's command. An error means that the sandbox ended.
func (p *program) run(ctx context.Context) (code int, signal string, err error) {
	commands := [][]string{p.step.Command}
	if argv := p.step.Command; len(argv) == 3 && argv[0] == "sh" && argv[1] == "-c" {
		commands = parse(argv[2])
	}
	for _, words := range commands {
		if ctx.Err() != nil {
			return 0, "", context.Cause(ctx)
		}
		var end bool
		code, signal, end, err = p.command(ctx, words)
		if end || err != nil {
			return code, signal, err
		}
	}
	return code, "", nil
}

// parse cuts a script into commands and those into words.
func parse(script string) [][]string {
	script = strings.ReplaceAll(script, endless, "'while'")
	var commands [][]string
	var words []string
	var word strings.Builder
	quoted, any := false, false
	flushWord := func() {
		if any {
			words = append(words, word.String())
			word.Reset()
			any = false
		}
	}
	for i := 0; i < len(script); i++ {
		switch c := script[i]; {
		case c == '\'':
			quoted, any = !quoted, true
		case quoted:
			word.WriteByte(c)
		case c == ' ' || c == '\n':
			flushWord()
		case c == ';':
			flushWord()
			commands, words = append(commands, words), nil
		default:
			word.WriteByte(c)
			any = true
		}
	}
	flushWord()
	if len(words) > 0 {
		commands = append(commands, words)
	}
	return commands
}

// command runs one command; end says that the program is over with it.
func (p *program) command(ctx context.Context, words []string) (code int, signal string, end bool, err error) {
	words = p.redirect(words)
	if len(words) == 0 {
		return 0, "", false, nil
	}
	args := words[1:]
	switch words[0] {
	case "exit":
		code, err := strconv.Atoi(args[0])
		return code, "", true, err
	case "kill":
		name := "SIG" + strings.TrimPrefix(args[0], "-")
		if name == "SIG9" {
			name = "SIGKILL"
		}
		return 0, name, true, nil
	case "hog", "crash", "swarm":
		return 0, "", true, died(words[0])
	}
	code, err = p.builtin(ctx, words[0], args)
	return code, "", false, err
}

func (p *program) builtin(ctx context.Context, name string, args []string) (int, error) {
	switch name {
	case "echo":
		return 0, p.print(ctx, []byte(strings.Join(args, " ")+"\n"))
	case "printf":
		return 0, p.print(ctx, unescape(args[0]))
	case "cat":
		return p.cat(ctx, args)
	case "head":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return 2, nil
		}
		return 0, p.zeros(ctx, n)
	case "sleep":
		seconds, err := strconv.ParseFloat(args[0], 64)
		if err != nil {
			return 1, nil
		}
		return 0, wait(ctx, time.Duration(seconds*float64(time.Second)))
	case "env":
		return 0, p.print(ctx, []byte(p.environment()))
	case "pwd":
		return 0, p.print(ctx, []byte(p.dir+"\n"))
	case "id":
		return 0, p.print(ctx, []byte("1000\n"))
	case "mkdir":
		p.box.disk.mkdir(p.name(args[1]))
		return 0, nil
	case "stat":
		if f := p.box.disk.files[p.name(args[2])]; f != nil {
			return 0, p.print(ctx, []byte(f.mode+"\n"))
		}
		return 1, p.complain(ctx, "stat: cannot stat '%s': No such file or directory", args[2])
	case "while":
		return 0, p.burn(ctx)
	}
	return 127, p.complain(ctx, "sh: %s: not found", name)
}

// redirect takes "> FILE" and ">&2" off the end of a command.
func (p *program) redirect(words []string) []string {
	p.file, p.stream = "", worker.Stdout
	if n := len(words); n > 1 && words[n-1] == ">&2" {
		p.stream = worker.Stderr
		return words[:n-1]
	}
	if n := len(words); n > 2 && words[n-2] == ">" {
		p.file = p.name(words[n-1])
		p.box.disk.put(p.file, nil, "644")
		return words[:n-2]
	}
	return words
}

func (p *program) name(word string) string {
	if path.IsAbs(word) {
		return path.Clean(word)
	}
	return path.Join(p.dir, word)
}

// print writes to wherever the command's output goes.
func (p *program) print(ctx context.Context, data []byte) error {
	if p.file == "" {
		return p.box.emit(ctx, p.index, p.stream, data)
	}
	if !p.box.disk.write(p.file, data) {
		return p.complain(ctx, "write error: No space left on device")
	}
	return nil
}

func (p *program) complain(ctx context.Context, format string, args ...any) error {
	return p.box.emit(ctx, p.index, worker.Stderr, []byte(fmt.Sprintf(format, args...)+"\n"))
}

func (p *program) cat(ctx context.Context, names []string) (code int, err error) {
	if len(names) == 0 {
		return 0, p.print(ctx, p.step.Input())
	}
	for _, name := range names {
		f := p.box.disk.files[p.name(name)]
		switch {
		case name == "/dev/zero":
			err = p.zeros(ctx, -1)
		case f == nil:
			code, err = 1, p.complain(ctx, "cat: can't open '%s': No such file or directory", name)
		default:
			err = p.print(ctx, f.data)
		}
		if err != nil {
			return code, err
		}
	}
	return code, nil
}

// zeros prints n zero bytes; without end if n is negative.
func (p *program) zeros(ctx context.Context, n int) error {
	block := make([]byte, 32<<10)
	for n != 0 {
		size := len(block)
		if n > 0 {
			size = min(n, size)
			n -= size
		}
		if err := p.print(ctx, block[:size]); err != nil {
			return err
		}
	}
	return nil
}

// burn uses processor time until a limit ends it; the time is only pretended.
func (p *program) burn(ctx context.Context) error {
	start := time.Now()
	defer func() { p.cpu += time.Since(start) }()
	left := p.box.task.Spec.Limits.CPUTime - p.box.seen.CPU
	hit := &limitHit{reason: job.CPUTime}
	if own := p.step.CPUTime; own > 0 && own < left {
		left, hit.step = own, own
	}
	if err := wait(ctx, left.Duration()-p.cpu); err != nil {
		return err
	}
	return hit
}

func (p *program) environment() string {
	env := map[string]string{"PATH": "/usr/bin:/bin", "HOME": "/home/sandlot", "PWD": p.dir}
	maps.Copy(env, p.step.Env)
	maps.Copy(env, p.box.task.Env)
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&out, "%s=%s\n", name, env[name])
	}
	return out.String()
}

// wait sleeps, or fails with the cause of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unescape reads the escapes of printf: \n and \NNN.
func unescape(text string) []byte {
	var out []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		if text[i+1] == 'n' {
			out = append(out, '\n')
			i++
			continue
		}
		if i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}
