package job

import "time"

// Share says how much of the fleet a tenant may take, or a queue of what its
// tenant may. The zero value is weight 1 and no bounds.
type Share struct {
	// Weight is its part among those beside it that wait, 1 to MaxWeight; 0
	// is 1.
	Weight int `json:"weight,omitempty"`
	// MaxRunning caps its jobs that are with workers or about to be; 0: none.
	MaxRunning int `json:"max_running,omitempty"`
	// MaxQueued caps its jobs that wait; above it submits are refused. 0: none.
	MaxQueued int `json:"max_queued,omitempty"`
	// Rate caps how many of its jobs start in a second.
	Rate Rate `json:"rate,omitzero"`
	// Paused keeps its jobs waiting; those that run go on.
	Paused bool `json:"paused,omitempty"`
}

// MaxWeight is the largest weight.
const MaxWeight = 1000

// Rate is a bucket of tokens: PerSecond of them flow in, Burst fit. The zero
// value is no bound.
type Rate struct {
	PerSecond float64 `json:"per_second"`
	// Burst is at least 1; 0 is what flows in in a second.
	Burst int `json:"burst,omitempty"`
}

// Limited reports whether r is a bound.
func (r Rate) Limited() bool { return r.PerSecond > 0 }

// Room is how many tokens fit.
func (r Rate) Room() float64 {
	if r.Burst > 0 {
		return float64(r.Burst)
	}
	return max(1, r.PerSecond)
}

// Parts is the weight as it counts.
func (s Share) Parts() int { return max(1, s.Weight) }

// Tenant is what is set for one of those who share the fleet.
type Tenant struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	Share
	// Retention is how long results are kept; 0: as the scheduler says.
	Retention Millis `json:"retention_ms,omitempty"`
	// Tokens speak for the tenant.
	Tokens    []Token   `json:"tokens,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

// Token is what is kept of a secret that speaks for a tenant.
type Token struct {
	// ID names it, Name says what it is for.
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// SHA256 is the digest of the secret, in hex.
	SHA256    string    `json:"sha256"`
	CreatedAt time.Time `json:"created_at"`
}

// Queue is what is set for a queue of a tenant. Queues exist without
// settings.
type Queue struct {
	Schema int    `json:"schema"`
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	Share
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}
