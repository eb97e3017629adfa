package sandboxtest

import (
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/worker"
)

// suite is what one test of the suite needs.
type suite struct {
	rt    worker.Runtime
	image job.Image
}

// Exercise runs the suite. Each test gets a runtime of its own from open,
// which may hand out the same one every time. The image must have a shell and
// the words of the package comment.
func Exercise(t *testing.T, open func(t *testing.T) worker.Runtime, image job.Image) {
	for name, test := range map[string]func(*testing.T, suite){
		"exit codes are told as they are":               testExitCodes,
		"signals are told by name":                      testSignals,
		"a step that fails ends the job":                testFailureEnds,
		"a failure may be passed over":                  testContinueOnError,
		"steps share the work directory":                testStepsShare,
		"a program that cannot start is its own fault":  testNoSuchProgram,
		"stdin reaches the program":                     testStdin,
		"stdout and stderr stay apart":                  testStreams,
		"output is complete to the last byte":           testLargeOutput,
		"a program that prints and ends is heard":       testLastWords,
		"the environment is the job's and nothing else": testEnvironment,
		"a step starts where it asks to":                testWorkdir,
		"programs run as an ordinary user":              testUser,
		"files arrive with content and mode":            testFiles,
		"artifacts come out":                            testArtifacts,
		"the wall limit ends the job":                   testWall,
		"a step's wall limit ends the job":              testStepWall,
		"the cpu limit ends the job":                    testCPUTime,
		"the output limit ends the job":                 testOutputLimit,
		"the output limit counts all steps together":    testOutputLimitOfSteps,
		"limits are told as applied":                    testApplied,
		"a cancel ends the job":                         testCancel,
		"a drain ends the job without a verdict":        testDrain,
		"a context that ended prepares nothing":         testPrepareCanceled,
		"an unknown image is an image fault":            testUnknownImage,
		"a sink that fails ends the attempt":            testSinkFails,
		"a sandbox can be closed twice":                 testCloseTwice,
		"a sandbox can be closed without running":       testCloseUnused,
		"sandboxes do not see each other":               testApart,
	} {
		t.Run(name, func(t *testing.T) { test(t, suite{open(t), image}) })
	}
}
