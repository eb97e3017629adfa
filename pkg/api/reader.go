package api

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// problems collects what is wrong with a body, each with its path.
type problems struct {
	list []FieldError
}

// maxErrors bounds the answer to a body in which everything is wrong.
const maxErrors = 100

func (p *problems) add(location string, value any, format string, args ...any) {
	if len(p.list) < maxErrors {
		p.list = append(p.list, FieldError{Location: location, Message: fmt.Sprintf(format, args...), Value: value})
	}
}

// has reports whether something was said of the place or of what it is in.
func (p *problems) has(location string) bool {
	return slices.ContainsFunc(p.list, func(e FieldError) bool {
		rest, ok := strings.CutPrefix(location, e.Location)
		return ok && e.Location != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// object reads the fields of a JSON object, each at most once; done refuses
// those that nobody asked for. A field that is null counts as absent.
type object struct {
	path   string
	fields []field
	asked  []string
	out    *problems
}

func (p *problems) object(path string, n node) (*object, bool) {
	if n.kind != '{' {
		p.add(path, n.short(), "is %s; write an object", n.what())
		return nil, false
	}
	return &object{path: path, fields: n.fields, out: p}, true
}

// at is the path of a field.
func (o *object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// take finds the field; ok is false when it is absent or null.
func (o *object) take(name string) (n node, ok bool) {
	o.asked = append(o.asked, name)
	for _, f := range o.fields {
		if f.name == name {
			return f.value, f.value.kind != 'n'
		}
	}
	return node{}, false
}

// has reports whether the field is there and not null.
func (o *object) has(name string) bool {
	return slices.ContainsFunc(o.fields, func(f field) bool { return f.name == name && f.value.kind != 'n' })
}

// of finds the field and checks that it is of the kind.
func (o *object) of(name string, kind byte, want string) (node, bool) {
	n, ok := o.take(name)
	if ok && n.kind != kind {
		o.out.add(o.at(name), n.short(), "is %s; write %s", n.what(), want)
		return n, false
	}
	return n, ok
}

func (o *object) text(name string) string {
	n, _ := o.of(name, '"', "a text")
	if n.kind != '"' {
		return ""
	}
	return n.text
}

func (o *object) flag(name string) bool {
	n, ok := o.of(name, 't', "true or false")
	return ok && n.text == "true"
}

// bytes reads base64, with or without padding. The result is never nil when
// the field is there.
func (o *object) bytes(name string) []byte {
	n, ok := o.of(name, '"', "base64 as a text")
	if !ok {
		return nil
	}
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(n.text, "="))
	if err != nil {
		o.out.add(o.at(name), clip(n.text), "is not base64: %v", err)
	}
	return append([]byte{}, data...)
}

// integer reads a whole number; ok is false when there is none.
func (o *object) integer(name string) (int64, bool) {
	n, ok := o.of(name, '0', "a whole number")
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil {
		o.out.add(o.at(name), n.short(), "write a whole number")
	}
	return v, err == nil
}

func (o *object) number(name string) (float64, bool) {
	n, ok := o.of(name, '0', "a number")
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseFloat(n.text, 64)
	if err != nil {
		o.out.add(o.at(name), n.short(), "write a number")
	}
	return v, err == nil
}

// size reads bytes: a whole number, or a text with a unit.
func (o *object) size(name string) (job.Bytes, bool) {
	n, ok := o.take(name)
	if !ok {
		return 0, false
	}
	var b job.Bytes
	err := b.UnmarshalJSON(n.json())
	if err != nil || n.kind != '0' && n.kind != '"' {
		o.out.add(o.at(name), n.short(), "is not a size; write bytes as a whole number, or a text such as \"64Mi\"")
		return 0, false
	}
	return b, true
}

// duration reads name_ms (a number of milliseconds or a text such as "10s")
// or name (such a text), not both.
func (o *object) duration(name string) (job.Millis, bool) {
	long := name + "_ms"
	ms, okLong := o.take(long)
	text, okShort := o.take(name)
	switch {
	case okLong && okShort:
		o.out.add(o.at(name), text.short(), "say it once: either %s or %s", long, name)
		return 0, false
	case okShort && text.kind != '"':
		o.out.add(o.at(name), text.short(), "write a text such as \"10s\", or milliseconds in %s", long)
		return 0, false
	case okShort:
		return o.millis(name, text)
	case okLong:
		return o.millis(long, ms)
	}
	return 0, false
}

func (o *object) millis(name string, n node) (job.Millis, bool) {
	var m job.Millis
	err := m.UnmarshalJSON(n.json())
	if err != nil || n.kind != '0' && n.kind != '"' {
		o.out.add(o.at(name), n.short(), "is not a duration; write milliseconds as a whole number, or a text such as \"10s\"")
		return 0, false
	}
	return m, true
}

// json is a number or a text as JSON again.
func (n node) json() []byte {
	if n.kind == '"' {
		return strconv.AppendQuote(nil, n.text)
	}
	return []byte(n.text)
}

// time reads a moment in RFC 3339, to the millisecond.
func (o *object) time(name string) time.Time {
	n, ok := o.of(name, '"', "a time such as \"2026-03-01T08:00:00Z\"")
	if !ok {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, n.text)
	if err != nil || at.IsZero() {
		o.out.add(o.at(name), clip(n.text), "is not a time; write date, time and zone, such as \"2026-03-01T08:00:00Z\"")
		return time.Time{}
	}
	return at.UTC().Truncate(time.Millisecond)
}

// texts reads a list of texts.
func (o *object) texts(name, hint string) []string {
	n, ok := o.of(name, '[', "a list of texts"+hint)
	if !ok {
		return nil
	}
	list := make([]string, 0, len(n.items))
	for i, item := range n.items {
		if item.kind != '"' {
			o.out.add(fmt.Sprintf("%s[%d]", o.at(name), i), item.short(), "is %s; write a text", item.what())
			continue
		}
		list = append(list, item.text)
	}
	return list
}

// dict reads an object of texts.
func (o *object) dict(name string) map[string]string {
	n, ok := o.of(name, '{', "an object of texts")
	if !ok {
		return nil
	}
	dict := make(map[string]string, len(n.fields))
	for _, f := range n.fields {
		if f.value.kind != '"' {
			o.out.add(o.at(name)+"."+clip(f.name), f.value.short(), "is %s; write a text", f.value.what())
			continue
		}
		dict[f.name] = f.value.text
	}
	return dict
}

// objects reads a list of objects.
func (o *object) objects(name string, each func(i int, item *object)) {
	n, ok := o.of(name, '[', "a list of objects")
	if !ok {
		return
	}
	for i, item := range n.items {
		if inner, ok := o.out.object(fmt.Sprintf("%s[%d]", o.at(name), i), item); ok {
			each(i, inner)
			inner.done()
		}
	}
}

// later are fields that the design names and that do nothing yet.
var later = []string{
	"cases", "callback", "isolation",
	"tenant", "pool", "class", "blob", "ref", "egress", "secrets", "volumes",
}

// done refuses the fields that nobody asked for.
func (o *object) done() {
	for _, f := range o.fields {
		switch {
		case slices.Contains(o.asked, f.name):
		case f.name == "cron":
			o.out.add(o.at(f.name), nil, "is of a schedule, which has a job; see PUT /v1/schedules/NAME and `sandlot schedules set`")
		case slices.Contains(later, f.name):
			o.out.add(o.at(f.name), nil, "is not supported by this version; leave it out")
		default:
			o.out.add(o.at(clip(f.name)), nil, "is not a field%s", o.hint(f.name))
		}
	}
}

// hint names the field that was probably meant, or those there are.
func (o *object) hint(name string) string {
	best, least := "", 3
	for _, known := range o.asked {
		if d := distance(name, known); d < least {
			best, least = known, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	known := slices.Clone(o.asked)
	slices.Sort(known)
	return "; there are " + strings.Join(slices.Compact(known), ", ")
}

// distance is the number of letters to change, add or drop.
func distance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
