package api

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// BatchReader reads the settings and the items of one batch.
type BatchReader struct {
	Settings BatchSettings
	// template has the fields that items share; vars are the names of its
	// placeholders.
	template *node
	vars     []string
}

var placeholder = regexp.MustCompile(`\{\{([A-Za-z_][A-Za-z0-9_]{0,63})\}\}`)

// DecodeBatchHead reads the first line of an NDJSON batch if that has its
// settings; head is false if it is an item.
func DecodeBatchHead(line []byte) (r *BatchReader, head bool, problem *Problem) {
	root, err := parse(line)
	if err != nil || root.kind != '{' || !slices.ContainsFunc(root.fields, func(f field) bool { return f.name == "batch" }) {
		return &BatchReader{}, false, nil // whatever is wrong with it is the item's
	}
	var out problems
	o, _ := out.object("", root)
	if n, ok := o.of("batch", '{', "an object"); ok {
		inner, _ := out.object("batch", n)
		r = readSettings(inner)
		inner.done()
	}
	o.done()
	return r, true, Invalid(out.list)
}

// DecodeBatchSettings reads the settings of a batch that is one JSON object,
// given without its items.
func DecodeBatchSettings(body []byte) (*BatchReader, *Problem) {
	root, err := parse(body)
	if err != nil {
		return nil, NewProblem(http.StatusBadRequest, TypeSyntax, "%s", err)
	}
	var out problems
	o, ok := out.object("", root)
	if !ok {
		return nil, Invalid(out.list)
	}
	r := readSettings(o)
	o.done()
	return r, Invalid(out.list)
}

func readSettings(o *object) *BatchReader {
	r := &BatchReader{Settings: BatchSettings{ID: o.text("id"), Name: o.text("name")}}
	s := &r.Settings
	if s.ID != "" {
		if why := BadBatchID(s.ID); why != "" {
			o.out.add(o.at("id"), clip(s.ID), "%s", why)
		}
	}
	checkKey(o.at("name"), s.Name, o.out)
	if n, ok := o.integer("items"); ok {
		s.Items = n
		if n < 1 {
			o.out.add(o.at("items"), n, "must be at least 1; leave it out if it is not known")
		}
	}
	if n, ok := o.of("template", '{', "an object, a submit"); ok {
		r.readTemplate(o, n)
	}
	if n, ok := o.of("stop_after", '{', "an object, such as {\"passed\": 1}"); ok {
		inner, _ := o.out.object(o.at("stop_after"), n)
		s.StopAfter = &StopAfter{Passed: inner.count("passed", 1)}
		if !inner.has("passed") {
			o.out.add(inner.at("passed"), nil, "is missing; say how many jobs of a group must succeed")
		}
		inner.done()
	}
	if n, ok := o.of("success", '{', "an object, such as {\"min_passed\": 1}"); ok {
		inner, _ := o.out.object(o.at("success"), n)
		s.Success = readSuccess(inner)
		inner.done()
		if s.Success.MinGroups > 0 && s.StopAfter == nil {
			o.out.add(inner.at("min_groups"), s.Success.MinGroups, "counts groups that reached stop_after.passed; give stop_after too")
		}
	}
	if n, ok := o.of("callback", '{', "an object, such as {\"url\": \"https://…\"}"); ok {
		inner, _ := o.out.object(o.at("callback"), n)
		s.Callback = &Callback{URL: inner.text("url")}
		if s.Callback.URL == "" {
			o.out.add(inner.at("url"), nil, "is missing; give an https address")
		}
		inner.done()
	}
	return r
}

// count reads a whole number that is small, but not below least.
func (o *object) count(name string, least int64) int {
	n, ok := o.integer(name)
	if !ok {
		return 0
	}
	if n < least || n > 1<<31 {
		o.out.add(o.at(name), n, "must be at least %d", least)
	}
	return int(min(n, 1<<31))
}

func readSuccess(o *object) *Success {
	s := &Success{MinPassed: o.count("min_passed", 1), MinGroups: o.count("min_groups", 1)}
	if ratio, ok := o.number("min_passed_ratio"); ok {
		s.MinPassedRatio = ratio
		if !(ratio > 0 && ratio <= 1) {
			o.out.add(o.at("min_passed_ratio"), ratio, "must be above 0 and at most 1")
		}
	}
	if !o.has("min_passed") && !o.has("min_groups") && !o.has("min_passed_ratio") {
		o.out.add(o.path, nil, "says nothing; give min_passed, min_passed_ratio or min_groups")
	}
	return s
}

