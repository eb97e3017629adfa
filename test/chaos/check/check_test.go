package check_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// begin is when the histories of these tests begin.
var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time {
	return begin.Add(time.Duration(seconds * float64(time.Second)))
}

// story is a history of one job in the making.
type story struct {
	check.History
	seq uint64
}

// good is a job that was accepted, ran twice since its first worker was lost,
// succeeded and was looked at: nothing is wrong with it.
func good() *story {
	s := &story{}
	s.Asks = []check.Ask{
		{N: 1, Kind: check.AskSubmit, Sent: at(0), Got: at(0.1), Status: 202, Key: "k", Body: "b", Label: "a1", Want: "succeeded", JobID: "j", State: "queued"},
		{N: 2, Kind: check.AskGet, Sent: at(1), Got: at(1.1), Status: 200, ID: "j", State: "running", Attempt: 1},
		{N: 3, Kind: check.AskGet, Sent: at(30), Got: at(30.1), Status: 200, ID: "j", State: "succeeded", Attempt: 2},
		{N: 4, Kind: check.AskNothing, Sent: at(2), Got: at(2.1), Status: 404, ID: "x"},
	}
	s.revise(0.05, "queued", 0, "", "")
	s.revise(0.5, "running", 1, "w1", "life1")
	s.revise(12, "retrying", 1, "", "life1")
	s.revise(13, "running", 2, "w2", "life2")
	s.revise(15, "succeeded", 2, "w2", "life2")
	s.end("succeeded", check.Attempt{Number: 1, Worker: "w1", Outcome: "lost"}, check.Attempt{Number: 2, Worker: "w2", Outcome: "finished"})
	s.Executions = []check.Execution{
		{ID: "j-1-0", Job: "j", Attempt: 1, Worker: "w1", Process: "w1.1", Start: at(0.6)},
		{ID: "j-2-0", Job: "j", Attempt: 2, Worker: "w2", Process: "w2.1", Start: at(13.1), End: at(14.9), Complete: true},
	}
	s.Processes = []check.Process{{Name: "w1.1", Died: at(1.5)}, {Name: "w2.1"}}
	s.Leases = []check.Lease{{Seq: 1}, {Seq: 5}}
	s.Releases = []check.Release{{Seq: 2, Job: "j", Fence: 1}, {Seq: 6, Job: "j", Fence: 5}}
	return s
}

func (s *story) revise(seconds float64, state string, attempt int, worker, life string) {
	last := s.seq
	s.seq += 10
	s.Revisions = append(s.Revisions, check.Revision{
		Stream: "RES_0", Seq: s.seq, Last: last, At: at(seconds), Subject: "r.0.default.j", Tenant: "default", Job: "j",
		State: state, Attempt: attempt, Worker: worker, Life: life, Ask: "a1",
	})
}

// remove has the record be gone.
func (s *story) remove(seconds float64) {
	s.revise(seconds, "", 0, "", "")
	s.Revisions[len(s.Revisions)-1].Removed = true
	s.Records = nil
}

// end makes the record that is there at the end.
func (s *story) end(state string, attempts ...check.Attempt) {
	last := s.Revisions[len(s.Revisions)-1]
	text := fmt.Sprintf(`{"id":"j","tenant":"default","state":%q,"worker":%q,"life":%q,"attempt":%d,"labels":{"chaos-ask":"a1"},
		"result":{"verdict":{"blame":"none","reason":"exited"},"steps":[{"stdout":{"text":"j-%d-0\ndone\n"}}]}}`,
		state, last.Worker, last.Life, len(attempts), len(attempts))
	r, _, err := check.DecodeRecord(check.Header{"Sandlot-State": {state}}, last.Seq, []byte(text))
	if err != nil {
		panic(err)
	}
	r.Attempts = attempts
	s.Records = []check.Record{r}
}

func TestAGoodRunHasNoFindings(t *testing.T) {
	found, stats := check.Check(good().History)
	if len(found) != 0 {
		t.Errorf("found %v", found)
	}
	want := check.Stats{Records: 1, Revisions: 5, Accepted: 1, Executions: 2, Retried: 1, Lost: 1, Releases: 2}
	if stats != want {
		t.Errorf("stats are %+v, want %+v", stats, want)
	}
}

