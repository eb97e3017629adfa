package api

import (
	"net/http"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// MaxBody is how large one submit, or one line of a batch, may be.
const MaxBody = 16 << 20

// DecodeSubmit reads one submit strictly: every field that is unknown, of the
// wrong type or out of bounds is named in the problem, all at once.
func DecodeSubmit(body []byte) (Submit, *Problem) {
	if len(body) > MaxBody {
		return Submit{}, TooLarge()
	}
	root, err := parse(body)
	if err != nil {
		return Submit{}, NewProblem(http.StatusBadRequest, TypeSyntax, "%s", err)
	}
	var out problems
	o, ok := out.object("", root)
	if !ok {
		return Submit{}, NewProblem(http.StatusBadRequest, TypeSyntax, "the body is %s; send a JSON object", root.what())
	}
	s := readSubmit(o)
	o.done()
	check(s, &out)
	return s, Invalid(out.list)
}

// TooLarge is the problem of a submit above MaxBody.
func TooLarge() *Problem {
	return NewProblem(http.StatusRequestEntityTooLarge, TypeTooLarge, "a submit may have at most %s in all; pack less into files, or build the data into an image", job.Bytes(MaxBody))
}

// Invalid is the problem of fields that are wrong; nil when there are none.
func Invalid(errors []FieldError) *Problem {
	if len(errors) == 0 {
		return nil
	}
	p := NewProblem(http.StatusUnprocessableEntity, TypeInvalid, "")
	p.Errors = errors
	return p
}

func readSubmit(o *object) Submit {
	s := Submit{
		Image: o.text("image"), Network: o.text("network"), Queue: o.text("queue"), Pool: o.text("pool"), Class: o.text("class"),
		Language: o.text("language"), Code: o.text("code"),
		Command: o.texts("command", commandHint), Stdin: o.text("stdin"), StdinBase64: o.bytes("stdin_base64"),
		Env: o.dict("env"), Workdir: o.text("workdir"),
		Artifacts: o.texts("artifacts", ""), Labels: o.dict("labels"),
		NotBefore:      o.time("not_before"),
		IdempotencyKey: o.text("idempotency_key"), Key: o.text("key"),
	}
	o.objects("files", func(_ int, f *object) { s.Files = append(s.Files, readFile(f)) })
	o.objects("steps", func(_ int, f *object) { s.Steps = append(s.Steps, readStep(f)) })
	if o.has("steps") && s.Steps == nil {
		s.Steps = []Step{}
	}
	if n, ok := o.of("limits", '{', "an object"); ok {
		inner, _ := o.out.object(o.at("limits"), n)
		s.Limits = readLimits(inner)
		inner.done()
	}
	if n, ok := o.of("budgets", '{', "an object"); ok {
		inner, _ := o.out.object(o.at("budgets"), n)
		s.Budgets = Budgets{
			StartBy: positiveDuration(inner, "start_by"), Startup: positiveDuration(inner, "startup"), Total: positiveDuration(inner, "total"),
		}
		inner.done()
	}
	if n, ok := o.of("retry", '{', "an object"); ok {
		inner, _ := o.out.object(o.at("retry"), n)
		s.Retry = readRetry(inner)
		inner.done()
	}
	if p, ok := o.integer("priority"); ok {
		n := int(min(max(p, -1), 10))
		s.Priority = &n
	}
	checkForm(o)
	return s
}

const commandHint = `, such as ["python3", "main.py"]; a line for a shell is ["sh", "-c", "…"]`

// checkForm asks for exactly one way to say what runs, judged by what was
// written and not by what is empty.
func checkForm(o *object) {
	forms := 0
	for _, name := range []string{"steps", "command", "language"} {
		if o.has(name) {
			forms++
		}
	}
	switch {
	case forms > 1:
		o.out.add("", nil, "say what runs in one way only: steps, or command, or language with code")
	case forms == 0 && o.has("code"):
		o.out.add("language", nil, "is missing; code needs the language that it is written in")
	case forms == 0:
		o.out.add("", nil, "nothing to run; give command, or steps, or language with code")
	}
	if forms != 1 {
		return
	}
	var foreign []string
	switch {
	case o.has("steps"):
		foreign = []string{"stdin", "stdin_base64", "env", "workdir", "code"}
	case o.has("command"):
		foreign = []string{"code"}
	default:
		foreign = []string{"workdir"}
		if !o.has("code") {
			o.out.add("code", nil, "is missing; give the program as a text")
		}
	}
	for _, name := range foreign {
		if !o.has(name) {
			continue
		}
		switch {
		case name == "code":
			o.out.add("code", nil, "goes with language, not with command or steps; put the program into files instead")
		case o.has("steps"):
			o.out.add(name, nil, "belongs to a step here: move it to steps[0].%s", name)
		default:
			o.out.add(name, nil, "cannot be set with language; use steps instead")
		}
	}
}

func readFile(o *object) job.File {
	f := job.File{Path: o.text("path"), Content: o.text("content"), Base64: o.bytes("base64"), Executable: o.flag("executable")}
	if !o.has("path") {
		o.out.add(o.at("path"), nil, "is missing; name the file relative to the work directory")
	}
	if o.has("content") && o.has("base64") {
		o.out.add(o.at("base64"), nil, "say it once: either content or base64")
	}
	if len(f.Base64) == 0 {
		f.Base64 = nil
	}
	return f
}

func readStep(o *object) Step {
	s := Step{
		Name: o.text("name"), Command: o.texts("command", commandHint), Stdin: o.text("stdin"), StdinBase64: o.bytes("stdin_base64"),
		Env: o.dict("env"), Workdir: o.text("workdir"), ContinueOnError: o.flag("continue_on_error"),
	}
	if o.has("name") && s.Name == "" {
		o.out.add(o.at("name"), "", "is empty; leave it out or give a name")
	}
	n, ok := o.of("limits", '{', "an object")
	if !ok {
		return s
	}
	inner, _ := o.out.object(o.at("limits"), n)
	s.Limits.Wall = positiveDuration(inner, "wall")
	s.Limits.CPUTime = positiveDuration(inner, "cpu_time")
	for _, name := range []string{"cpu", "memory", "pids", "disk", "output"} {
		if inner.has(name) {
			inner.take(name)
			inner.out.add(inner.at(name), nil, "is a limit of the whole job: move it to limits.%s", name)
		}
	}
	inner.done()
	return s
}

// readLimits reads limits; one that is there must not be zero.
func readLimits(o *object) Limits {
	l := Limits{
		Memory: positiveSize(o, "memory"), Disk: positiveSize(o, "disk"), Output: positiveSize(o, "output"),
		Wall: positiveDuration(o, "wall"), CPUTime: positiveDuration(o, "cpu_time"),
	}
	if cpu, ok := o.number("cpu"); ok {
		l.CPU = cpu
		if cpu < MinCPU || cpu > MaxCPU {
			o.out.add(o.at("cpu"), cpu, "must be between %g and %g cores", MinCPU, MaxCPU)
		}
	}
	if pids, ok := o.integer("pids"); ok {
		l.PIDs = int(min(pids, MaxPIDs+1))
		if pids < 1 || pids > MaxPIDs {
			o.out.add(o.at("pids"), pids, "must be between 1 and %d processes", MaxPIDs)
		}
	}
	return l
}

// readRetry reads what is tried again; nothing is unless it is named.
func readRetry(o *object) Retry {
	r := Retry{
		On: o.texts("on", ", such as [\"out_of_memory\"]"), Backoff: positiveDuration(o, "backoff"), MaxBackoff: positiveDuration(o, "max_backoff"),
	}
	if n, ok := o.integer("max_attempts"); ok {
		r.MaxAttempts = int(min(max(n, 0), MaxAttempts+1))
		if n < 1 || n > MaxAttempts {
			o.out.add(o.at("max_attempts"), n, "must be between 1 and %d", MaxAttempts)
		}
	}
	if len(r.On) == 0 && !o.out.has(o.at("on")) {
		o.out.add(o.at("on"), nil, "is missing; name what to retry, of %s. Faults of the platform always are", strings.Join(job.Retryable(), ", "))
	}
	return r
}

func positiveSize(o *object, name string) job.Bytes {
	b, ok := o.size(name)
	if ok && b <= 0 {
		o.out.add(o.at(name), int64(b), "must be more than 0; leave it out for the default")
		return 0
	}
	return b
}

func positiveDuration(o *object, name string) job.Millis {
	m, ok := o.duration(name)
	if ok && m <= 0 {
		at := name
		if o.has(name + "_ms") {
			at += "_ms"
		}
		o.out.add(o.at(at), int64(m), "must be at least 1 ms; leave it out for the default")
		return 0
	}
	return m
}
