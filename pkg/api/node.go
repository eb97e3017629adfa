package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// node is a JSON value that still knows what was written: field names in
// order, numbers as text. The reader of encoding/json forgets doubled fields
// and cannot name the path of an unknown one.
type node struct {
	kind   byte // one of { [ " 0 t n
	text   string
	fields []field
	items  []node
}

type field struct {
	name  string
	value node
}

// maxDepth is far above what any field needs.
const maxDepth = 32

// parse reads exactly one JSON value.
func parse(data []byte) (node, error) {
	if !utf8.Valid(data) {
		return node{}, errors.New("the body is not valid UTF-8; send bytes that are not text as base64")
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(data)), data: data}
	p.dec.UseNumber()
	n, err := p.value(0)
	if err != nil {
		return node{}, p.explain(err)
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, fmt.Errorf("there is more after the end of the JSON value, at byte %d", p.dec.InputOffset())
	}
	return n, nil
}

type parser struct {
	dec  *json.Decoder
	data []byte
}

// explain says where and what is wrong, for a reader.
func (p parser) explain(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s, at byte %d", syntax.Error(), syntax.Offset)
	case errors.Is(err, io.EOF) && len(bytes.TrimSpace(p.data)) == 0:
		return errors.New("the body is empty; send a JSON object")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON value ends too early")
	}
	return err
}

func (p parser) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("the JSON value is nested deeper than %d levels", maxDepth)
	}
	start := p.dec.InputOffset()
	token, err := p.dec.Token()
	if err != nil {
		return node{}, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case string:
		return node{kind: '"', text: t}, p.whole(t, start)
	case json.Number:
		return node{kind: '0', text: t.String()}, nil
	case bool:
		return node{kind: 't', text: strconv.FormatBool(t)}, nil
	}
	return node{kind: 'n', text: "null"}, nil
}

func (p parser) object(depth int) (node, error) {
	n := node{kind: '{'}
	seen := map[string]bool{}
	for p.dec.More() {
		token, err := p.dec.Token()
		if err != nil {
			return node{}, err
		}
		name, _ := token.(string)
		if seen[name] {
			return node{}, fmt.Errorf("the field %q is there twice in one object", name)
		}
		seen[name] = true
		v, err := p.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		n.fields = append(n.fields, field{name, v})
	}
	_, err := p.dec.Token()
	return n, err
}

func (p parser) array(depth int) (node, error) {
	n := node{kind: '['}
	for p.dec.More() {
		v, err := p.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, v)
	}
	_, err := p.dec.Token()
	return n, err
}

// whole refuses a text with an escape that stands for half a character: the
// reader replaces it, so a program would read something else than was sent.
func (p parser) whole(text string, start int64) error {
	replaced := strings.Count(text, "\ufffd")
	if replaced == 0 {
		return nil
	}
	end := p.dec.InputOffset()
	raw := bytes.ToLower(p.data[start:end])
	if bytes.Count(raw, []byte("\ufffd"))+bytes.Count(raw, []byte(`\ufffd`)) < replaced {
		return fmt.Errorf("the text that ends at byte %d holds half of a surrogate pair; send bytes that are not text as base64", end)
	}
	return nil
}

// what names the kind of the value for a reader.
func (n node) what() string {
	switch n.kind {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	case '0':
		return "a number"
	case 't':
		return "true or false"
	}
	return "null"
}

// short is the value as it goes into an error.
func (n node) short() any {
	switch n.kind {
	case '{', '[':
		return nil
	case '0':
		return json.Number(n.text)
	case 't':
		return n.text == "true"
	}
	return clip(n.text)
}

// clip shortens a text that a client sent, for an error.
func clip(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
