package api_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
)

// with is a submit that is right but for what is added.
func with(fields string) string {
	return `{"image":"python","command":["true"],` + fields + `}`
}

func files(paths ...string) string {
	list := make([]string, len(paths))
	for i, p := range paths {
		list[i] = fmt.Sprintf(`{"path":%q}`, p)
	}
	return with(`"files":[` + strings.Join(list, ",") + `]`)
}

func TestDecodeSubmitNamesTheFieldAndTheFix(t *testing.T) {
	cases := map[string]struct {
		body     string
		status   int
		location string // of the first error
		says     string // in the text of the problem
	}{
		"nothing":                     {"", 400, "", "empty"},
		"no JSON":                     {"hello", 400, "", "invalid character"},
		"cut short":                   {`{"image":"py`, 400, "", "too early"},
		"a list":                      {`[]`, 400, "", "a list; send a JSON object"},
		"two values":                  {`{} {}`, 400, "", "more after the end"},
		"not UTF-8":                   {"{\"image\":\"\xff\"}", 400, "", "UTF-8"},
		"half a surrogate pair":       {with(`"stdin":"\ud800"`), 400, "", "surrogate"},
		"a field twice":               {with(`"image":"node"`), 400, "", `"image" is there twice`},
		"nested too deep":             {strings.Repeat("[", 100), 400, "", "deeper"},
		"unknown field":               {with(`"imagee":"x"`), 422, "imagee", `did you mean "image"?`},
		"unknown limit":               {with(`"limits":{"mem":1}`), 422, "limits.mem", "is not a field; there are"},
		"unknown field of a file":     {with(`"files":[{"path":"a","mode":7}]`), 422, "files[0].mode", "is not a field"},
		"field of a later version":    {with(`"callback":"http://x"`), 422, "callback", "not supported by this version"},
		"cases":                       {with(`"cases":[]`), 422, "cases", "not supported"},
		"isolation":                   {with(`"isolation":"fresh"`), 422, "isolation", "not supported"},
		"a retry of nothing":          {with(`"retry":{"max_attempts":3}`), 422, "retry.on", "name what to retry, of program, limit, exited"},
		"a retry of the platform":     {with(`"retry":{"on":["program","worker_lost"]}`), 422, "retry.on[1]", "always retried, on a budget of its own of 5"},
		"a retry of nonsense":         {with(`"retry":{"on":["bad luck"]}`), 422, "retry.on[0]", "is nothing to retry; there are"},
		"a retry of success":          {with(`"retry":{"on":["none"]}`), 422, "retry.on[0]", "is nothing to retry"},
		"too many attempts":           {with(`"retry":{"on":["limit"],"max_attempts":1000}`), 422, "retry.max_attempts", "between 1 and 20"},
		"no attempts":                 {with(`"retry":{"on":["limit"],"max_attempts":0}`), 422, "retry.max_attempts", "between 1 and 20"},
		"a backoff above its bound":   {with(`"retry":{"on":["limit"],"backoff":"2m","max_backoff":"1m"}`), 422, "retry.backoff_ms", "more than retry.max_backoff_ms"},
		"a budget of nothing":         {with(`"budgets":{"start_by_ms":0}`), 422, "budgets.start_by_ms", "at least 1 ms"},
		"a budget below nothing":      {with(`"budgets":{"total":"-5s"}`), 422, "budgets.total", "at least 1 ms"},
		"a budget of a year":          {with(`"budgets":{"total":"8760h"}`), 422, "budgets.total_ms", "30 days"},
		"a budget that is none":       {with(`"budgets":{"startby":"5s"}`), 422, "budgets.startby", `did you mean "start_by"`},
		"a start after the end":       {with(`"not_before":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `","budgets":{"start_by":"5m"}`), 422, "not_before", "the job could only expire"},
		"a time without a zone":       {with(`"not_before":"2026-03-01T08:00:00"`), 422, "not_before", "date, time and zone"},
		"a time that is none":         {with(`"not_before":"2026-02-30T08:00:00Z"`), 422, "not_before", "is not a time"},
		"a time as a number":          {with(`"not_before":1772352000`), 422, "not_before", "a number; write a time such as"},
		"a time too far ahead":        {with(`"not_before":"9999-12-31T23:59:59Z"`), 422, "not_before", "more than 30 days ahead"},
		"wrong type of text":          {with(`"stdin":7`), 422, "stdin", "is a number; write a text"},
		"command as one text":         {`{"image":"python","command":"ls"}`, 422, "command", `["sh", "-c"`},
		"number in command":           {`{"image":"python","command":["a",1]}`, 422, "command[1]", "is a number; write a text"},
		"files as an object":          {with(`"files":{}`), 422, "files", "is an object; write a list of objects"},
		"limits as a text":            {with(`"limits":"big"`), 422, "limits", "write an object"},
		"no image":                    {`{"command":["true"]}`, 422, "image", "is missing"},
		"bad image":                   {`{"image":"Py thon","command":["true"]}`, 422, "image", "OCI reference"},
		"image that is a path":        {`{"image":"../etc","command":["true"]}`, 422, "image", "OCI reference"},
		"nothing to run":              {`{"image":"python"}`, 422, "", "nothing to run"},
		"two forms":                   {with(`"steps":[{"command":["true"]}]`), 422, "", "one way only"},
		"code without language":       {`{"code":"x"}`, 422, "language", "is missing"},
		"language without code":       {`{"language":"python"}`, 422, "code", "is missing"},
		"stdin beside steps":          {`{"image":"a","steps":[{"command":["a"]}],"stdin":"x"}`, 422, "stdin", "steps[0].stdin"},
		"code beside command":         {with(`"code":"x"`), 422, "code", "goes with language"},
		"workdir beside language":     {`{"language":"python","code":"x","workdir":"/work"}`, 422, "workdir", "use steps"},
		"empty command":               {`{"image":"a","command":[]}`, 422, "command", "is empty"},
		"empty program":               {`{"image":"a","command":[""]}`, 422, "command[0]", "name the program"},
		"NUL in an argument":          {`{"image":"a","command":["a","b\u0000"]}`, 422, "command[1]", "NUL"},
		"no steps":                    {`{"image":"a","steps":[]}`, 422, "steps", "at least one"},
		"step without command":        {`{"image":"a","steps":[{}]}`, 422, "steps[0].command", "is empty"},
		"one name for two steps":      {`{"image":"a","steps":[{"name":"x","command":["a"]},{"name":"x","command":["a"]}]}`, 422, "steps[1].name", "steps[0]"},
		"bad name of a step":          {`{"image":"a","steps":[{"name":"a b","command":["a"]}]}`, 422, "steps[0].name", "letters"},
		"65 steps":                    {`{"image":"a","steps":[` + strings.Repeat(`{"command":["a"]},`, 64) + `{"command":["a"]}]}`, 422, "steps", "at most 64"},
		"memory of a step":            {`{"image":"a","steps":[{"command":["a"],"limits":{"memory":"1Gi"}}]}`, 422, "steps[0].limits.memory", "limits.memory"},
		"step longer than its job":    {`{"image":"a","steps":[{"command":["a"],"limits":{"wall":"11s"}}]}`, 422, "steps[0].limits.wall_ms", "10000"},
		"path that climbs":            {files("../x"), 422, "files[0].path", "leaves the work directory"},
		"path that climbs later":      {files("a/../../x"), 422, "files[0].path", "leaves the work directory"},
		"absolute path":               {files("/etc/passwd"), 422, "files[0].path", "is absolute"},
		"NUL in a path":               {with(`"files":[{"path":"a\u0000b"}]`), 422, "files[0].path", "NUL"},
		"empty path":                  {files(""), 422, "files[0].path", "is empty"},
		"no path":                     {with(`"files":[{"content":"x"}]`), 422, "files[0].path", "missing"},
		"path that is a directory":    {files("."), 422, "files[0].path", "not plain"},
		"path with a final slash":     {files("a/"), 422, "files[0].path", "not plain"},
		"path that is too long":       {files(strings.Repeat("a/", 2100) + "b"), 422, "files[0].path", "longer than 4096"},
		"name that is too long":       {files(strings.Repeat("a", 256)), 422, "files[0].path", "longer than 255"},
		"a path twice":                {files("a", "a"), 422, "files[1].path", "files[0]"},
		"file used as a directory":    {files("a", "a/b"), 422, "files[1].path", "directory"},
		"directory used as a file":    {files("a/b/c", "a"), 422, "files[0].path", "directory"},
		"too many files":              {files(make([]string, 1001)...), 422, "files", "at most 1000"},
		"content twice":               {with(`"files":[{"path":"a","content":"x","base64":"eA=="}]`), 422, "files[0].base64", "either content or base64"},
		"bad base64":                  {with(`"files":[{"path":"a","base64":"!"}]`), 422, "files[0].base64", "not base64"},
		"more files than disk":        {with(`"files":[{"path":"a","content":"` + strings.Repeat("x", 5000) + `"}],"limits":{"disk":4096}`), 422, "limits.disk", "less than the files take"},
		"zero memory":                 {with(`"limits":{"memory":0}`), 422, "limits.memory", "more than 0"},
		"negative memory":             {with(`"limits":{"memory":-1}`), 422, "limits.memory", "more than 0"},
		"too little memory":           {with(`"limits":{"memory":"15Mi"}`), 422, "limits.memory", "16Mi"},
		"absurd memory":               {with(`"limits":{"memory":"9000000T"}`), 422, "limits.memory", ""},
		"memory that is no size":      {with(`"limits":{"memory":"lots"}`), 422, "limits.memory", "not a size"},
		"memory in part":              {with(`"limits":{"memory":1.5}`), 422, "limits.memory", "not a size"},
		"memory as an object":         {with(`"limits":{"memory":{}}`), 422, "limits.memory", "not a size"},
		"disk above memory":           {with(`"limits":{"memory":"64Mi","disk":"65Mi"}`), 422, "limits.disk", "raise memory or lower disk"},
		"zero wall":                   {with(`"limits":{"wall_ms":0}`), 422, "limits.wall_ms", "at least 1 ms"},
		"wall below a millisecond":    {with(`"limits":{"wall":"1us"}`), 422, "limits.wall", "at least 1 ms"},
		"wall as a bare number":       {with(`"limits":{"wall":10}`), 422, "limits.wall", "wall_ms"},
		"wall said twice":             {with(`"limits":{"wall":"1s","wall_ms":1}`), 422, "limits.wall", "say it once"},
		"wall beyond a day":           {with(`"limits":{"wall":"25h"}`), 422, "limits.wall_ms", "between"},
		"wall beyond the clock":       {with(`"limits":{"wall_ms":99999999999999999}`), 422, "limits.wall_ms", "not a duration"},
		"zero cores":                  {with(`"limits":{"cpu":0}`), 422, "limits.cpu", "between"},
		"negative cores":              {with(`"limits":{"cpu":-1}`), 422, "limits.cpu", "between"},
		"cores as a text":             {with(`"limits":{"cpu":"1"}`), 422, "limits.cpu", "is a text; write a number"},
		"zero processes":              {with(`"limits":{"pids":0}`), 422, "limits.pids", "between"},
		"absurd processes":            {with(`"limits":{"pids":1000000}`), 422, "limits.pids", "between"},
		"zero output":                 {with(`"limits":{"output":0}`), 422, "limits.output", "more than 0"},
		"zero cpu time":               {with(`"limits":{"cpu_time_ms":0}`), 422, "limits.cpu_time_ms", "at least 1 ms"},
		"network":                     {with(`"network":"all"`), 422, "network", `only "none"`},
		"priority too high":           {with(`"priority":10`), 422, "priority", "between 0"},
		"negative priority":           {with(`"priority":-1`), 422, "priority", "between 0"},
		"priority in part":            {with(`"priority":1.5`), 422, "priority", "whole number"},
		"env name with =":             {with(`"env":{"A=B":"x"}`), 422, "env.A=B", "name must not"},
		"env name that is empty":      {with(`"env":{"":"x"}`), 422, "env.", "name must not"},
		"NUL in env":                  {with(`"env":{"A":"\u0000"}`), 422, "env.A", "NUL"},
		"env that is a number":        {with(`"env":{"A":1}`), 422, "env.A", "is a number; write a text"},
		"relative workdir":            {with(`"workdir":"src"`), 422, "workdir", "absolute"},
		"artifact that climbs":        {with(`"artifacts":["../*"]`), 422, "artifacts[0]", "leaves"},
		"absolute artifact":           {with(`"artifacts":["/etc/*"]`), 422, "artifacts[0]", "absolute"},
		"artifact that is no pattern": {with(`"artifacts":["["]`), 422, "artifacts[0]", "pattern"},
		"bad label":                   {with(`"labels":{"a b":"x"}`), 422, "labels.a b", "letters"},
		"label that is too long":      {with(`"labels":{"a":"` + strings.Repeat("x", 300) + `"}`), 422, "labels.a", "256"},
		"queue with a dot":            {with(`"queue":"a.b"`), 422, "queue", "letters"},
		"key that is too long":        {with(`"key":"` + strings.Repeat("x", 257) + `"`), 422, "key", "256"},
		"key with a newline":          {with(`"idempotency_key":"a\nb"`), 422, "idempotency_key", "control"},
		"stdin twice":                 {with(`"stdin":"a","stdin_base64":"YQ=="`), 422, "stdin_base64", "either stdin"},
		"argument that is too long":   {`{"image":"a","command":["a","` + strings.Repeat("x", 200_000) + `"]}`, 422, "command[1]", "put it into a file"},
		"body that is too large":      {with(`"stdin":"` + strings.Repeat("x", api.MaxBody) + `"`), 413, "", "16Mi"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, p := api.DecodeSubmit([]byte(c.body))
			if p == nil {
				t.Fatal("was taken")
			}
			if p.Status != c.status || !strings.Contains(p.Error(), c.says) {
				t.Errorf("got %d %s, want %d with %q", p.Status, p.Error(), c.status, c.says)
			}
			if p.Status == 422 && (len(p.Errors) == 0 || p.Errors[0].Location != c.location) {
				t.Errorf("got %+v, want the first at %q", p.Errors, c.location)
			}
		})
	}
}

func TestDecodeSubmitNamesAllErrorsAtOnce(t *testing.T) {
	_, p := api.DecodeSubmit([]byte(`{"command":["true"],"files":[{"path":"../x"}],"limits":{"memory":0,"pids":0},"foo":1,"priority":12}`))
	var got []string
	for _, e := range p.Errors {
		got = append(got, e.Location)
	}
	for _, want := range []string{"image", "files[0].path", "limits.memory", "limits.pids", "foo", "priority"} {
		if !strings.Contains(strings.Join(got, " "), want) {
			t.Errorf("%s is not among %v", want, got)
		}
	}
	if len(got) != 6 {
		t.Errorf("got %d errors, want 6: %v", len(got), got)
	}
}

func TestDecodeSubmitTakesSizesAndDurationsInEveryForm(t *testing.T) {
	want := api.Limits{Memory: 256 * job.MiB, Disk: 64_000_000, Wall: 1500, CPUTime: 2000}
	for name, limits := range map[string]string{
		"numbers":        `{"memory":268435456,"disk":64000000,"wall_ms":1500,"cpu_time_ms":2000}`,
		"texts":          `{"memory":"256Mi","disk":"64MB","wall_ms":"1.5s","cpu_time_ms":"2s"}`,
		"without suffix": `{"memory":"256MiB","disk":"64M","wall":"1500ms","cpu_time":"2s"}`,
		"nulls":          `{"memory":"256Mi","disk":"64M","wall":"1500ms","wall_ms":null,"cpu_time":"2s","output":null}`,
	} {
		s, p := api.DecodeSubmit([]byte(with(`"limits":` + limits)))
		if p != nil || s.Limits != want {
			t.Errorf("%s: got %+v, %v", name, s.Limits, p)
		}
	}
}

func TestSpecFillsTheDefaults(t *testing.T) {
	s, p := api.DecodeSubmit([]byte(`{"image":"python","command":["true"],"limits":{"memory":"64Mi","wall":"2s","cpu":0.5}}`))
	if p != nil {
		t.Fatal(p)
	}
	want := job.Spec{
		Image: job.Image{Name: "python"}, Steps: []job.Step{{Name: "run", Command: []string{"true"}, Workdir: "/work"}},
		Limits:  job.Limits{CPU: 0.5, Memory: 64 * job.MiB, PIDs: 64, Disk: 64 * job.MiB, Output: 64 * job.MiB, Wall: 2000, CPUTime: 1000},
		Network: "none", Queue: "default", Priority: 5,
	}
	if got := s.Spec(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSpecNamesStepsThatHaveNone(t *testing.T) {
	s, p := api.DecodeSubmit([]byte(`{"image":"a","steps":[{"command":["a"]},{"name":"step-1","command":["a"]},{"command":["a"]}]}`))
	if p != nil {
		t.Fatal(p)
	}
	var names []string
	for _, step := range s.Spec().Steps {
		names = append(names, step.Name)
	}
	if want := []string{"step-2", "step-1", "step-3"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestSubmitSurvivesTheWire(t *testing.T) {
	priority := 0
	want := api.Submit{
		Image: "registry.example:5000/a/b:1.0", Files: []job.File{{Path: "a", Content: "x"}, {Path: "b", Base64: []byte{0, 255}, Executable: true}},
		Steps:  []api.Step{{Name: "one", Command: []string{"a"}, Stdin: "\ufffd €", Limits: api.StepLimits{Wall: 5}, ContinueOnError: true}},
		Limits: api.Limits{CPU: 2, Memory: job.GiB, Wall: 1234}, Network: "none", Artifacts: []string{"out/*.txt"},
		Queue: "q", Priority: &priority, Labels: map[string]string{"team": "a"}, IdempotencyKey: "k",
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, p := api.DecodeSubmit(data)
	if p != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\n%v", got, want, p)
	}
}

func FuzzDecodeSubmit(f *testing.F) {
	f.Add([]byte(with(`"limits":{"memory":"1Gi"},"files":[{"path":"a","base64":"eA"}]`)))
	f.Add([]byte(`{"language":"python","code":"print(1)","key":"a/1"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, p := api.DecodeSubmit(body)
		if p != nil {
			if p.Error() == "" || p.Status < 400 {
				t.Errorf("problem without a text: %+v", p)
			}
			return
		}
		if s.Language != "" {
			return
		}
		spec := s.Spec()
		if len(spec.Steps) == 0 || spec.Limits.Memory < api.MinMemory || spec.Limits.Disk > spec.Limits.Memory {
			t.Errorf("taken with %+v", spec)
		}
		for _, file := range spec.Files {
			if api.BadPath(file.Path) != "" {
				t.Errorf("taken with path %q", file.Path)
			}
		}
	})
}
