package queue

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// Golden records are what each schema wrote: a record per state with every
// field set, as a message of RES. Those of a schema that is no more are never
// touched; those of the current one are written by -update.
var update = flag.Bool("update", false, "write the golden records of the current schema")

// golden is a message of RES.
type golden struct {
	Subject string          `json:"subject"`
	Header  nats.Header     `json:"header"`
	Body    json.RawMessage `json:"body"`
}

func TestRecordsOfEverySchemaAreReadAndCarriedForward(t *testing.T) {
	q := &Queue{layout: layout{shards: defaultShards}}
	if *update {
		writeGolden(t, q)
	}
	for schema := job.OldestSchema; schema <= job.Schema; schema++ {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) {
			states := map[job.State]bool{}
			for _, g := range readGolden(t, schema) {
				s, err := decode(g.Header, g.Body, 7)
				if err != nil {
					t.Fatal(err)
				}
				states[s.State] = true
				if s.Schema != schema || s.ID == "" || len(s.Spans) == 0 || s.State.Final() && s.Result == nil {
					t.Errorf("read as %+v", s)
				}
				if sum, err := decodeSummary(g.Header); err != nil || sum.ID != s.ID || sum.State != s.State {
					t.Errorf("summary is read as %+v, %v", sum, err)
				}
				next, err := q.encode(s)
				if err != nil {
					t.Fatal(err)
				}
				if got := next.Header.Get(headerSchema); got != strconv.Itoa(job.Schema) {
					t.Errorf("written again as schema %s", got)
				}
				sameExceptSchema(t, g.Body, next.Data)
			}
			if len(states) != len(job.States()) {
				t.Errorf("there are golden records of %v only", states)
			}
		})
	}
}

// sameExceptSchema: whatever was written is there after it was read and
// written again; there may be more.
func sameExceptSchema(t *testing.T, before, after []byte) {
	t.Helper()
	var old, now map[string]any
	if err := errors.Join(json.Unmarshal(before, &old), json.Unmarshal(after, &now)); err != nil {
		t.Fatal(err)
	}
	if now["schema"] != float64(job.Schema) {
		t.Errorf("record says schema %v", now["schema"])
	}
	delete(old, "schema")
	lost("", old, now, func(where string, was, is any) {
		t.Errorf("%s of %v was %v and is %v", where, old["state"], was, is)
	})
}

// lost reports what of old is not, or not so, in now.
func lost(where string, old, now any, report func(where string, was, is any)) {
	switch was := old.(type) {
	case map[string]any:
		is, _ := now.(map[string]any)
		for k, v := range was {
			lost(where+"."+k, v, is[k], report)
		}
	case []any:
		is, _ := now.([]any)
		if len(is) != len(was) {
			report(where, old, now)
			return
		}
		for i, v := range was {
			lost(fmt.Sprintf("%s[%d]", where, i), v, is[i], report)
		}
	default:
		if !reflect.DeepEqual(old, now) {
			report(where, old, now)
		}
	}
}

func TestWhatALaterReleaseWroteIsRefused(t *testing.T) {
	g := readGolden(t, job.Schema)[0]
	later := maps.Clone(g.Header)
	for _, v := range []string{strconv.Itoa(job.Schema + 1), "0", "", "x"} {
		later.Set(headerSchema, v)
		if _, err := decode(later, g.Body, 1); !errors.Is(err, job.ErrSchema) {
			t.Errorf("record of schema %q: %v", v, err)
		}
		if _, err := decodeSummary(later); !errors.Is(err, job.ErrSchema) {
			t.Errorf("summary of schema %q: %v", v, err)
		}
	}
	if _, err := decodeImage([]byte(fmt.Sprintf(`{"schema":%d,"name":"x"}`, job.Schema+1))); !errors.Is(err, job.ErrSchema) {
		t.Errorf("image: %v", err)
	}
	if _, err := decodeWorker(message{data: []byte(fmt.Sprintf(`{"schema":%d}`, job.Schema+1))}); !errors.Is(err, job.ErrSchema) {
		t.Errorf("worker: %v", err)
	}
}

func goldenFile(schema int) string {
	return filepath.Join("testdata", "golden", fmt.Sprintf("schema-%d.jsonl", schema))
}

func readGolden(t *testing.T, schema int) (all []golden) {
	t.Helper()
	file, err := os.Open(goldenFile(schema))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var g golden
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	if lines.Err() != nil || len(all) == 0 {
		t.Fatalf("%d golden records, %v", len(all), lines.Err())
	}
	return all
}

// writeGolden writes a record per state with every field set that there is.
func writeGolden(t *testing.T, q *Queue) {
	t.Helper()
	var out bytes.Buffer
	for i, state := range job.States() {
		var s stored
		n := 0
		fill(reflect.ValueOf(&s).Elem(), &n)
		s.ID, s.Tenant, s.Pool, s.Class, s.Queue = fmt.Sprintf("01980000-0000-7000-8000-%012d", i+1), "acme", "main", "s", "q1"
		s.State, s.Priority, s.Retention, s.seq = state, 3, 36*time.Hour, 0
		s.Spec.Priority, s.Spec.Queue = s.Priority, s.Queue
		if !state.Final() {
			s.Result, s.ExpiresAt = nil, time.Time{}
		}
		msg, err := q.encode(s)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(golden{msg.Subject, msg.Header, msg.Data})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(line, '\n'))
	}
	if err := os.WriteFile(goldenFile(job.Schema), out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fill sets every exported field below v to something of its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 24, 0, 0, *n, 123456789, time.UTC)))
		return
	case json.RawMessage:
		v.Set(reflect.ValueOf(json.RawMessage(fmt.Sprintf(`{"n":%d}`, *n))))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("ünïcode <%d>", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 256))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	}
}
