package image_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sandlot-dev/sandlot/pkg/image"
)

func TestLanguagesAreFoundByNameAndAlias(t *testing.T) {
	cases := map[string]struct{ image, file, last string }{
		"python":     {"python", "main.py", "python3 main.py"},
		"py":         {"python", "main.py", "python3 main.py"},
		"javascript": {"node", "main.js", "node main.js"},
		"js":         {"node", "main.js", "node main.js"},
		"node":       {"node", "main.js", "node main.js"},
		"c":          {"gcc", "main.c", "./main"},
		"C++":        {"gcc", "main.cpp", "./main"},
		"cpp":        {"gcc", "main.cpp", "./main"},
		"bash":       {"busybox", "main.sh", "sh main.sh"},
		"sh":         {"busybox", "main.sh", "sh main.sh"},
	}
	catalogue := image.Builtin()
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			l, ok := catalogue.Language(name)
			if !ok {
				t.Fatal("it is not there")
			}
			last := strings.Join(l.Steps[len(l.Steps)-1].Command, " ")
			if l.Image != want.image || l.File != want.file || last != want.last {
				t.Errorf("it is %+v", l)
			}
		})
	}
	if _, ok := catalogue.Language("cobol"); ok {
		t.Error("there is a language that nobody put there")
	}
	if all := catalogue.Languages(); len(all) != 5 || all[0].Image == "" {
		t.Errorf("languages are %+v", all)
	}
}

func TestARecipeThatIsWrongIsRefused(t *testing.T) {
	const rest = `"reference":"r","suite":"s","packages":["p"]`
	cases := map[string]struct{ recipe, want string }{
		"no JSON":             {`{`, "unexpected"},
		"an unknown field":    {`{"name":"x","colour":"red",` + rest + `}`, "colour"},
		"another name":        {`{"name":"y",` + rest + `}`, "differs"},
		"no packages":         {`{"name":"x","reference":"r","suite":"s"}`, "required"},
		"half a language":     {`{"name":"x","languages":[{"name":"l"}],` + rest + `}`, "needs name, file and steps"},
		"a language that was": {`{"name":"x","languages":[{"name":"l","aliases":["l"],"file":"f","steps":[{}]}],` + rest + `}`, "already"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := image.Load(fstest.MapFS{"x.json": {Data: []byte(c.recipe)}, "fixup.sh": {}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestPackagesComeFromTheHostsDebianSources(t *testing.T) {
	const key = "/usr/share/keyrings/debian-archive-keyring.gpg"
	line := func(rest string) string { return "deb [signed-by=" + key + "] " + rest + " main" }
	cases := map[string]struct {
		targets string
		want    []string
	}{
		"a mirror with updates and security": {
			"http://m/debian/ bookworm main " + key + "\nhttp://m/debian/ bookworm-updates main " + key + "\nhttp://m/sec/ bookworm-security main " + key + "\n",
			[]string{line("http://m/debian/ bookworm"), line("http://m/debian/ bookworm-updates"), line("http://m/sec/ bookworm-security")},
		},
		"a repository of somebody else": {
			"http://m/debian/ bookworm main " + key + "\nhttp://d/linux/debian bookworm stable /etc/apt/d.asc\nhttp://n/ bookworm main /usr/share/keyrings/n.gpg\n",
			[]string{line("http://m/debian/ bookworm")},
		},
		"no key named":                {"http://m/debian/ bookworm main\n", []string{line("http://m/debian/ bookworm")}},
		"a host of another suite":     {"http://m/debian/ trixie main " + key + "\n", nil},
		"updates without the release": {"http://m/debian/ bookworm-updates main " + key + "\n", nil},
		"nothing":                     {"", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := image.HostSources(c.targets, "bookworm"); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
