package queue

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Role is what a connection is for. It says what it may do where each role has
// a key of its own, see [RolesConfig].
type Role string

// The roles. An empty one is everything in one process.
const (
	// RoleAdmin may do everything, such as change what is installed.
	RoleAdmin Role = "admin"
	// RoleScheduler makes the streams, accepts, releases and answers.
	RoleScheduler Role = "scheduler"
	// RoleGateway accepts and answers, and releases nothing.
	RoleGateway Role = "gateway"
	// RoleWorker takes, claims and commits.
	RoleWorker Role = "worker"
	// RoleObserver reads what can be read without a consumer.
	RoleObserver Role = "observer"
)

// installs reports whether the role makes streams; the others wait for them.
func (r Role) installs() bool { return r == "" || r == RoleAdmin || r == RoleScheduler }

// Key is an nkey: a seed to be kept secret, and what the server knows of it.
type Key struct{ Seed, Public string }

// NewKey makes a key of a user.
func NewKey() (Key, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	return Key{string(seed), public}, nil
}

// ReadKey reads a file that holds a seed.
func ReadKey(path string) (Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	seed := strings.TrimSpace(string(text))
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, err)
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		return Key{}, fmt.Errorf("read key %s: it is not that of a user", path)
	}
	return Key{seed, public}, nil
}

// inbox is where answers for the holder of a key go; nobody else may listen.
func (k Key) inbox() string { return "_INBOX_" + k.Public[:24] }

// options have a connection use the key.
func (k Key) options() []nats.Option {
	return []nats.Option{
		nats.CustomInboxPrefix(k.inbox()),
		nats.Nkey(k.Public, func(nonce []byte) ([]byte, error) {
			pair, err := nkeys.FromSeed([]byte(k.Seed))
			if err != nil {
				return nil, err
			}
			defer pair.Wipe()
			return pair.Sign(nonce)
		}),
	}
}

// User is one who may connect.
type User struct {
	Role   Role
	Public string // of its key
	// Worker and Pool are whom a key of RoleWorker is for. An empty Worker
	// stands for any worker of the pool: those who share it can read each
	// other's answers and speak in each other's name.
	Worker, Pool string
}

// RolesConfig is an authorization block for nats-server, with the least that
// each user's role needs. It holds no secrets.
func RolesConfig(users []User) (string, error) {
	var b strings.Builder
	b.WriteString("# Users of Sandlot by role, made by `sandlot nats roles`. Only public keys stand here.\n")
	b.WriteString("authorization {\n  users: [\n")
	for _, u := range users {
		if !nkeys.IsValidPublicUserKey(u.Public) {
			return "", fmt.Errorf("user %s: %q is not a public key", u.Role, u.Public)
		}
		rights, err := u.rights()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "    # %s\n    {\n      nkey: %s\n      permissions: {\n", u, u.Public)
		writeSubjects(&b, "publish", rights.publish, rights.never)
		writeSubjects(&b, "subscribe", rights.subscribe, nil)
		b.WriteString("      }\n    }\n")
	}
	b.WriteString("  ]\n}\n")
	return b.String(), nil
}

func (u User) String() string {
	if u.Role != RoleWorker {
		return string(u.Role)
	}
	if u.Worker == "" {
		return "any worker of pool " + u.Pool
	}
	return "worker " + u.Worker + " of pool " + u.Pool
}

func writeSubjects(b *strings.Builder, what string, allow, deny []string) {
	fmt.Fprintf(b, "        %s: {\n          allow: [\n", what)
	for _, s := range allow {
		fmt.Fprintf(b, "            %q\n", s)
	}
	b.WriteString("          ]\n")
	if len(deny) > 0 {
		b.WriteString("          deny: [\n")
		for _, s := range deny {
			fmt.Fprintf(b, "            %q\n", s)
		}
		b.WriteString("          ]\n")
	}
	b.WriteString("        }\n")
}

// rights are the subjects that a role needs and no more.
type rights struct{ publish, never, subscribe []string }