// TestEveryBrokenPromiseIsFound breaks the good story in every way that a rule
// is made for, and wants that rule to say so.
func TestEveryBrokenPromiseIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		rule  string
		wreck func(*story)
	}{
		"an accepted job has no record":         {check.RuleOneEnd, func(s *story) { s.Records = nil }},
		"a record is final and has no result":   {check.RuleOneEnd, func(s *story) { s.Records[0].Result = nil }},
		"it succeeded and no attempt finished":  {check.RuleOneEnd, func(s *story) { s.Records[0].Attempts[1].Outcome = "lost" }},
		"two attempts finished":                 {check.RuleOneEnd, func(s *story) { s.Records[0].Attempts[0].Outcome = "finished" }},
		"it changes after its end":              {check.RuleFinal, func(s *story) { s.revise(16, "failed", 2, "w2", "life2") }},
		"it is written again after its end":     {check.RuleFinal, func(s *story) { s.revise(16, "succeeded", 2, "w2", "life2") }},
		"it vanishes and nobody asked":          {check.RuleFinal, func(s *story) { s.remove(16) }},
		"it lies there otherwise than was told": {check.RuleFinal, func(s *story) { s.Records[0].State = "failed" }},
		"it ends without having run":            {check.RuleTable, func(s *story) { s.Revisions = s.Revisions[:1]; s.seq = 10; s.revise(1, "succeeded", 0, "", "") }},
		"a cancel is forgotten":                 {check.RuleTable, func(s *story) { s.Revisions[2].State = "canceling"; s.Revisions[3].State = "succeeded" }},
		"it begins with running":                {check.RuleTable, func(s *story) { s.Revisions = s.Revisions[1:]; s.Revisions[0].Last = 0 }},
		"an attempt is claimed twice":           {check.RuleAttempts, func(s *story) { s.Revisions[3].Attempt = 1 }},
		"an attempt is left out":                {check.RuleAttempts, func(s *story) { s.Revisions[3].Attempt = 3 }},
		"an older attempt writes":               {check.RuleAttempts, func(s *story) { s.Revisions[4].Attempt = 1 }},
		"an attempt is not remembered":          {check.RuleAttempts, func(s *story) { s.Records[0].Attempts = s.Records[0].Attempts[1:] }},
		"an attempt has no outcome":             {check.RuleAttempts, func(s *story) { s.Records[0].Attempts[0].Outcome = "" }},
		"another life ends the attempt":         {check.RuleStale, func(s *story) { s.Revisions[4].Life = "life1" }},
		"another worker claimed the attempt":    {check.RuleStale, func(s *story) { s.Records[0].Attempts[1].Worker = "w3" }},
		"the result is of an earlier attempt":   {check.RuleStale, func(s *story) { s.Records[0].Result.Steps[0].Stdout.Text = "j-1-0\n" }},
		"the result is of no execution":         {check.RuleExecutions, func(s *story) { s.Records[0].Result.Steps[0].Stdout.Text = "j-9-0\n" }},
		"the execution did not end":             {check.RuleExecutions, func(s *story) { s.Executions[1].Complete = false }},
		"an attempt is executed twice":          {check.RuleExecutions, func(s *story) { s.Executions[0].Attempt = 2 }},
		"two attempts run at once":              {check.RuleExecutions, func(s *story) { s.Executions[0].End = at(20) }},
		"a lost attempt outlives its process":   {check.RuleExecutions, func(s *story) { s.Processes[0].Died = time.Time{} }},
		"an execution begins after the end":     {check.RuleQuiet, func(s *story) { s.Executions[1].Start = at(18); s.Executions[1].End = at(19) }},
		"an execution goes on after the end":    {check.RuleQuiet, func(s *story) { s.Executions[1].End = at(18) }},
		"it goes on long after a pause": {check.RuleQuiet, func(s *story) {
			s.Executions[1].End = at(30)
			s.Processes[1].Pauses = []check.Pause{{From: at(14), To: at(20)}}
		}},
		"a job never ends":                       {check.RuleStuck, func(s *story) { s.Records[0].State = "retrying" }},
		"an accepted job is not found":           {check.RuleKnown, func(s *story) { s.Asks[1].Status, s.Asks[1].State = 404, "" }},
		"a cancel of it finds nothing":           {check.RuleKnown, func(s *story) { s.Asks[2].Kind, s.Asks[2].Status, s.Asks[2].State = check.AskCancel, 404, "" }},
		"a job that never was is found":          {check.RuleUnknown, func(s *story) { s.Asks[3].Status, s.Asks[3].State = 200, "queued" }},
		"a key leads to another job":             {check.RuleKeys, func(s *story) { s.again(202, "j2", "b") }},
		"another body is accepted under the key": {check.RuleKeys, func(s *story) { s.again(202, "j", "other") }},
		"the same body is a conflict":            {check.RuleKeys, func(s *story) { s.again(409, "", "b") }},
		"a job comes of no ask":                  {check.RulePhantom, func(s *story) { s.Records[0].Labels["chaos-ask"] = "a9" }},
		"an ask makes two jobs": {check.RulePhantom, func(s *story) {
			other := s.Records[0]
			other.ID = "j2"
			s.Records = append(s.Records, other)
		}},
		"an answer tells another end":                  {check.RuleAnswers, func(s *story) { s.Asks[2].State = "failed" }},
		"an answer tells no state":                     {check.RuleAnswers, func(s *story) { s.Asks[2].State = "lost" }},
		"an answer tells of an attempt that never was": {check.RuleAnswers, func(s *story) { s.Asks[2].Attempt = 3 }},
		"a cancel was promised":                        {check.RuleAnswers, func(s *story) { s.Asks[1].State = "canceling" }},
		"a right program fails":                        {check.RuleVerdict, func(s *story) { s.Records[0].State = "failed"; s.Revisions[4].State = "failed" }},
		"it is canceled and nobody asked":              {check.RuleVerdict, func(s *story) { s.Records[0].State = "canceled"; s.Revisions[4].State = "canceled" }},
		"it is dead too early":                         {check.RuleVerdict, func(s *story) { s.Records[0].State = "dead"; s.Revisions[4].State = "dead" }},
		"a batch is counted wrongly": {check.RuleRecount, func(s *story) {
			s.Records[0].Batch = "b"
			s.Batches = []check.Batch{{ID: "b", Status: 200, Jobs: 1, Final: 1, States: map[string]int{"failed": 1}}}
		}},
		"a batch is not known":    {check.RuleRecount, func(s *story) { s.Records[0].Batch = "b"; s.Batches = []check.Batch{{ID: "b", Status: 404}} }},
		"it runs before its time": {check.RuleTime, func(s *story) { s.Asks[0].NotBefore = at(5) }},
		"it expires before its time": {check.RuleTime, func(s *story) {
			s.Asks[0].Budget = time.Minute
			s.Records[0].State, s.Revisions[4].State = "expired", "expired"
		}},
		"it expires and has no budget":      {check.RuleVerdict, func(s *story) { s.Records[0].State, s.Revisions[4].State = "expired", "expired" }},
		"nobody tells of changes":           {check.RuleSeen, func(s *story) { s.Revisions = nil }},
		"nobody tells of releases":          {check.RuleSeen, func(s *story) { s.Releases = nil }},
		"a release has no fence":            {check.RuleFence, func(s *story) { s.Releases[0].Fence = 0 }},
		"a deposed leader releases":         {check.RuleFence, func(s *story) { s.Releases[1].Fence = 1 }},
		"platform faults without end":       {check.RuleAttempts, func(s *story) { s.manyFaults(6) }},
		"an attempt vanishes behind a gap":  {check.RuleAttempts, func(s *story) { s.Revisions[4].Attempt = 1; s.Revisions[4].Last = 45 }},
		"a final record changes over a gap": {check.RuleFinal, func(s *story) { s.revise(16, "running", 3, "w3", "life3"); s.Revisions[5].Last = 55 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
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

// again repeats the submit.
func (s *story) again(status int, id, body string) {
	a := s.Asks[0]
	a.N, a.Sent, a.Got, a.Status, a.JobID, a.Body, a.Again = 9, at(40), at(40.1), status, id, body, true
	if status >= 400 {
		a.State = ""
	}
	s.Asks = append(s.Asks, a)
}

// manyFaults is a record that remembers so many faults.
func (s *story) manyFaults(n int) {
	var all []check.Attempt
	for i := range n {
		all = append(all, check.Attempt{Number: i + 1, Worker: "w1", Outcome: "fault"})
	}
	s.Records[0].Attempts, s.Records[0].Attempt = all, n
}

// TestWhatIsNobodysFaultIsNotFound has odd histories that break no promise.
func TestWhatIsNobodysFaultIsNotFound(t *testing.T) {
	for name, change := range map[string]func(*story){
		"the same revision is told twice": func(s *story) { s.Revisions = append(s.Revisions, s.Revisions...) },
		"a revision is told by nobody":    func(s *story) { s.Revisions = append(s.Revisions[:3], s.Revisions[4:]...) },
		"an answer never came":            func(s *story) { s.Asks[2].Status, s.Asks[2].Got, s.Asks[2].State = 0, time.Time{}, "" },
		"a scheduler was too busy":        func(s *story) { s.Asks[2].Status, s.Asks[2].State = 503, "" },
		"another body is a conflict":      func(s *story) { s.again(409, "", "other") },
		"the same is asked again":         func(s *story) { s.again(200, "j", "b") },
		"it was removed on request": func(s *story) {
			s.remove(50)
			s.Asks = append(s.Asks, check.Ask{N: 5, Kind: check.AskRemove, Sent: at(49), Got: at(51), Status: 204, ID: "j"})
		},
		"a stopped worker wakes up late": func(s *story) {
			s.Executions[0].End = at(21)
			s.Processes[0] = check.Process{Name: "w1.1", Pauses: []check.Pause{{From: at(1), To: at(20)}}}
		},
		"a worker is killed while stopped": func(s *story) {
			s.Processes[0] = check.Process{Name: "w1.1", Died: at(20), Pauses: []check.Pause{{From: at(1)}}}
		},
		"an end is written a moment late": func(s *story) { s.Executions[1].End = at(15.5) },
		"a batch is counted rightly": func(s *story) {
			s.Records[0].Batch = "b"
			s.Batches = []check.Batch{{ID: "b", Status: 200, Jobs: 1, Final: 1, States: map[string]int{"succeeded": 1, "queued": 0}}}
		},
		"the key is free once its job is removed": func(s *story) {
			s.Asks = append(s.Asks, check.Ask{N: 5, Kind: check.AskRemove, Sent: at(35), Got: at(36), Status: 204, ID: "j"})
			s.again(202, "j", "other")
		},
		"its budget is over": func(s *story) {
			s.Asks[0].Budget, s.Asks[2].State = 10*time.Second, "expired"
			s.Records[0].State, s.Revisions[4].State = "expired", "expired"
		},
		"another tenant has the same key": func(s *story) {
			a := s.Asks[0]
			a.N, a.Tenant, a.JobID, a.Label, a.Status = 7, "t1", "", "a7", 0
			s.Asks = append(s.Asks, a)
		},
		"a release follows in its batch": func(s *story) { s.Releases = append(s.Releases, check.Release{Seq: 7, Job: "j", Follows: true}) },
		"nobody wrote executions down":   func(s *story) { s.Executions = nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			change(s)
			if found, _ := check.Check(s.History); len(found) != 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

func TestRevisionsAreReadFromTheirHeaders(t *testing.T) {
	h := check.Header{
		"Nats-Stream": {"RES_1"}, "Nats-Subject": {"r.1.default.j"}, "Nats-Sequence": {"7"}, "Nats-Last-Sequence": {"3"},
		"Nats-Time-Stamp": {"2026-01-02T03:04:05.5Z"}, "Sandlot-State": {"running"},
		"Sandlot-Summary": {`{"id":"j","tenant":"default","state":"running","attempt":2,"worker":"w1","life":"l","labels":{"chaos-ask":"a1"}}`},
	}
	r, err := check.DecodeRevision(h)
	want := check.Revision{
		Stream: "RES_1", Subject: "r.1.default.j", Seq: 7, Last: 3, At: at(0.5), Tenant: "default", Job: "j",
		State: "running", Attempt: 2, Worker: "w1", Life: "l", Ask: "a1",
	}
	if err != nil || r != want {
		t.Errorf("read %+v: %v", r, err)
	}
	for name, broken := range map[string]check.Header{
		"state":   {"Sandlot-State": {"queued"}},
		"subject": {"Nats-Subject": {"in.main"}},
		"summary": {"Sandlot-Summary": {"{"}},
		"owner":   {"Nats-Subject": {"r.1.other.j"}},
	} {
		wrong := check.Header{}
		for k, v := range h {
			wrong[k] = v
		}
		for k, v := range broken {
			wrong[k] = v
		}
		if _, err := check.DecodeRevision(wrong); err == nil {
			t.Errorf("a wrong %s was read", name)
		}
	}
	h["KV-Operation"] = []string{"PURGE"}
	delete(h, "Sandlot-Summary")
	if r, err := check.DecodeRevision(h); err != nil || !r.Removed {
		t.Errorf("a tombstone is read as %+v: %v", r, err)
	}
}
