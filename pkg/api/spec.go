package api

import (
	"fmt"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Spec is the submit in full: the short form command turned into a step,
// defaults filled in. The short form language must have been expanded before.
// The digest of the image is not known here.
func (s Submit) Spec() job.Spec {
	spec := job.Spec{
		Image: job.Image{Name: s.Image}, Files: s.Files, Limits: s.Limits.filled(), Network: NetworkNone,
		Artifacts: s.Artifacts, Queue: s.Queue, Pool: s.Pool, Class: s.Class, Priority: DefaultPriority, Labels: s.Labels,
		NotBefore: s.NotBefore, Budgets: job.Budgets(s.Budgets), Retry: job.Retry(s.Retry).Filled(),
	}
	if spec.Queue == "" {
		spec.Queue = DefaultQueue
	}
	if s.Priority != nil {
		spec.Priority = *s.Priority
	}
	steps := s.Steps
	if steps == nil {
		steps = []Step{{Command: s.Command, Stdin: s.Stdin, StdinBase64: s.StdinBase64, Env: s.Env, Workdir: s.Workdir}}
	}
	names := stepNames(steps)
	for i, step := range steps {
		spec.Steps = append(spec.Steps, step.spec(names[i]))
	}
	return spec
}

func (s Step) spec(name string) job.Step {
	step := job.Step{
		Name: name, Command: s.Command, Stdin: s.Stdin, StdinBase64: s.StdinBase64, Env: s.Env, Workdir: s.Workdir,
		Wall: s.Limits.Wall, CPUTime: s.Limits.CPUTime, ContinueOnError: s.ContinueOnError,
	}
	if step.Workdir == "" {
		step.Workdir = DefaultWorkdir
	}
	return step
}

// stepNames gives a name to steps that have none: "run" to the only one,
// "step-1" and so on to several, past the names that are taken.
func stepNames(steps []Step) []string {
	if len(steps) == 1 && steps[0].Name == "" {
		return []string{"run"}
	}
	taken := map[string]bool{}
	for _, s := range steps {
		taken[s.Name] = true
	}
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Name
		for n := i + 1; names[i] == ""; n++ {
			if name := fmt.Sprintf("step-%d", n); !taken[name] {
				names[i], taken[name] = name, true
			}
		}
	}
	return names
}
