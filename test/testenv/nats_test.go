package testenv_test

import (
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/need"
	"github.com/sandlot-dev/sandlot/test/testenv"
)

// A cluster is of use to a test only if it goes on when one server is killed,
// and has that server back with what it missed.
func TestClusterOfServersSurvivesTheLossOfOne(t *testing.T) {
	servers := testenv.NATSServers(t, need.NATSServer(t), testenv.NATSOptions{Cluster: 3})
	q, err := queue.Open(t.Context(), queue.Config{
		URL: testenv.NATSURL(servers), Name: "test", Replicas: 3, Logger: testenv.Logger(t, "test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	servers[0].Kill(t)
	image := queue.Image{Name: "one", Digest: "sha256:1", CreatedAt: time.Now()}
	testenv.Eventually(t, time.Minute, "the other two store", func() bool {
		return q.SetImage(t.Context(), image) == nil
	})
	servers[0].Start(t)
	servers[0].AwaitReady(t)
}
