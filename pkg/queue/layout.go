package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Sizes bounds what is stored, in bytes; zero takes the default.
type Sizes struct {
	// Records is for all jobs that are known; accept refuses above 80 %.
	Records int64
	// Intake and Ready are for hints of jobs that wait, Dead for the index
	// of dead jobs, Logs for live output.
	Intake, Ready, Dead, Logs int64
	// Images, Inputs and Outputs are for objects.
	Images, Inputs, Outputs int64
}

// DefaultSizes suit a small machine: about 30 GiB at most, nearly all of it
// objects; nothing is set aside before it is used.
func DefaultSizes() Sizes {
	const mib, gib = 1 << 20, 1 << 30
	return Sizes{
		Records: 2 * gib, Intake: 512 * mib, Ready: 128 * mib, Dead: 32 * mib, Logs: 512 * mib,
		Images: 16 * gib, Inputs: 2 * gib, Outputs: 8 * gib,
	}
}

func (s Sizes) filled() Sizes {
	d := DefaultSizes()
	for _, f := range []struct {
		value *int64
		empty int64
	}{
		{&s.Records, d.Records}, {&s.Intake, d.Intake}, {&s.Ready, d.Ready}, {&s.Dead, d.Dead}, {&s.Logs, d.Logs},
		{&s.Images, d.Images}, {&s.Inputs, d.Inputs}, {&s.Outputs, d.Outputs},
	} {
		if *f.value == 0 {
			*f.value = f.empty
		}
	}
	return s
}

const (
	layoutVersion = "1"
	defaultShards = 4
	maxShards     = 16
	// storeLimit of an embedded server is no bound of its own: every stream
	// has one.
	storeLimit = 1 << 40
	// markerTTL is how long an expired or removed record can be seen to be
	// gone by those who follow.
	markerTTL = time.Minute
	// ackWait is the net below the heartbeat: after it a hint that nobody has
	// spoken of comes again.
	ackWait      = 60 * time.Second
	dedupeWindow = 2 * time.Minute
	// installTimeout bounds one try to install; what it has done stays done.
	installTimeout = apiTimeout
	// codeNoPeers: a cluster has not found enough of its servers yet.
	codeNoPeers jetstream.ErrorCode = 10005
)

// layout is what stands fixed once it is installed.
type layout struct {
	shards, replicas int
	durability       Profile
}

// replicated says that reads may be answered by a server that lags, and that
// writes wait for others.
func (l layout) replicated() bool { return l.replicas > 1 }

