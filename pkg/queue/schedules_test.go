package queue

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// TestAStoredScheduleIsRead: with every field that there is, as this schema
// wrote it first.
func TestAStoredScheduleIsRead(t *testing.T) {
	file := filepath.Join("testdata", "golden", "schedule-2.json")
	var want job.Schedule
	n := 0
	fill(reflect.ValueOf(&want).Elem(), &n)
	want.Schema, want.Tenant, want.Name = 2, "acme", "nightly"
	if *update {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := message{subject: configSubject(cronKey("acme", "nightly")), data: text, seq: 7}
	c, ok, err := settingChange(m)
	if err != nil || !ok || !reflect.DeepEqual(*c.Schedule, want) || c.Revision != 7 {
		t.Errorf("read as %+v, %v, %v", c.Schedule, ok, err)
	}
	m.data = []byte(strings.Replace(string(text), `"schema":2`, `"schema":99`, 1))
	if _, ok, err := settingChange(m); err == nil || ok {
		t.Error("one of a later release is read")
	}
	if _, _, err := new(Queue).Schedule(t.Context(), "acme", "a.b"); !errors.Is(err, job.ErrNotFound) {
		t.Errorf("a name that none can have: %v", err)
	}
}
