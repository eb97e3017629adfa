package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// caughtBy says which findings each deliberate bug must lead to: one of them
// at least, so that it is the bug that was found and not something else.
var caughtBy = map[string][]string{
	sabotageToken: {check.RuleFinal, check.RuleTable, check.RuleStale, check.RuleAttempts},
	sabotageFence: {check.RuleFence},
	sabotageAck:   {check.RuleStuck},
}

// selftestQuiet is shorter than what mends a lost hint in the end, and longer
// than all jobs take where none is lost.
const selftestQuiet = 30 * time.Second

// selftest runs every deliberate bug and wants it caught, after a run without
// one that must be green; it is the exit code.
func (p suite) selftest(ctx context.Context) int {
	if err := p.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	caught := 0
	for _, bug := range append([]string{""}, sabotages...) {
		s := p.setup
		s.Sabotage, s.Out, s.Quiet = bug, filepath.Join(p.out, "selftest-"+bug), selftestQuiet
		if err := os.RemoveAll(s.Out); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 2
		}
		o, err := run(ctx, s, p.first, p.length)
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 2
		}
		if bug == "" {
			tell(o, s.Out)
			if len(o.Findings) > 0 {
				fmt.Println("chaos selftest: without a bug there are findings, so nothing can be said of those with one")
				return 1
			}
			continue
		}
		if first, ok := o.caught(bug); ok {
			caught++
			fmt.Printf("%s: caught, %d findings, such as\n  %s\n", bug, len(o.Findings), first)
			_ = os.RemoveAll(s.Out)
			continue
		}
		fmt.Printf("%s: NOT caught, logs in %s\n", bug, s.Out)
		tell(o, s.Out)
	}
	fmt.Printf("chaos selftest: %d of %d bugs caught\n", caught, len(sabotages))
	if caught < len(sabotages) {
		return 1
	}
	return 0
}

// caught is the first finding that the bug must lead to.
func (o outcome) caught(bug string) (check.Finding, bool) {
	i := slices.IndexFunc(o.Findings, func(f check.Finding) bool { return slices.Contains(caughtBy[bug], f.Rule) })
	if i < 0 {
		return check.Finding{}, false
	}
	return o.Findings[i], true
}
