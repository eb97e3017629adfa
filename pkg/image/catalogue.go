package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/deploy/images"
)

// Recipe says how an image is had: pulled by its reference, or built from
// Debian's packages. Both serve the same languages.
type Recipe struct {
	// Name is what users write. Required.
	Name    string `json:"name"`
	Summary string `json:"summary"`
	// Reference is where a registry has an equal image. Required.
	Reference string `json:"reference"`
	// Suite is Debian's code name, Packages what is unpacked from it, beside
	// busybox and the C library. Required.
	Suite    string   `json:"suite"`
	Packages []string `json:"packages"`
	// Links are symbolic links to make, path to target; a path that is there
	// already stays.
	Links map[string]string `json:"links,omitempty"`
	// Env is the environment of the image beside the usual.
	Env map[string]string `json:"env,omitempty"`
	// Post are shell commands run in a sandbox on the finished tree.
	Post []string `json:"post,omitempty"`
	// Languages are those that the image runs.
	Languages []Language `json:"languages,omitempty"`
}

// Language says how source text becomes a job.
type Language struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
	// Image is the catalogue name of the image it runs in.
	Image string `json:"image,omitempty"`
	// File is where the source text goes, in the work directory.
	File  string `json:"file"`
	Steps []Step `json:"steps"`
}

// Step is one command of a language.
type Step struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
}

// Catalogue is the set of recipes and the languages that they run.
type Catalogue struct {
	recipes   map[string]Recipe
	languages map[string]Language
	script    string
}

// Builtin is the catalogue that comes with Sandlot.
func Builtin() Catalogue {
	c, err := Load(images.Files)
	if err != nil {
		panic(err) // a test loads it: it cannot be wrong in a build that passed
	}
	return c
}

// Load reads a catalogue: a JSON file per recipe, and fixup.sh.
func Load(files fs.FS) (Catalogue, error) {
	c := Catalogue{recipes: map[string]Recipe{}, languages: map[string]Language{}}
	script, err := fs.ReadFile(files, "fixup.sh")
	if err != nil {
		return Catalogue{}, fmt.Errorf("read catalogue: %w", err)
	}
	c.script = string(script)
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return Catalogue{}, fmt.Errorf("read catalogue: %w", err)
	}
	for _, name := range names {
		if err := c.read(files, name); err != nil {
			return Catalogue{}, fmt.Errorf("read recipe %s: %w", name, err)
		}
	}
	return c, nil
}

func (c Catalogue) read(files fs.FS, name string) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var r Recipe
	if err := decoder.Decode(&r); err != nil {
		return err
	}
	if err := r.check(name); err != nil {
		return err
	}
	c.recipes[r.Name] = r
	for _, l := range r.Languages {
		l.Image = r.Name
		for _, word := range append([]string{l.Name}, l.Aliases...) {
			if taken, ok := c.languages[word]; ok {
				return fmt.Errorf("language %q is run by %s already", word, taken.Image)
			}
			c.languages[word] = l
		}
	}
	return nil
}

func (r Recipe) check(file string) error {
	switch {
	case r.Name+".json" != file:
		return fmt.Errorf("name %q differs from the file's", r.Name)
	case r.Reference == "" || r.Suite == "" || len(r.Packages) == 0:
		return errors.New("reference, suite and packages are required")
	}
	for _, l := range r.Languages {
		if l.Name == "" || l.File == "" || len(l.Steps) == 0 {
			return errors.New("a language needs name, file and steps")
		}
	}
	return nil
}

// Recipe finds a recipe by its name.
func (c Catalogue) Recipe(name string) (Recipe, bool) {
	r, ok := c.recipes[name]
	return r, ok
}

// Recipes are all recipes, by name.
func (c Catalogue) Recipes() []Recipe {
	byName := func(a, b Recipe) int { return strings.Compare(a.Name, b.Name) }
	return slices.SortedFunc(maps.Values(c.recipes), byName)
}

// Language finds a language by its name or an alias.
func (c Catalogue) Language(name string) (Language, bool) {
	l, ok := c.languages[strings.ToLower(name)]
	return l, ok
}

// Languages are all languages, by name.
func (c Catalogue) Languages() []Language {
	var all []Language
	for _, r := range c.Recipes() {
		for _, l := range r.Languages {
			l.Image = r.Name
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b Language) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// recipeFormat changes when the code that builds changes what it builds.
const recipeFormat = "1"

// hash tells recipes apart: what is built changes with it.
func (c Catalogue) hash(r Recipe) string {
	text, _ := json.Marshal(r) // plain data, always valid
	return digestOf(recipeFormat, string(text), c.script, fmt.Sprint(mountPoints()))
}
