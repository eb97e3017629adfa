package e2e

import (
	"testing"

	"github.com/sandlot-dev/sandlot/test/testenv"
)

// TestSandboxes runs on one server what needs no server of its own.
func TestSandboxes(t *testing.T) {
	up := program(t).Up(t, testenv.ShortDir(t), prepare)
	for name, test := range map[string]func(*testing.T, *testenv.Instance){
		"every end has its verdict":           testVerdicts,
		"every exit code is told":             testExitCodes,
		"output is whole on a busy host":      testOutput,
		"memory verdicts are true":            testMemory,
		"the first job pays for no one":       testPeaks,
		"a job sees nothing of the host":      testNothingOfTheHost,
		"a canceled job is gone":              testCancel,
		"a trace shows the ten steps":         testTrace,
		"a job that is too large is refused":  testTooLarge,
		"bad input is refused by name":        testRefused,
		"links lead nowhere":                  testSymlink,
		"steps, files and artifacts go along": testSteps,
	} {
		t.Run(name, func(t *testing.T) { test(t, up) })
	}
}
