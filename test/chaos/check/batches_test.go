package check_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// goodBatch is a batch of five lines: one succeeds in its second attempt, one
// fails, one is refused, and of a group of which one is enough one succeeds and
// the other is canceled before its turn. Two schedulers say so, and two
// clients were told it all. The records are with the batch by now.
func goodBatch() *story {
	s := &story{}
	u := check.Upload{ID: "b", Tenant: "default", StopAfter: 1, Lines: []check.Line{
		{Key: "k0", Group: "g0", Label: "b/k0"}, {Key: "k1", Group: "g1", Label: "b/k1"}, {Refused: true},
		{Key: "k3", Group: "g2", Label: "b/k3"}, {Key: "k4", Group: "g2", Label: "b/k4"},
	}}
	s.Uploads = []check.Upload{u}
	s.Asks = []check.Ask{
		{N: 1, Kind: check.AskUpload, Sent: at(0), Got: at(1), Status: 201, ID: "b", State: "running"},
		{N: 2, Kind: check.AskBatchGet, Sent: at(3), Got: at(3.1), Status: 200, ID: "b", State: "running"},
	}
	for i, want := range []struct{ key, state string }{{"k0", "succeeded"}, {"k1", "failed"}, {"k3", "succeeded"}, {"k4", "succeeded"}} {
		s.Asks = append(s.Asks, check.Ask{N: 10 + i, Kind: check.AskItem, Sent: at(0), Got: at(1), Status: 201, Batch: "b", Key: want.key,
			Body: want.key, Label: "b/" + want.key, Want: want.state, JobID: fmt.Sprintf("b-%d", i)})
	}
	s.item(0, "queued", 0, 1, "queued")
	s.item(0, "running", 1, 2, "w1")
	s.item(0, "retrying", 1, 3, "")
	s.item(0, "running", 2, 4, "w2")
	s.item(0, "succeeded", 2, 5, "w2")
	s.item(1, "queued", 0, 1, "")
	s.item(1, "running", 1, 2, "w1")
	s.item(1, "failed", 1, 3, "w1")
	s.item(2, "queued", 0, 1, "")
	s.item(2, "running", 1, 2, "w1")
	s.item(2, "succeeded", 1, 4, "w1")
	s.item(3, "canceled", 0, 6, "")
	for i := range 4 {
		s.item(i, "", 0, 10, "")
	}
	results := []check.Result{{Line: 3}}
	for _, line := range []string{
		`{"id":"b-1","state":"failed","worker":"w1","labels":{"chaos-ask":"b/k1"},"attempts":[{"number":1,"worker":"w1","outcome":"finished"}],"verdict":{"blame":"program","reason":"exited"},"steps":[]}`,
		`{"id":"b-2","state":"succeeded","worker":"w1","labels":{"chaos-ask":"b/k3"},"attempts":[{"number":1,"worker":"w1","outcome":"finished"}],"verdict":{"blame":"none","reason":"exited"},"steps":[{"stdout":{"text":"x\n"}}]}`,
		`{"id":"b-0","state":"succeeded","worker":"w2","labels":{"chaos-ask":"b/k0"},"attempts":[{"number":1,"worker":"w1","outcome":"fault"},{"number":2,"worker":"w2","outcome":"finished"}],"verdict":{"blame":"none","reason":"exited"},"steps":[]}`,
		`{"id":"b-3","state":"canceled","labels":{"chaos-ask":"b/k4"},"verdict":{"blame":"none","reason":"canceled"}}`,
	} {
		r, err := check.DecodeResult([]byte(line), "default")
		if err != nil {
			panic(err)
		}
		results = append(results, r)
	}
	for _, from := range []string{"s0", "s1"} {
		s.Objects = append(s.Objects, check.Object{
			From: from, Status: 200, ID: "b", State: "finished", Lines: 5, Jobs: 4, Final: 4, Rejected: 1, Groups: 2,
			States:   map[string]int{"succeeded": 2, "failed": 1, "canceled": 1, "queued": 0},
			Verdicts: []check.Verdict{{Blame: "none", Reason: "exited", Count: 2}, {Blame: "program", Reason: "exited", Count: 1}, {Blame: "none", Reason: "canceled", Count: 1}},
		})
		s.Results = append(s.Results, check.Results{From: from, ID: "b", Told: slices.Clone(results)})
	}
	s.Leases, s.Releases = []check.Lease{{Seq: 1}}, []check.Release{{Seq: 2, Job: "b-0", Fence: 1}}
	return s
}

