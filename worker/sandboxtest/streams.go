package sandboxtest

import (
	"strings"
	"testing"
)

func testStdin(t *testing.T, s suite) {
	for name, input := range map[string]string{
		"nothing":     "",
		"binary":      "\x00\xff\n\r\x1b",
		"a megabyte":  strings.Repeat("0123456789abcdef", 1<<16),
		"not newline": "no newline at the end",
	} {
		spec := Sh(s.image, "cat")
		spec.Steps[0].StdinBase64 = []byte(input)
		a := Must(t, s.rt, spec)
		a.Want(t, "succeeded none exited")
		if a.Stdout(0) != input {
			t.Errorf("%s: %d bytes came back of %d", name, len(a.Stdout(0)), len(input))
		}
	}
	// A program that does not read its input is not held up by it.
	spec := Sh(s.image, "echo done")
	spec.Steps[0].StdinBase64 = make([]byte, 1<<20)
	if a := Must(t, s.rt, spec); a.Verdict() != "succeeded none exited" || a.Stdout(0) != "done\n" {
		t.Errorf("input that nobody reads: %s, %q", a.Verdict(), a.Stdout(0))
	}
}

func testStreams(t *testing.T, s suite) {
	a := Must(t, s.rt, Sh(s.image, "echo out; echo err >&2; printf 'a\\000b\\n'; echo last >&2"))
	a.Want(t, "succeeded none exited")
	if a.Stdout(0) != "out\na\x00b\n" || a.Stderr(0) != "err\nlast\n" {
		t.Fatalf("stdout %q, stderr %q", a.Stdout(0), a.Stderr(0))
	}
}

func testLargeOutput(t *testing.T, s suite) {
	const size = 5_000_000
	a := Must(t, s.rt, Sh(s.image,
		"echo first; head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; echo last",
		"head -c 5000000 /dev/zero; echo end"))
	a.Want(t, "succeeded none exited")
	zeros := strings.Repeat("\x00", size)
	for name, pair := range map[string][2]string{
		"stdout of the first step":  {a.Stdout(0), "first\n" + zeros + "last\n"},
		"stderr of the first step":  {a.Stderr(0), zeros},
		"stdout of the second step": {a.Stdout(1), zeros + "end\n"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d bytes, want %d", name, len(pair[0]), len(pair[1]))
		}
	}
	if want := int64(3*size + len("first\nlast\nend\n")); int64(a.Seen.Output) != want {
		t.Errorf("output is told as %d bytes, want %d", a.Seen.Output, want)
	}
}

func testLastWords(t *testing.T, s suite) {
	for range 5 {
		if a := Must(t, s.rt, Sh(s.image, "echo words; exit 9")); a.Stdout(0) != "words\n" {
			t.Fatalf("output is %q", a.Stdout(0))
		}
	}
}
