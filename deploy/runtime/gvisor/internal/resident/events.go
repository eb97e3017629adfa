package resident

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// Publisher tells containerd what happens to tasks. It does not wait.
type Publisher interface {
	Publish(namespace, topic string, event any)
}

// Events is a Publisher that keeps the order of events and bounds how many
// wait.
type Events struct {
	queue chan event
	done  chan struct{}
}

type event struct {
	namespace, topic string
	body             any
}

// maxEvents may wait. When containerd takes none for that long, later ones are
// lost, which is logged: a task's true state can always be asked.
const maxEvents = 4096

// SendEvents sends events to containerd's socket for them until Close.
func SendEvents(address string) (*Events, error) {
	to, err := shim.NewPublisher(address)
	if err != nil {
		return nil, err
	}
	e := &Events{queue: make(chan event, maxEvents), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		defer to.Close()
		for next := range e.queue {
			ctx := namespaces.WithNamespace(context.Background(), next.namespace)
			if err := to.Publish(ctx, next.topic, next.body); err != nil {
				log.L.WithError(err).WithField("topic", next.topic).Warn("event waits")
			}
		}
	}()
	return e, nil
}

// Publish queues an event.
func (e *Events) Publish(namespace, topic string, body any) {
	select {
	case e.queue <- event{namespace, topic, body}:
	default:
		log.L.WithField("topic", topic).Error("event is lost: containerd takes none")
	}
}

// Close sends what waits. Nothing may be published any more.
func (e *Events) Close() {
	close(e.queue)
	<-e.done
}