// item revises the record of an item; an empty state removes it.
func (s *story) item(n int, state string, attempt int, seconds float64, worker string) {
	id := fmt.Sprintf("b-%d", n)
	last := uint64(0)
	for _, r := range s.Revisions {
		if r.Job == id {
			last = r.Seq
		}
	}
	s.seq += 10
	s.Revisions = append(s.Revisions, check.Revision{
		Stream: "RES_0", Seq: s.seq, Last: last, At: at(seconds), Subject: "r.0.default." + id, Tenant: "default", Job: id,
		State: state, Removed: state == "", Attempt: attempt, Worker: worker, Ask: []string{"b/k0", "b/k1", "b/k3", "b/k4"}[n],
	})
}

func TestAGoodBatchHasNoFindings(t *testing.T) {
	for name, change := range map[string]func(*story){
		"as it is": func(*story) {},
		"an answer to the upload was lost": func(s *story) {
			s.Asks = append(s.Asks, check.Ask{N: 3, Kind: check.AskUpload, Sent: at(0), ID: "b"})
		},
		"a record is not forgotten yet": func(s *story) {
			s.Revisions = slices.DeleteFunc(s.Revisions, func(r check.Revision) bool { return r.Job == "b-1" && r.Removed })
		},
		"nobody saw an end": func(s *story) {
			s.Revisions = slices.DeleteFunc(s.Revisions, func(r check.Revision) bool { return r.Job == "b-1" && r.State == "failed" })
		},
		"an upload was never completed": func(s *story) {
			s.Uploads = append(s.Uploads, check.Upload{ID: "c", Lines: []check.Line{{Key: "k"}}})
			s.Objects = append(s.Objects, check.Object{From: "s0", Status: 200, ID: "c", State: "uploading"}, check.Object{From: "s1", Status: 404, ID: "c"})
		},
		"it was canceled on request": func(s *story) {
			s.Asks = append(s.Asks, check.Ask{N: 3, Kind: check.AskBatchCancel, Sent: at(5.5), Got: at(5.6), Status: 200, State: "canceling", ID: "b"})
			s.Objects[0].State, s.Objects[1].State = "canceled", "canceled"
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := goodBatch()
			change(s)
			if found, _ := check.Check(s.History); len(found) != 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

// TestEveryBrokenPromiseToABatchIsFound is TestEveryBrokenPromiseIsFound for
// batches.
func TestEveryBrokenPromiseToABatchIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		rule  string
		wreck func(*story)
	}{
		"a complete batch is not known":           {check.RuleKnown, func(s *story) { s.Objects[1].Status = 404 }},
		"a question after it finds nothing":       {check.RuleKnown, func(s *story) { s.Asks[1].Status = 404 }},
		"it never ends":                           {check.RuleStuck, func(s *story) { s.Objects[0].State = "running" }},
		"it is canceled and nobody asked":         {check.RuleAnswers, func(s *story) { s.Objects[0].State = "canceled" }},
		"its cancel is forgotten":                 {check.RuleAnswers, func(s *story) { s.cancelBatch("canceling") }},
		"a state is counted wrongly":              {check.RuleRecount, func(s *story) { s.Objects[1].States["failed"] = 2 }},
		"a verdict is counted wrongly":            {check.RuleRecount, func(s *story) { s.Objects[1].Verdicts[0].Count = 3 }},
		"a group is counted wrongly":              {check.RuleRecount, func(s *story) { s.Objects[0].Groups = 1 }},
		"a line is missing":                       {check.RuleRecount, func(s *story) { s.Objects[0].Lines = 4 }},
		"a line is there twice":                   {check.RuleRecount, func(s *story) { s.Objects[0].Jobs, s.Objects[0].Final = 5, 5 }},
		"a refused line is not counted":           {check.RuleRecount, func(s *story) { s.Objects[0].Rejected = 0 }},
		"a result is missing":                     {check.RuleResults, func(s *story) { s.Results[1].Told = s.Results[1].Told[:4] }},
		"a result is told twice":                  {check.RuleResults, func(s *story) { s.Results[1].Told = append(s.Results[1].Told, s.Results[1].Told[2]) }},
		"a refused line is not told":              {check.RuleResults, func(s *story) { s.Results[0].Told = s.Results[0].Told[1:] }},
		"a result is of another batch":            {check.RuleResults, func(s *story) { s.Results[1].Told[4].Record.ID = "b-9" }},
		"the stream does not end":                 {check.RuleResults, func(s *story) { s.Results[1].Trouble = "cut" }},
		"a result is told before its end":         {check.RuleResults, func(s *story) { s.Results[1].Told[1].Record.State = "running" }},
		"a result is of an earlier attempt":       {check.RuleResults, func(s *story) { s.Results[1].Told[3].Record.Attempt = 1 }},
		"a result lost what was printed":          {check.RuleResults, func(s *story) { s.Results[1].Told[2].Record.Result = nil }},
		"all results differ from the record":      {check.RuleResults, func(s *story) { s.both(1, func(r *check.Record) { r.State = "expired" }) }},
		"an item comes back":                      {check.RuleFinal, func(s *story) { s.item(0, "queued", 0, 20, "") }},
		"an item is forgotten before its end":     {check.RuleFinal, func(s *story) { s.item(0, "queued", 0, 20, ""); s.item(0, "", 0, 21, "") }},
		"an item has no result at all":            {check.RuleOneEnd, func(s *story) { s.Results[0].Told, s.Results[1].Told = nil, nil }},
		"an item runs before all are there":       {check.RulePhantom, func(s *story) { s.Asks = s.Asks[2:]; s.Objects[0].State, s.Objects[1].State = "uploading", "uploading" }},
		"an item is canceled, its group has none": {check.RuleVerdict, func(s *story) { s.Uploads[0].StopAfter = 2 }},
		"an item is canceled too early":           {check.RuleVerdict, func(s *story) { s.Revisions[11].At = at(3) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := goodBatch()
			c.wreck(s)
			found, _ := check.Check(s.History)
			var rules []string
			for _, f := range found {
				rules = append(rules, f.Rule)
			}
			if !strings.Contains(strings.Join(rules, "\n"), c.rule) {
				t.Errorf("want %q, found %v", c.rule, found)
			}
		})
	}
}

func (s *story) cancelBatch(told string) {
	s.Asks = append(s.Asks, check.Ask{N: 3, Kind: check.AskBatchCancel, Sent: at(3), Got: at(3.1), Status: 200, State: told, ID: "b"})
}

// both changes a result wherever it is told.
func (s *story) both(n int, change func(*check.Record)) {
	for i := range s.Results {
		change(&s.Results[i].Told[n].Record)
	}
}

func TestResultsAreReadAsTheyAreTold(t *testing.T) {
	if r, err := check.DecodeResult([]byte(`{"line":7,"key":"k","state":"rejected","error":{"status":422},"cursor":"l7"}`), "t1"); err != nil || r.Line != 7 || r.Cursor != "l7" {
		t.Errorf("a refused line is read as %+v: %v", r, err)
	}
	r, err := check.DecodeResult([]byte(`{"id":"b-1","state":"failed","batch":"b","attempts":[{"number":1}],"verdict":{"blame":"program","reason":"exited"},"steps":[{"stdout":{"text":"x\ny"}}],"cursor":"s1"}`), "t1")
	if err != nil || r.Record.ID != "b-1" || r.Record.Attempt != 1 || r.Record.Tenant != "t1" || r.Record.Result.Verdict.Reason != "exited" || r.Record.Result.Steps[0].Stdout.Text != "x\ny" {
		t.Errorf("a result is read as %+v: %v", r, err)
	}
	if _, err := check.DecodeResult([]byte(`{"id":`), "t1"); err == nil {
		t.Error("half a line was read")
	}
}