// readTemplate takes a template over. Of what is wrong with it as a submit
// only that counts which its own fields say: the rest may come with the items.
func (r *BatchReader) readTemplate(o *object, n node) {
	r.template = &n
	r.Settings.Template = &Submit{}
	var out problems
	inner, _ := out.object("", n)
	*r.Settings.Template = readSubmit(inner)
	inner.done()
	for _, e := range out.list {
		first, _, _ := strings.Cut(strings.Split(e.Location, ".")[0], "[")
		if inner.has(first) {
			o.out.add(o.at("template")+"."+e.Location, e.Value, "%s", e.Message)
		}
	}
	for _, name := range []string{"key", "idempotency_key"} {
		if inner.has(name) {
			o.out.add(o.at("template")+"."+name, nil, "belongs to an item, which has a key of its own")
		}
	}
	n.eachText(func(text string) {
		for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
			r.vars = append(r.vars, m[1])
		}
	})
	slices.Sort(r.vars)
	r.vars = slices.Compact(r.vars)
}

// eachText calls fn with every text in n.
func (n node) eachText(fn func(string)) {
	if n.kind == '"' {
		fn(n.text)
	}
	for _, f := range n.fields {
		f.value.eachText(fn)
	}
	for _, i := range n.items {
		i.eachText(fn)
	}
}

// replaced is n with its texts replaced.
func (n node) replaced(r *strings.Replacer) node {
	if n.kind == '"' {
		n.text = r.Replace(n.text)
	}
	if len(n.fields) > 0 {
		n.fields = slices.Clone(n.fields)
		for i, f := range n.fields {
			n.fields[i].value = f.value.replaced(r)
		}
	}
	if len(n.items) > 0 {
		n.items = slices.Clone(n.items)
		for i, item := range n.items {
			n.items[i] = item.replaced(r)
		}
	}
	return n
}

// Item reads one item, checked as a submit is, with the template's fields
// filled in.
func (r *BatchReader) Item(line []byte) (BatchItem, *Problem) {
	if len(line) > MaxBody {
		return BatchItem{}, TooLarge()
	}
	root, err := parse(line)
	if err != nil {
		return BatchItem{}, NewProblem(http.StatusBadRequest, TypeSyntax, "%s", err)
	}
	var out problems
	o, ok := out.object("", root)
	if !ok {
		return BatchItem{}, NewProblem(http.StatusBadRequest, TypeSyntax, "the line is %s; send a JSON object", root.what())
	}
	item := BatchItem{Group: o.text("group"), Vars: o.dict("vars")}
	checkKey("group", item.Group, &out)
	r.checkVars(item.Vars, o)
	if r.template != nil {
		o.fields = r.merged(o.fields, item.Vars)
	}
	item.Submit = readSubmit(o)
	o.done()
	check(item.Submit, &out)
	switch {
	case item.Key == "" && !out.has("key"):
		out.add("key", nil, "is missing; each item of a batch needs one that is unique in its batch")
	case item.IdempotencyKey != "":
		out.add("idempotency_key", clip(item.IdempotencyKey), "is for single submits; an item of a batch is identified by its key")
	}
	return item, Invalid(out.list)
}

func (r *BatchReader) checkVars(vars map[string]string, o *object) {
	if r.template == nil && o.has("vars") {
		o.out.add("vars", nil, "go into the texts of a template, and this batch has none")
		return
	}
	for name := range vars {
		if _, there := slices.BinarySearch(r.vars, name); !there {
			o.out.add("vars."+clip(name), nil, "stands nowhere in the template as {{%s}}%s", clip(name), r.knownVars())
		}
	}
}

func (r *BatchReader) knownVars() string {
	if len(r.vars) == 0 {
		return ""
	}
	return "; there are " + strings.Join(r.vars, ", ")
}

// forms are fields that say the same in several ways: an item that has one of
// them replaces all.
var forms = [][]string{
	{"steps", "command", "language", "code"}, {"stdin", "stdin_base64"},
}

// merged are the fields of an item and those of the template that it leaves
// as they are, with its vars in their texts.
func (r *BatchReader) merged(own []field, vars map[string]string) []field {
	var pairs []string
	for name, value := range vars {
		pairs = append(pairs, "{{"+name+"}}", value)
	}
	replacer := strings.NewReplacer(pairs...)
	all := slices.Clone(own)
	for _, f := range r.template.fields {
		if slices.ContainsFunc(own, func(o field) bool { return supersedes(o.name, f.name) }) {
			continue
		}
		if len(pairs) > 0 {
			f.value = f.value.replaced(replacer)
		}
		all = append(all, f)
	}
	return all
}

// supersedes reports whether a field of an item takes the place of one of the
// template. Code alone leaves the template's language.
func supersedes(own, shared string) bool {
	if own == shared {
		return true
	}
	if own == "code" && shared == "language" {
		return false
	}
	for _, group := range forms {
		if slices.Contains(group, own) && slices.Contains(group, shared) {
			return own != "language" || shared != "code"
		}
	}
	return false
}

// BadBatchID says what is wrong with the id of a batch with items, "" if
// nothing is.
func BadBatchID(id string) string {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Sprintf("must be a UUID in lower case, such as %q", uuid.NewString())
	}
	return ""
}
