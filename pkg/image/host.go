package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// needed are the programs that a build starts, and the packages that have
// them.
func needed() map[string]string {
	return map[string]string{
		"mmdebstrap": "mmdebstrap", "apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar", "unshare": "util-linux",
	}
}

// missing lists the packages that a build needs and the host does not have.
func missing() []string {
	var packages []string
	for program, pkg := range needed() {
		if _, err := exec.LookPath(program); err != nil {
			packages = append(packages, pkg)
		}
	}
	if _, err := os.Stat(keyring); errors.Is(err, fs.ErrNotExist) {
		packages = append(packages, "debian-archive-keyring")
	}
	return packages
}

// checkHost says what is missing to build on this host, and installs it where
// that is allowed.
func (b Builder) checkHost(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("building needs root: run it with sudo, or let the image be pulled from a registry")
	}
	if b.Runsc == "" {
		return errors.New("no runsc program is set; `make build` makes one")
	}
	if _, err := os.Stat(b.Runsc); err != nil {
		return fmt.Errorf("runsc is missing, `make build` makes it: %w", err)
	}
	packages := missing()
	if len(packages) == 0 {
		return nil
	}
	command := "apt-get install --yes --no-install-recommends " + strings.Join(packages, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("building needs a Debian host, or one with these packages: %s", strings.Join(packages, " "))
	}
	if !b.Install {
		return fmt.Errorf("building needs programs that are missing; install them: %s", command)
	}
	b.reporter("").say(StageInstall, strings.Join(packages, " "))
	cmd := exec.CommandContext(ctx, "sh", "-c", "apt-get update -qq && "+command)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n\t%s", command, err, lastLines(string(output), 8))
	}
	if left := missing(); len(left) > 0 {
		return fmt.Errorf("still missing after the installation: %s", strings.Join(left, " "))
	}
	return nil
}
