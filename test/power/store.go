package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/test/chaos/check"
)

// install lays out the queue, names the image that all jobs run, and has the
// server tell every revision of a record.
func (m *machine) install(ctx context.Context) error {
	out, err := os.Create(filepath.Join(m.Out, "install.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	q, err := queue.Open(ctx, queue.Config{URL: m.url(), Name: "power-setup", Durability: m.Profile, StoreDir: m.visibleStore(), Logger: slog.New(slog.NewTextHandler(out, nil))})
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer q.Close()
	img := image
	img.CreatedAt = time.Now().UTC()
	if err := q.SetImage(ctx, img); err != nil {
		return fmt.Errorf("install image: %w", err)
	}
	return m.withStreams(ctx, func(js jetstream.JetStream, _ *nats.Conn, name string) error {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		config := s.CachedInfo().Config
		config.RePublish = &jetstream.RePublish{Source: config.Subjects[0], Destination: tapped + config.Subjects[0], HeadersOnly: true}
		_, err = js.UpdateStream(ctx, config)
		return err
	})
}

// tapped is where every revision of a record is told.
const tapped = "power.tap."

// withStreams calls f for each stream of records.
func (m *machine) withStreams(ctx context.Context, f func(js jetstream.JetStream, nc *nats.Conn, name string) error) error {
	nc, err := nats.Connect(m.url())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	names := js.StreamNames(ctx, jetstream.WithStreamListSubject("r.>"))
	for name := range names.Name() {
		if err := f(js, nc, name); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return names.Err()
}

// listen has the ledger know every revision until the connection is closed.
func (m *machine) listen(l *ledger) (*nats.Conn, error) {
	nc, err := nats.Connect(m.url(), nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	sub, err := nc.Subscribe(tapped+"r.>", func(msg *nats.Msg) {
		r, err := check.DecodeRevision(check.Header(msg.Header))
		if err != nil {
			l.mu.Lock()
			l.found("a revision cannot be read: %v", err)
			l.mu.Unlock()
			return
		}
		l.heard(r)
	})
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = nc.Flush()
	}
	return nc, err
}

// records reads every record at the leader of its stream.
func (m *machine) records(ctx context.Context) (map[string]check.Record, error) {
	all := map[string]check.Record{}
	err := m.withStreams(ctx, func(_ jetstream.JetStream, nc *nats.Conn, name string) error {
		for seq := uint64(1); ; seq++ {
			ask := fmt.Sprintf(`{"seq":%d,"next_by_subj":"r.>"}`, seq)
			answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+name, []byte(ask))
			if err != nil {
				return err
			}
			var got struct {
				Error   *jetstream.APIError `json:"error"`
				Message struct {
					Seq    uint64 `json:"seq"`
					Header []byte `json:"hdrs"`
					Data   []byte `json:"data"`
				} `json:"message"`
			}
			if err := json.Unmarshal(answer.Data, &got); err != nil {
				return err
			}
			if got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
				return nil
			}
			if got.Error != nil {
				return got.Error
			}
			seq = got.Message.Seq
			header, err := nats.DecodeHeadersMsg(got.Message.Header)
			if err != nil {
				return err
			}
			r, there, err := check.DecodeRecord(check.Header(header), seq, got.Message.Data)
			if err != nil {
				return err
			}
			if there {
				all[r.ID] = r
			}
		}
	})
	return all, err
}