func (u User) rights() (rights, error) {
	inbox := Key{Public: u.Public}.inbox() + ".>"
	switch u.Role {
	case RoleAdmin:
		return rights{publish: []string{">"}, subscribe: []string{"evt.>", "ctl.>", "$JS.EVENT.>", inbox}}, nil
	case RoleScheduler:
		return rights{
			publish: slices.Concat(accepting(), []string{
				"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.PURGE.*", "$JS.API.STREAM.DELETE.*",
				"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.MSG.DELETE.*",
				"$JS.API.CONSUMER.>", "$JS.ACK.>",
				"rdy.>", "lease.*", "dlq.>", "$KV.WORKERS.>",
			}),
			never:     keeping(),
			subscribe: []string{"evt.>", inbox},
		}, nil
	case RoleGateway:
		rights := rights{
			publish: slices.Concat(accepting(), []string{
				// What is cleared away with a job, its logs, timers and objects.
				"$JS.API.STREAM.PURGE." + logStream, "$JS.API.STREAM.PURGE." + delayStream,
				"$JS.API.CONSUMER.INFO.*.*",
				orderSubject("*", "*"), // drain and release
			}),
			subscribe: []string{"evt.>", inbox},
		}
		for _, b := range objectNames() {
			rights.publish = append(rights.publish, "$JS.API.STREAM.PURGE.OBJ_"+b)
		}
		for _, s := range followed() {
			rights.publish = append(rights.publish, "$JS.API.CONSUMER.CREATE."+s+".>",
				"$JS.API.CONSUMER.MSG.NEXT."+s+".*", "$JS.API.CONSUMER.DELETE."+s+".*")
		}
		return rights, nil
	case RoleWorker:
		return u.workerRights(inbox)
	case RoleObserver:
		return rights{
			publish: slices.Concat(reading(), []string{
				"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*",
			}),
			subscribe: []string{"evt.>", inbox},
		}, nil
	}
	return rights{}, fmt.Errorf("role %q is not known", u.Role)
}

// workerRights: no consumer may be made, nothing released, no stream touched.
func (u User) workerRights(inbox string) (rights, error) {
	if err := checkToken(u.Pool); err != nil {
		return rights{}, fmt.Errorf("pool of worker %s: %w", u.Worker, err)
	}
	worker := u.Worker
	if worker == "" {
		worker = "*"
	} else if err := checkToken(worker); err != nil {
		return rights{}, fmt.Errorf("worker: %w", err)
	}
	ready := readyStream(u.Pool)
	publish := []string{
		"$JS.API.STREAM.INFO.*",
		"$JS.API.CONSUMER.INFO." + ready + ".*", "$JS.API.CONSUMER.MSG.NEXT." + ready + ".*",
		// Both forms of the subjects on which hints are acknowledged.
		"$JS.ACK." + ready + ".>", "$JS.ACK.*.*." + ready + ".>",
		"$JS.API.STREAM.MSG.GET." + workerStream, workerSubject(u.Pool, worker),
		"r.>", "sched.>", "dlq.>", "log.>",
		"$O." + string(Outputs) + ".>",
	}
	for s := range defaultShards {
		publish = append(publish, "$JS.API.STREAM.MSG.GET."+recordStream(s), "$JS.API.DIRECT.GET."+recordStream(s)+".>")
	}
	for _, b := range objectNames() {
		stream := "OBJ_" + b
		publish = append(publish, "$JS.API.STREAM.MSG.GET."+stream, "$JS.API.DIRECT.GET."+stream, "$JS.API.DIRECT.GET."+stream+".>")
	}
	return rights{publish: publish, subscribe: []string{controlSubject(worker), inbox}}, nil
}

// reading is for those who may see all there is.
func reading() []string {
	return []string{"$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.>"}
}

// accepting is what it takes to accept, follow and answer for jobs.
func accepting() []string {
	subjects := append(reading(), "in.>", "r.>", "sched.>", "cron.>", "ctl.*", "$KV."+configBucket+".>", "$KV."+batchBucket+".>")
	for _, b := range objectNames() {
		subjects = append(subjects, "$O."+b+".>")
	}
	return subjects
}

// keeping names what only an admin may end: all streams but those of pools,
// which come and go.
func keeping() []string {
	streams := append(followed(), intakeStream, delayStream)
	for _, b := range objectNames() {
		streams = append(streams, "OBJ_"+b)
	}
	for i := range streams {
		streams[i] = "$JS.API.STREAM.DELETE." + streams[i]
	}
	return streams
}

// followed are the streams that a gateway reads in order.
func followed() []string {
	streams := []string{logStream, deadStream, workerStream, configStream, batchStream}
	for s := range defaultShards {
		streams = append(streams, recordStream(s))
	}
	return streams
}

func objectNames() []string { return []string{string(Images), string(Inputs), string(Outputs)} }

// errNotInstalled: there are no streams yet, and this role makes none.
var errNotInstalled = errors.New("nothing is installed yet; a scheduler does that")

// FileName is what the file with the seed of a user's key is called.
func (u User) FileName() string {
	switch {
	case u.Role != RoleWorker:
		return string(u.Role) + ".nk"
	case u.Worker == "":
		return "worker-any-" + u.Pool + ".nk"
	}
	return "worker-" + u.Pool + "-" + u.Worker + ".nk"
}
