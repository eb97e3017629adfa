package guest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/frame"
	"github.com/sandlot-dev/sandlot/worker/guest"
)

// The agent trusts its worker, but a worker that has lost its way must not go on unnoticed.
func TestAgentEndsWhenTheWorkerBreaksTheProtocol(t *testing.T) {
	start := &frame.StepStart{Step: 1, Argv: []string{"/bin/sleep", "1000"}, Dir: "/", UID: 1000, GID: 1000}
	cases := map[string][]frame.Frame{
		"settings again":            {&frame.Settings{Buffer: 1 << 20, SilenceMS: 1000}},
		"input of no step":          {&frame.StdinData{Step: 1, Data: []byte("x")}},
		"signal to no step":         {&frame.Signal{Step: 1, Number: 9}},
		"data of no file":           {&frame.FileData{Data: []byte("x")}},
		"step in a step":            {start, start},
		"files in a step":           {start, &frame.FileOpen{Path: "x"}},
		"collection in a step":      {start, &frame.Collect{}},
		"input nobody asked for":    {start, &frame.StdinData{Step: 1, Data: []byte("x")}},
		"signal to a step to come":  {start, &frame.Signal{Step: 2, Number: 9}},
		"a frame of the agent's":    {&frame.StepStarted{Step: 1}},
		"step number zero":          {&frame.StepStart{Argv: []string{"x"}, Dir: "/", UID: 1, GID: 1}},
		"end of input, then of end": {start, &frame.StdinEOF{Step: 1}},
	}
	for name, frames := range cases {
		t.Run(name, func(t *testing.T) {
			r := native.start(t, guest.Settings{})
			var b []byte
			for _, f := range frames {
				b, _ = frame.Append(b, f)
			}
			if _, err := r.w.Write(b); err != nil {
				t.Fatal(err)
			}
			r.within(t, 15*time.Second, 5)
			_, _, _, err := r.try(t.Context(), sh("echo on"))
			var agent *guest.AgentError
			if len(frames) == 1 && (!errors.As(err, &agent) || agent.Code != frame.CodeProtocol) {
				t.Errorf("%v", err)
			}
		})
	}
}
