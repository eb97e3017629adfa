package launch_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/sandlot-dev/sandlot/deploy/runtime/gvisor/internal/launch"
)

func TestAPlanIsReadAsItWasWritten(t *testing.T) {
	path := launch.Path(t.TempDir(), "a")
	for name, plan := range map[string]launch.Plan{
		"version 1": {Groups: []string{"/sys/fs/cgroup/memory/a b", "/sys/fs/cgroup/pids/a"}, Join: true, Args: []string{"--cpu-num=2"}},
		"version 2": {Groups: []string{"/sys/fs/cgroup/a"}},
		"nothing":   {},
	} {
		t.Run(name, func(t *testing.T) {
			if err := launch.Write(path, plan); err != nil {
				t.Fatal(err)
			}
			if got, err := launch.Read(path); err != nil || !reflect.DeepEqual(got, plan) {
				t.Errorf("read %+v, %v", got, err)
			}
		})
	}
	if err := os.WriteFile(path, []byte("leap\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := launch.Read(path); err == nil {
		t.Error("an unknown word is skipped")
	}
}

func TestASentryOfTheStockShimHasNoPlan(t *testing.T) {
	plan, err := launch.Read(launch.Path(t.TempDir(), "a"))
	if err != nil || !reflect.DeepEqual(plan, launch.Plan{}) {
		t.Fatalf("%+v, %v", plan, err)
	}
	args := []string{"runsc-sandbox", "--root=/r", "boot", "a"}
	if got := plan.Amend(args); !slices.Equal(got, args) {
		t.Errorf("its arguments become %q", got)
	}
}

func TestThePlanIsFoundInTheSentrysArguments(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"among others": {[]string{"p", "/runsc", "runsc-sandbox", "--root=/r/n", "--network=none", "boot", "--bundle=/b", "id"}, "/r/n/id.launch"},
		"no root":      {[]string{"p", "/runsc", "runsc-sandbox", "boot", "id"}, ""},
		"a root alike": {[]string{"p", "/runsc", "runsc-sandbox", "--shared-root=/s", "boot", "id"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := launch.Of(c.args); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestAddedArgumentsComeBeforeTheID(t *testing.T) {
	got := launch.Plan{Args: []string{"--cpu-num=2"}}.Amend([]string{"x", "boot", "--cpu-num=8", "id"})
	if want := []string{"x", "boot", "--cpu-num=8", "--cpu-num=2", "id"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFailureIsHeardOnce(t *testing.T) {
	path := launch.Path(t.TempDir(), "a")
	if launch.Failure(path) != "" {
		t.Error("there is one before")
	}
	launch.Fail(path, os.ErrPermission)
	if got := launch.Failure(path); got != os.ErrPermission.Error() {
		t.Errorf("heard %q", got)
	}
	if err := launch.Remove(path); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}
