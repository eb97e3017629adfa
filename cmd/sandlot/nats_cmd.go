package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/pkg/queue"
)

func (a *app) natsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "nats",
		Short:   "Look after a NATS server of yours",
		GroupID: groupHost,
	}
	return group(cmd, a.natsRolesCmd())
}

// rolesConfigFile is what nats-server includes.
const rolesConfigFile = "roles.conf"

func (a *app) natsRolesCmd() *cobra.Command {
	var out, pool string
	var workers []string
	cmd := &cobra.Command{
		Use:   "roles",
		Short: "Make a key for each role, and the rights that it needs",
		Long: `Make a key for each role, and a file for nats-server with the least rights that
each of them needs. DIR/roles.conf is included by nats.conf in the place of its
authorization block and holds no secrets; each DIR/ROLE.nk goes to its process,
which takes it by --nats-nkey, and nowhere else.

Keys that are there stay as they are: run it again to add workers. A worker with
a key of its own cannot read what is answered to another, nor speak as another;
without --worker one key is made for all of the pool.`,
		Example: `  sandlot nats roles --out /etc/sandlot/nats --worker node1 --worker node2
  sandlot nats roles --out /etc/sandlot/nats --worker big1 --pool gpu
  sandlot worker --id node1 --nats tls://10.0.0.1:4222 --nats-nkey /etc/sandlot/worker-main-node1.nk`,
		Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			var p problems
			p.check(out != "", "--out: name the directory for the keys and %s", rolesConfigFile)
			p.check(plainName.MatchString(pool), "--pool %q: write 1 to 64 small letters, digits and dashes", pool)
			for _, w := range workers {
				p.check(plainName.MatchString(w), "--worker %q: write 1 to 64 small letters, digits and dashes", w)
			}
			if err := p.err(); err != nil {
				return err
			}
			return a.writeRoles(out, pool, workers)
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "directory for the keys and "+rolesConfigFile)
	f.StringSliceVar(&workers, "worker", nil, "id of a worker that gets a key of its own; may be given again")
	f.StringVar(&pool, "pool", "main", "pool of the workers")
	return cmd
}

// writeRoles makes the keys that are missing, and the configuration for all
// that are there.
func (a *app) writeRoles(dir, pool string, workers []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	known, err := knownUsers(dir)
	if err != nil {
		return err
	}
	wanted := []queue.User{
		{Role: queue.RoleAdmin}, {Role: queue.RoleScheduler}, {Role: queue.RoleGateway}, {Role: queue.RoleObserver},
	}
	if len(workers) == 0 && len(known) == 0 {
		workers = []string{""} // one for all
	}
	for _, w := range workers {
		wanted = append(wanted, queue.User{Role: queue.RoleWorker, Worker: w, Pool: pool})
	}
	for _, u := range wanted {
		if !listed(known, u) {
			known = append(known, u)
		}
	}
	for i := range known {
		if known[i].Public, err = ensureKey(filepath.Join(dir, known[i].FileName())); err != nil {
			return err
		}
	}
	config, err := queue.RolesConfig(known)
	if err != nil {
		return err
	}
	index, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, rolesIndexFile), append(index, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, rolesConfigFile), []byte(config), 0o644); err != nil {
		return err
	}
	return a.tellRoles(dir, known)
}

// rolesIndexFile says whose keys there are, for the next run.
const rolesIndexFile = "roles.json"

func knownUsers(dir string) ([]queue.User, error) {
	text, err := os.ReadFile(filepath.Join(dir, rolesIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var users []queue.User
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, rolesIndexFile), err)
	}
	return users, nil
}

func listed(users []queue.User, u queue.User) bool {
	for _, have := range users {
		if have.FileName() == u.FileName() {
			return true
		}
	}
	return false
}

// ensureKey makes a key unless the file has one, and says what is public of it.
func ensureKey(path string) (string, error) {
	key, err := queue.ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key.Public, err
	}
	if key, err = queue.NewKey(); err != nil {
		return "", err
	}
	return key.Public, os.WriteFile(path, []byte(key.Seed+"\n"), 0o600)
}

// tellRoles says what to do with the files.
func (a *app) tellRoles(dir string, users []queue.User) error {
	if a.output == "json" {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		files := map[string]string{"config": filepath.Join(dir, rolesConfigFile)}
		for _, u := range users {
			files[strings.TrimSuffix(u.FileName(), ".nk")] = filepath.Join(dir, u.FileName())
		}
		return encoder.Encode(files)
	}
	fmt.Fprintf(a.stdout, "In nats.conf, in the place of authorization {}:\n\n  include %q\n\nEach process gets its own key by --nats-nkey:\n\n", filepath.Join(dir, rolesConfigFile))
	var rows [][]string
	for _, u := range users {
		rows = append(rows, []string{"  " + u.String(), filepath.Join(dir, u.FileName())})
	}
	table(a.stdout, rows)
	return nil
}
