package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// testExitCodes runs many jobs that only exit, as fast as they go.
func testExitCodes(t *testing.T, up *testenv.Instance) {
	n := count(t, "SANDLOT_E2E_EXITS", 256)
	ids := submitAll(t, up.Client, n, func(i int) api.Submit { return sh(fmt.Sprintf("echo %d; exit %d", i, i%256)) })
	begun := time.Now()
	for i, done := range waitAll(t, up.Client, ids, 10*time.Minute) {
		if len(done.Steps) != 1 || done.Steps[0].ExitCode == nil {
			t.Errorf("job %d: %s, steps %+v", i, testenv.Verdict(done), done.Steps)
			continue
		}
		step := done.Steps[0]
		if *step.ExitCode != i%256 || step.Stdout.Text != fmt.Sprintf("%d\n", i) {
			t.Errorf("exit %d is told as %d, output %q", i%256, *step.ExitCode, step.Stdout.Text)
		}
	}
	t.Logf("%d jobs, %.1f a second", n, float64(n)/time.Since(begun).Seconds())
}

// testOutput runs jobs with much binary output while every slot is busy.
func testOutput(t *testing.T, up *testenv.Instance) {
	n := count(t, "SANDLOT_E2E_OUTPUTS", 40)
	// Bytes of every value in an order of their own for each job; the script
	// prints its two files many times, to either stream in turn.
	const block, rounds, times = 25_000, 5, 100
	round := "cat" + strings.Repeat(" a", times/rounds) + "; cat" + strings.Repeat(" b", times/rounds) + " >&2; "
	script := strings.Repeat(round, rounds)
	ids := submitAll(t, up.Client, n, func(i int) api.Submit {
		submit := sh(script)
		submit.Files = []job.File{
			{Path: "a", Base64: noise(i, 0, block)}, {Path: "b", Base64: noise(i, 1, block)},
		}
		return submit
	})
	for i, done := range waitAll(t, up.Client, ids, 5*time.Minute) {
		if got := testenv.Verdict(done); got != "succeeded none exited" {
			t.Errorf("job %d: %s, evidence %+v", i, got, done.Verdict)
			continue
		}
		for stream, out := range map[int]job.Output{0: done.Steps[0].Stdout, 1: done.Steps[0].Stderr} {
			whole := bytes.Repeat(noise(i, stream, block), times)
			sum := sha256.Sum256(whole)
			if out.Bytes != int64(len(whole)) || out.SHA256 != hex.EncodeToString(sum[:]) || !out.Truncated {
				t.Errorf("job %d, stream %d: %d bytes, digest %s, want %d, %x", i, stream, out.Bytes, out.SHA256, len(whole), sum)
			}
		}
		if i == 0 {
			wantWhole(t, up, done.ID, bytes.Repeat(noise(0, 0, block), times))
		}
	}
}

// noise is binary data that is the same each time.
func noise(seed, stream, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(stream)}).Read(data)
	return data
}

// wantWhole wants the standard output of a job's only step in full.
func wantWhole(t *testing.T, up *testenv.Instance, id string, want []byte) {
	t.Helper()
	body, err := up.Client.Output(t.Context(), id, 0, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the whole output has %d bytes, want %d: %v", len(got), len(want), err)
	}
}
