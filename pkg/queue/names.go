package queue

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Names of streams and subjects. Every part of a subject that comes from
// outside is checked to be one token before it is used.

const (
	intakeStream = "INTAKE"
	delayStream  = "DELAY"
	deadStream   = "DLQ"
	logStream    = "LOGS"
	workerBucket = "WORKERS"
	configBucket = "CFG"
	workerStream = "KV_" + workerBucket

	dueConsumer   = "due"
	priorityGroup = "w"
)

// checkToken refuses what cannot be one part of a subject.
func checkToken(s string) error {
	ok := len(s) >= 1 && len(s) <= 128
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c == '_' || c == '-'
	}
	if !ok {
		return fmt.Errorf("%q cannot be a name here; use 1 to 128 of A-Z a-z 0-9 _ -", s)
	}
	return nil
}

// shardOf is the record stream of a job.
func shardOf(id string, shards int) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % uint32(shards))
}

func recordStream(shard int) string   { return "RES_" + strconv.Itoa(shard) }
func readyStream(pool string) string  { return "READY_" + pool }
func readyConsumer(cl string) string  { return "w_" + cl }
func leaseSubject(pool string) string { return "lease." + pool }
func controlSubject(worker string) string {
	return "ctl." + worker
}

func recordSubject(shard int, tenant, id string) string {
	return "r." + strconv.Itoa(shard) + "." + tenant + "." + id
}

func intakeSubject(pool, class, tenant, queue string, priority int) string {
	return "in." + pool + "." + class + "." + tenant + "." + queue + "." + strconv.Itoa(priority)
}

// readySubject tells whose job a hint is of, so that counting subjects tells
// what each tenant and queue has out.
func readySubject(pool, class, tenant, queue, image string) string {
	return "rdy." + pool + "." + class + "." + tenant + "." + queue + "." + image
}

func poolKey(name string) string          { return "pool." + name }
func tenantKey(id string) string          { return "tenant." + id }
func queueKey(tenant, name string) string { return "queue." + tenant + "." + name }
func cronKey(tenant, name string) string  { return "cron." + tenant + "." + name }

// lineOf is the pool and the class in the subject of a hint, in INTAKE or in
// READY.
func lineOf(subject string) (pool, class string) {
	if parts := strings.SplitN(subject, ".", 4); len(parts) == 4 {
		return parts[1], parts[2]
	}
	return "", ""
}

func timerSubject(tenant, id, kind string) string {
	return "sched." + tenant + "." + id + "." + kind
}

func dueSubject(pool, tenant string, priority int) string {
	return "due." + pool + "." + tenant + "." + strconv.Itoa(priority)
}

func logSubject(shard int, id string) string {
	return "log." + strconv.Itoa(shard) + "." + id
}

func workerKey(pool, id string) string { return pool + "." + id }

func workerSubject(pool, id string) string {
	return "$KV." + workerBucket + "." + workerKey(pool, id)
}

// imageKey is the name of an image, which may hold any character, as a key.
func imageKey(name string) string {
	return "image." + base64.RawURLEncoding.EncodeToString([]byte(name))
}

// preferKey is where the preference of an image stands.
func preferKey(name string) string {
	return "prefer." + base64.RawURLEncoding.EncodeToString([]byte(name))
}

// imageToken tells images apart in a subject; it need not be unique.
func imageToken(digest string) string {
	h := fnv.New64a()
	h.Write([]byte(digest))
	return strconv.FormatUint(h.Sum64(), 36)
}
