// Command licenses collects the licences of every Go module that is compiled
// into the given programs, as their own build information lists them.
//
//	licenses -out DIR PROGRAM...
//
// DIR gets the licence files by module and version, and modules.txt with a line
// per module: path, version, kind of licence, programs. A module without a
// licence, or with one that may not be packed here, is an error.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	out := flag.String("out", "", "directory to write to")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: licenses -out DIR PROGRAM...")
		os.Exit(2)
	}
	if err := collect(*out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// module is a dependency, or the Go distribution itself under the path "std".
type module struct{ path, version string }

func collect(out string, programs []string) error {
	users, err := modules(programs)
	if err != nil {
		return err
	}
	var lines []string
	var failed error
	for _, m := range slices.SortedFunc(maps.Keys(users), func(a, b module) int {
		return strings.Compare(a.path+a.version, b.path+b.version)
	}) {
		kind, err := copyLicences(m, out)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s@%s: %w", m.path, m.version, err))
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s", m.path, m.version, kind, strings.Join(users[m], ",")))
	}
	if failed != nil {
		return failed
	}
	return os.WriteFile(filepath.Join(out, "modules.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// modules lists what the programs are made of, and which of them.
func modules(programs []string) (map[module][]string, error) {
	users := map[module][]string{}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", program, err)
		}
		name := filepath.Base(program)
		std := module{"std", info.GoVersion}
		users[std] = append(users[std], name)
		deps := info.Deps
		// A program built from a dependency has that as its main module.
		if info.Main.Version != "" && info.Main.Version != "(devel)" && !strings.HasPrefix(info.Main.Path, "github.com/sandlot-dev/") {
			deps = append(deps, &info.Main)
		}
		for _, dep := range deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			m := module{dep.Path, dep.Version}
			users[m] = append(users[m], name)
		}
	}
	return users, nil
}

// licenceFile matches the names that carry terms or notices.
func licenceFile(name string) bool {
	return regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([-._].*)?$`).MatchString(name) &&
		!strings.HasSuffix(name, ".go")
}

func copyLicences(m module, out string) (kind string, err error) {
	dir, err := source(m)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	target := filepath.Join(out, filepath.FromSlash(m.path)+"@"+m.version)
	for _, entry := range entries {
		if entry.IsDir() || !licenceFile(entry.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(target, entry.Name()), text, 0o644); err != nil {
			return "", err
		}
		if kind == "" {
			kind = classify(string(text))
		}
	}
	if kind == "" {
		return "", fmt.Errorf("no licence that may be packed in %s", dir)
	}
	return kind, nil
}

// source is where a module's files are.
func source(m module) (string, error) {
	if m.path == "std" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return "", fmt.Errorf("go env GOROOT: %w", err)
		}
		return strings.TrimSpace(string(root)), nil
	}
	answer, err := exec.Command("go", "mod", "download", "-json", m.path+"@"+m.version).Output()
	if err != nil {
		return "", fmt.Errorf("download: %w", err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal(answer, &got); err != nil {
		return "", err
	}
	return got.Dir, nil
}

// classify names the licences that go with Apache-2.0, and no others. The
// weaker marks come last: other licences quote them.
func classify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []struct{ kind, mark string }{
		{"", "GNU GENERAL PUBLIC LICENSE"},
		{"", "GNU AFFERO"},
		{"", "GNU LESSER"},
		{"Apache-2.0", "Apache License Version 2.0"},
		{"Apache-2.0", "Licensed under the Apache License, Version 2.0"},
		{"MPL-2.0", "Mozilla Public License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License, version 2.0"},
		{"ISC", "Permission to use, copy, modify, and/or distribute this software"},
		{"ISC", "Permission to use, copy, modify, and distribute this software"},
		{"MIT", "Permission is hereby granted, free of charge"},
		{"BSD", "Redistribution and use in source and binary forms"},
		{"Unlicense", "This is free and unencumbered software"},
		{"CC0-1.0", "CC0 1.0 Universal"},
	} {
		if strings.Contains(text, l.mark) {
			return l.kind
		}
	}
	return ""
}
