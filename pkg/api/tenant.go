package api

import (
	"net/http"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// TenantHeader names the tenant that a request speaks for. The operator's
// token may name any, a tenant's token only its own.
const TenantHeader = "Sandlot-Tenant"

// Bounds of what can be set for a tenant or a queue.
const (
	MaxCap       = 1_000_000_000
	MinRate      = 0.001
	MaxRate      = 1_000_000.0
	MaxBurst     = 1_000_000
	MinRetention = job.Millis(1000)
	MaxRetention = job.Millis(10 * 365 * 24 * 60 * 60 * 1000)
	// MaxTokens is how many tokens a tenant may have.
	MaxTokens = 32
)

// Tenant is one of those who share the fleet.
type Tenant struct {
	ID string `json:"id"`
	job.Share
	// Retention is how long results are kept; 0: as the scheduler says.
	Retention job.Millis `json:"retention_ms,omitempty"`
	Tokens    []Token    `json:"tokens,omitempty"`
	// Queued and Running count its jobs that have not ended.
	Queued  int `json:"queued"`
	Running int `json:"running"`
	// Revision of the settings; 0 where nothing is set.
	Revision  uint64    `json:"revision,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

// Token is one of a tenant's tokens. The secret itself is told once, when it
// is made.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Token     string    `json:"token,omitempty" doc:"The secret; only in the answer that makes it."`
	CreatedAt time.Time `json:"created_at"`
}

// Tenants is the list of tenants.
type Tenants struct {
	Tenants []Tenant `json:"tenants"`
}

// TenantSettings is what can be set for a tenant. What is left out is as if
// it had never been set.
type TenantSettings struct {
	job.Share
	Retention job.Millis `json:"retention_ms,omitempty"`
	// Revision is that of the settings that were read, to have them changed
	// only if they are still the same; 0: whatever they are.
	Revision uint64 `json:"revision,omitempty"`
}

// QueueSettings is what can be set for a queue.
type QueueSettings struct {
	job.Share
	Revision uint64 `json:"revision,omitempty"`
}

// NewToken asks for a token.
type NewToken struct {
	Name string `json:"name,omitempty" doc:"What it is for."`
}

// DecodeTenantSettings reads settings of a tenant as strictly as a submit.
func DecodeTenantSettings(body []byte) (s TenantSettings, problem *Problem) {
	problem = decode(body, func(o *object) {
		s.Share = readShare(o)
		if d, ok := o.duration("retention"); ok {
			s.Retention = d
			if d < MinRetention || d > MaxRetention {
				o.out.add("retention_ms", int64(d), "must be between 1 s and ten years; leave it out for the scheduler's")
			}
		}
		s.Revision = readRevision(o)
	})
	return s, problem
}

// DecodeQueueSettings is DecodeTenantSettings for a queue.
func DecodeQueueSettings(body []byte) (s QueueSettings, problem *Problem) {
	problem = decode(body, func(o *object) {
		s.Share = readShare(o)
		s.Revision = readRevision(o)
	})
	return s, problem
}

// DecodeNewToken reads what a token is for.
func DecodeNewToken(body []byte) (t NewToken, problem *Problem) {
	if len(body) == 0 {
		return t, nil
	}
	problem = decode(body, func(o *object) {
		t.Name = o.text("name")
		if t.Name != "" && !namePattern.MatchString(t.Name) {
			o.out.add("name", clip(t.Name), "write a name of letters, digits, ., - and _, at most 64")
		}
	})
	return t, problem
}

// decode reads an object; fields that nobody asked for are refused.
func decode(body []byte, read func(*object)) *Problem {
	root, err := parse(body)
	if err != nil {
		return NewProblem(http.StatusBadRequest, TypeSyntax, "%s", err)
	}
	var out problems
	o, ok := out.object("", root)
	if !ok {
		return NewProblem(http.StatusBadRequest, TypeSyntax, "the body is %s; send a JSON object", root.what())
	}
	read(o)
	o.done()
	return Invalid(out.list)
}

func readShare(o *object) job.Share {
	s := job.Share{Weight: 1, Paused: o.flag("paused")}
	readCount(o, "weight", &s.Weight, 1, job.MaxWeight, "")
	readCount(o, "max_running", &s.MaxRunning, 0, MaxCap, "; 0 for no cap")
	readCount(o, "max_queued", &s.MaxQueued, 0, MaxCap, "; 0 for no cap")
	n, ok := o.of("rate", '{', `an object such as {"per_second":10,"burst":20}`)
	if !ok {
		return s
	}
	rate, _ := o.out.object(o.at("rate"), n)
	switch per, ok := rate.number("per_second"); {
	case !ok && !rate.has("per_second"):
		o.out.add("rate.per_second", nil, "is missing; leave rate out for no bound")
	case ok && (per < MinRate || per > MaxRate):
		o.out.add("rate.per_second", per, "must be between %g and %g; leave rate out for no bound, or pause", MinRate, MaxRate)
	default:
		s.Rate.PerSecond = per
	}
	readCount(rate, "burst", &s.Rate.Burst, 0, MaxBurst, "; 0 for what flows in in a second")
	rate.done()
	return s
}

func readCount(o *object, name string, field *int, least, most int64, hint string) {
	n, ok := o.integer(name)
	if !ok {
		return
	}
	*field = int(min(max(n, least), most))
	if n < least || n > most {
		o.out.add(o.at(name), n, "must be between %d and %d%s", least, most, hint)
	}
}

func readRevision(o *object) uint64 {
	n, ok := o.integer("revision")
	if ok && n < 0 {
		o.out.add("revision", n, "take it from the settings that were read")
	}
	return uint64(max(n, 0))
}

// BadTenant says what is wrong with the name of a tenant, "" if nothing is.
func BadTenant(id string) string { return badName(id) }

// BadQueue says what is wrong with the name of a queue, "" if nothing is.
func BadQueue(name string) string { return badName(name) }

func badName(name string) string {
	if queuePattern.MatchString(name) {
		return ""
	}
	return "write a name of letters, digits, - and _, at most 63"
}