// install creates what is missing and checks what is there.
func (q *Queue) install(ctx context.Context) error {
	said := ""
	for {
		// Servers that have no leader yet do not answer: a question without an
		// end of its own would wait as long as ctx lasts.
		once, cancel := context.WithTimeout(ctx, installTimeout)
		err := q.installOnce(once)
		cancel()
		if err == nil || !transient(err) && !isCode(err, codeNoPeers) && !errors.Is(err, errNotInstalled) {
			return err
		}
		if why := err.Error(); why != said {
			q.log.Info("the queue is not ready yet", "error", err)
			said = why
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

func (q *Queue) installOnce(ctx context.Context) error {
	if err := checkServer(q.nc.ConnectedServerVersion()); err != nil {
		return err
	}
	if err := q.readInstalled(ctx); err != nil {
		return err
	}
	if !q.cfg.Role.installs() {
		return q.checkInstalled(ctx)
	}
	for _, want := range q.streams() {
		if err := q.ensureStream(ctx, want); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	for _, c := range q.consumers() {
		if _, err := q.js.CreateOrUpdateConsumer(ctx, c.stream, c.config); err != nil {
			return fmt.Errorf("consumer %s: %w", c.config.Durable, err)
		}
	}
	if err := q.ensureBuckets(ctx); err != nil {
		return err
	}
	pools, err := q.Pools(ctx)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if err := q.ensurePool(ctx, p); err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
	}
	return q.room.sync()
}

// checkServer refuses servers that lack what the layout needs.
func checkServer(version string) error {
	if version == "" {
		return fmt.Errorf("ask the NATS server for its version: %w", nats.ErrDisconnected)
	}
	parts := strings.SplitN(version, ".", 3)
	if len(parts) == 3 {
		major, err1 := strconv.Atoi(parts[0])
		minor, err2 := strconv.Atoi(parts[1])
		if err1 == nil && err2 == nil && (major > 2 || major == 2 && minor >= 14) {
			return nil
		}
	}
	return fmt.Errorf("NATS server %s is too old; 2.14 or later is needed", version)
}

// readInstalled takes from the installation what stands fixed, if there is one.
func (q *Queue) readInstalled(ctx context.Context) error {
	s, err := q.js.Stream(ctx, recordStream(0))
	if errors.Is(err, jetstream.ErrStreamNotFound) && !q.cfg.Role.installs() {
		return errNotInstalled
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		q.layout = q.wanted().filled()
		return q.layout.check()
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", recordStream(0), err)
	}
	config := s.CachedInfo().Config
	n, err := strconv.Atoi(config.Metadata["shards"])
	if err != nil || n < 1 || n > maxShards {
		return fmt.Errorf("stream %s says nothing of its shards: not a Sandlot layout", recordStream(0))
	}
	have, err := q.installedAs(ctx, config, n)
	if err != nil {
		return err
	}
	return q.agree(ctx, have, q.wanted())
}

// checkInstalled is for roles that make nothing.
func (q *Queue) checkInstalled(ctx context.Context) error {
	for _, want := range q.streams() {
		s, err := q.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return errNotInstalled
		}
		if err == nil {
			err = compare(s.CachedInfo().Config, want)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	return nil
}

func (q *Queue) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := q.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = q.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = q.js.Stream(ctx, want.Name) // another process was faster
		}
	}
	if err != nil {
		return err
	}
	have := s.CachedInfo().Config
	if err := compare(have, want); err != nil {
		return err
	}
	changed := false
	if q.cfg.Sizes != nil && want.MaxBytes > 0 && have.MaxBytes != want.MaxBytes {
		have.MaxBytes, changed = want.MaxBytes, true
	}
	if want.AllowAtomicPublish && !have.AllowAtomicPublish {
		have.AllowAtomicPublish, changed = true, true
	}
	if d := want.Metadata[keyDurability]; have.Metadata[keyDurability] != d {
		have.Metadata[keyDurability], changed = d, true
	}
	if changed {
		_, err = q.js.UpdateStream(ctx, have)
	}
	return err
}

// compare refuses a stream that this release cannot work with.
func compare(have, want jetstream.StreamConfig) error {
	if v := have.Metadata["layout_version"]; have.Metadata["app"] != "sandlot" || v != layoutVersion {
		return fmt.Errorf("has layout version %q, this release needs %s: run the release that wrote it, or migrate", v, layoutVersion)
	}
	differs := ""
	switch {
	case have.Retention != want.Retention:
		differs = "retention"
	case have.Storage != want.Storage:
		differs = "storage"
	case have.Discard != want.Discard:
		differs = "discard policy"
	case max(have.MaxMsgsPerSubject, 0) != max(want.MaxMsgsPerSubject, 0): // none is -1 or 0
		differs = "messages per subject"
	case have.AllowMsgTTL != want.AllowMsgTTL || have.AllowMsgSchedules != want.AllowMsgSchedules:
		differs = "TTL or schedules"
	case strings.Join(have.Subjects, " ") != strings.Join(want.Subjects, " "):
		differs = "subjects"
	}
	if differs != "" {
		return fmt.Errorf("differs in its %s from what layout %s says: it was changed by hand; restore it or move it away", differs, layoutVersion)
	}
	return nil
}

// streams is the layout. A stream that holds accepted work discards new
// messages when it is full, never old ones.
func (q *Queue) streams() []jetstream.StreamConfig {
	sizes := q.sizes()
	shards := q.layout.shards
	var all []jetstream.StreamConfig
	for s := range shards {
		subject := "r." + strconv.Itoa(s) + ".>"
		all = append(all, jetstream.StreamConfig{
			Name: recordStream(s), Subjects: []string{subject},
			Description: "one record per job: the truth",
			Discard:     jetstream.DiscardNew, MaxMsgsPerSubject: 1, MaxBytes: sizes.Records / int64(shards),
			MaxMsgSize: 1 << 20, AllowDirect: true, AllowRollup: true,
			AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
			AllowAtomicPublish: q.layout.durability == Strict,
			Metadata:           map[string]string{"shards": strconv.Itoa(shards), keyDurability: string(q.layout.durability)},
		})
	}
	all = append(all,
		jetstream.StreamConfig{
			Name: intakeStream, Subjects: []string{"in.>"},
			Description: "hints of accepted jobs, a subject per lane",
			Discard:     jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1_000_000,
			MaxBytes: sizes.Intake, MaxMsgSize: 64 << 10, Duplicates: dedupeWindow, AllowDirect: true,
			RePublish:   &jetstream.RePublish{Source: "in.>", Destination: "evt.in.>", HeadersOnly: true},
			PersistMode: q.hintPersistence(),
		},
		jetstream.StreamConfig{
			// Schedules exclude discard new and with it a size: there is at
			// most one timer per record and kind, and records are bounded.
			Name: delayStream, Subjects: []string{"sched.>", "cron.>", "due.>"},
			Description: "timers", Retention: jetstream.WorkQueuePolicy, MaxMsgSize: 64 << 10,
			AllowDirect: true, AllowRollup: true, AllowMsgTTL: true, AllowMsgSchedules: true,
		},
		jetstream.StreamConfig{
			Name: deadStream, Subjects: []string{"dlq.>"},
			Description: "index of dead jobs", MaxAge: 14 * 24 * time.Hour, MaxMsgsPerSubject: 100_000,
			MaxBytes: sizes.Dead, MaxMsgSize: 64 << 10, Duplicates: dedupeWindow, AllowDirect: true,
		},
		jetstream.StreamConfig{
			Name: logStream, Subjects: []string{"log.>"},
			Description: "live output", MaxAge: time.Hour, MaxMsgsPerSubject: 1024, MaxBytes: sizes.Logs,
			MaxMsgSize: 256 << 10, AllowDirect: true, Compression: jetstream.S2Compression,
			PersistMode: q.hintPersistence(),
		},
	)
	for i := range all {
		all[i] = q.common(all[i])
	}
	return all
}

// poolStream is that of one pool: what is released in it, and the lease of
// the one who releases.
func (q *Queue) poolStream(pool string) jetstream.StreamConfig {
	return q.common(jetstream.StreamConfig{
		Name: readyStream(pool), Subjects: []string{"rdy." + pool + ".>", leaseSubject(pool)},
		Description: "released hints, and the lease of the one who releases",
		Retention:   jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgs: 200_000,
		MaxBytes: q.sizes().Ready, MaxMsgSize: 64 << 10, Duplicates: dedupeWindow, AllowDirect: true,
		AllowRollup: true, AllowMsgTTL: true, AllowAtomicPublish: q.layout.replicated(),
		RePublish:   &jetstream.RePublish{Source: leaseSubject(pool), Destination: "evt." + leaseSubject(pool)},
		PersistMode: q.hintPersistence(),
	})
}

// common fills in what all streams have in common.
func (q *Queue) common(s jetstream.StreamConfig) jetstream.StreamConfig {
	s.Storage = jetstream.FileStorage
	s.Replicas = q.layout.replicas
	if s.Metadata == nil {
		s.Metadata = map[string]string{}
	}
	s.Metadata["app"], s.Metadata["layout_version"] = "sandlot", layoutVersion
	return s
}

func (q *Queue) sizes() Sizes {
	if q.cfg.Sizes == nil {
		return DefaultSizes()
	}
	return q.cfg.Sizes.filled()
}

type consumerOf struct {
	stream string
	config jetstream.ConsumerConfig
}

// poolConsumer is the line of a class, in which slots wait for jobs.
func poolConsumer(pool, class string) consumerOf {
	return consumerOf{readyStream(pool), jetstream.ConsumerConfig{
		Durable: readyConsumer(class), FilterSubject: "rdy." + pool + "." + class + ".>",
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1,
		MaxAckPending: 50_000, MaxWaiting: 16_384,
		PriorityPolicy: jetstream.PriorityPolicyPrioritized, PriorityGroups: []string{priorityGroup},
	}}
}

func (q *Queue) consumers() []consumerOf {
	return []consumerOf{
		{delayStream, jetstream.ConsumerConfig{
			Durable: dueConsumer, FilterSubject: "due.>",
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1,
			MaxAckPending: 10_000,
		}},
	}
}

// keyBuckets are the key-value buckets of the layout.
func (q *Queue) keyBuckets() []jetstream.KeyValueConfig {
	all := []jetstream.KeyValueConfig{
		{Bucket: configBucket, Description: "image names, settings", History: 5, MaxBytes: 64 << 20},
		{Bucket: workerBucket, Description: "workers that live", History: 1, MaxBytes: 64 << 20, LimitMarkerTTL: workerTTL},
		{Bucket: batchBucket, Description: "batches", History: 1, MaxBytes: batchBytes, LimitMarkerTTL: markerTTL},
	}
	for i := range all {
		all[i].Replicas = q.layout.replicas
	}
	return all
}

// objectBuckets are the stores of objects of the layout.
func (q *Queue) objectBuckets() []jetstream.ObjectStoreConfig {
	sizes := q.sizes()
	all := []jetstream.ObjectStoreConfig{
		{Bucket: string(Images), Description: "image archives", MaxBytes: sizes.Images},
		{Bucket: string(Inputs), Description: "inputs of jobs", MaxBytes: sizes.Inputs},
		{Bucket: string(Outputs), Description: "outputs of jobs", MaxBytes: sizes.Outputs},
	}
	for i := range all {
		all[i].Replicas = q.layout.replicas
	}
	return all
}

func (q *Queue) ensureBuckets(ctx context.Context) error {
	for _, kv := range q.keyBuckets() {
		if _, err := q.js.KeyValue(ctx, kv.Bucket); err == nil {
			continue
		}
		if err := q.createKeys(ctx, kv); err != nil {
			return fmt.Errorf("bucket %s: %w", kv.Bucket, err)
		}
	}
	for _, o := range q.objectBuckets() {
		if _, err := q.js.ObjectStore(ctx, o.Bucket); err == nil && q.cfg.Sizes == nil {
			continue
		}
		if _, err := q.js.CreateOrUpdateObjectStore(ctx, o); err != nil {
			return fmt.Errorf("objects %s: %w", o.Bucket, err)
		}
	}
	return nil
}

// createKeys makes a bucket, that of the workers as a stream, since the
// client's bucket cannot be one that is written late.
func (q *Queue) createKeys(ctx context.Context, kv jetstream.KeyValueConfig) error {
	if kv.Bucket != workerBucket {
		_, err := q.js.CreateKeyValue(ctx, kv)
		if errors.Is(err, jetstream.ErrBucketExists) {
			return nil // another process was faster
		}
		return err
	}
	_, err := q.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: workerStream, Subjects: []string{"$KV." + kv.Bucket + ".>"}, Description: kv.Description,
		MaxMsgsPerSubject: int64(kv.History), MaxBytes: kv.MaxBytes, Discard: jetstream.DiscardNew,
		Storage: jetstream.FileStorage, Replicas: kv.Replicas, PersistMode: q.hintPersistence(),
		AllowRollup: true, DenyDelete: true, AllowDirect: true, Duplicates: dedupeWindow,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: kv.LimitMarkerTTL,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil
	}
	return err
}

// transient reports whether err may be over in a moment: the server starts,
// moves its leaders, or is away.
func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == codeBatchIncomplete || api.Code == 503 && api.ErrorCode != codeStoreFailed && api.ErrorCode != codeNoResources
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) ||
		errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, nats.ErrNoStreamResponse)
}
