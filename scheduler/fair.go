package scheduler

import (
	"cmp"
	"container/heap"
	"math"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
	"github.com/sandlot-dev/sandlot/pkg/queue"
)

// fair decides which lanes are next, and for how many hints each. It is plain
// code without clock and connection.
//
//	band     0 to 9, one strictly before the other; a lane rises by one for
//	         each aging that its head has waited
//	tenant   within a band: deficit round robin by weight
//	queue    within a tenant: deficit round robin by weight
//	lane     within a queue, if aging has brought priorities together: in turns
//
// Who is paused, at a cap or out of tokens is passed over. Nobody saves up
// turns while nothing of theirs waits or may run: the deficit that is carried
// from one deal to the next is what did not come out even. Each class of a
// pool is dealt out on its own, with the tokens of all.
type fair struct {
	aging    time.Duration
	tokens   *tokens
	deals    uint64
	accounts map[account]*deficit

	// What follows is used anew in each deal: with thousands of lanes there
	// would be much to throw away otherwise.
	parties    []party
	allowances []allowance
}

// account names who carries a deficit: a tenant, one of its queues, or one of
// the lanes of that.
type account struct {
	tenant, queue string
	priority      int // -1 unless of a lane
}

// deficit is what one is owed, in hints; negative is what one owes.
type deficit struct {
	name  account
	hints float64
	seen  uint64 // the deal in which something of it last waited
	gone  bool   // forgotten: ask for it anew
}

// defaultAging is how long a job waits for each band that it rises.
const defaultAging = time.Minute

func newFair(aging time.Duration, t *tokens) *fair {
	return &fair{aging: aging, tokens: t, accounts: map[account]*deficit{}}
}

// waiting is a lane in which hints wait.
type waiting struct {
	queue.Lane
	// since is when its head came, or a little before.
	since time.Time
	// seat is the same one for as long as the lane is known.
	seat *seat
}

// seat is what need not be looked up for a lane in each deal.
type seat struct {
	// tenant, queue and lane are what each of them is owed.
	tenant, queue, lane *deficit
	// shares are as of a revision of the settings.
	shareOfTenant, shareOfQueue job.Share
	revision                    uint64
}

// table is what is looked at in one deal.
type table struct {
	now time.Time
	// room is how many hints may be released.
	room int
	// lanes lie together by tenant, and within that by queue.
	lanes []waiting
	// share is what is set for a tenant, or for a queue of it; out is what
	// it has in READY. The queue is empty for the tenant as a whole.
	share func(tenant, queue string) job.Share
	out   func(tenant, queue string) int
	// revision is another one whenever share has changed; never 0.
	revision uint64
}

// turn is how many hints of a lane are next.
type turn struct {
	lane waiting
	n    int
}

// held is what kept lanes waiting although there was room.
type held struct {
	// capped: some are at their cap of running jobs.
	capped bool
	// token is when the next token of a rate comes; zero if none is missed.
	token time.Time
}

// party is who takes part in a deal: a tenant with its queues, a queue with
// its lanes, or a lane.
type party struct {
	weight int
	allow  *allowance // nil of a lane
	owed   *deficit
	below  []*party // empty of a lane
	lane   int
	most   int // how many it can take
	got    int
}

// allowance is what one may still release in this deal, in whatever band.
type allowance struct {
	left   int
	weight int
	bucket *bucket
}

// deal hands out the room.
func (f *fair) deal(t table) (turns []turn, h held) {
	f.tokens.mu.Lock()
	defer f.tokens.mu.Unlock()
	f.deals++
	var bands [10][]*party
	f.seat(t, &bands, &h)
	left := t.room
	for _, parties := range bands {
		if left <= 0 {
			break
		}
		left -= f.among(left, parties, func(lane, n int) { turns = append(turns, turn{t.lanes[lane], n}) })
	}
	if f.deals%1024 == 0 {
		f.forget()
		f.tokens.forget(t.now)
	}
	return turns, h
}

// seat puts each lane under its queue and tenant, in its band.
func (f *fair) seat(t table, bands *[10][]*party, h *held) {
	f.clear(len(t.lanes))
	var tenant, of *allowance
	for i, lane := range t.lanes {
		sit := f.settle(t, lane)
		newTenant := i == 0 || lane.Tenant != t.lanes[i-1].Tenant
		if newTenant {
			tenant = f.allow(t, sit.shareOfTenant, lane.Tenant, "", h)
		}
		if newTenant || lane.Queue != t.lanes[i-1].Queue {
			of = f.allow(t, sit.shareOfQueue, lane.Tenant, lane.Queue, h)
		}
		top := f.join(&bands[bandOf(lane.Priority, t.now.Sub(lane.since), f.aging)], sit.tenant, tenant)
		mid := f.join(&top.below, sit.queue, of)
		leaf := f.join(&mid.below, sit.lane, nil)
		leaf.lane, leaf.most = i, int(min(lane.Backlog, math.MaxInt32))
	}
}

// clear makes room for what a deal with so many lanes needs: pointers into
// these lists stay good until the next one.
func (f *fair) clear(lanes int) {
	if cap(f.parties) < 3*lanes {
		f.parties = make([]party, 0, 4*lanes)
		f.allowances = make([]allowance, 0, 3*lanes)
	}
	f.parties, f.allowances = f.parties[:0], f.allowances[:0]
}

// settle brings the seat of a lane up to date.
func (f *fair) settle(t table, lane waiting) *seat {
	sit := lane.seat
	if sit.lane == nil || sit.tenant.gone || sit.queue.gone || sit.lane.gone {
		sit.tenant = f.owed(account{lane.Tenant, "", -1})
		sit.queue = f.owed(account{lane.Tenant, lane.Queue, -1})
		sit.lane = f.owed(account{lane.Tenant, lane.Queue, lane.Priority})
	}
	if sit.revision != t.revision {
		sit.shareOfTenant, sit.shareOfQueue = t.share(lane.Tenant, ""), t.share(lane.Tenant, lane.Queue)
		sit.revision = t.revision
	}
	for _, d := range []*deficit{sit.tenant, sit.queue, sit.lane} {
		if d.seen+1 < f.deals {
			d.hints = 0 // nothing of it waited meanwhile
		}
		d.seen = f.deals
	}
	return sit
}

func (f *fair) owed(name account) *deficit {
	d := f.accounts[name]
	if d == nil {
		d = &deficit{name: name}
		f.accounts[name] = d
	}
	return d
}

// bandOf is where a lane stands: its priority, less what its head has waited.
func bandOf(priority int, waited, aging time.Duration) int {
	return max(0, priority-int(max(0, waited)/aging))
}

// join is the last of the parties, if it is the one that is meant, else one
// more.
func (f *fair) join(parties *[]*party, owed *deficit, allow *allowance) *party {
	if n := len(*parties); n > 0 && (*parties)[n-1].owed == owed {
		return (*parties)[n-1]
	}
	f.parties = f.parties[:len(f.parties)+1]
	p := &f.parties[len(f.parties)-1]
	*p = party{weight: 1, owed: owed, allow: allow, below: p.below[:0]}
	if allow != nil {
		p.weight = allow.weight
	}
	*parties = append(*parties, p)
	return p
}

// allow is what a tenant or a queue may release now.
func (f *fair) allow(t table, share job.Share, tenant, queue string, h *held) *allowance {
	f.allowances = append(f.allowances, allowance{left: math.MaxInt32, weight: share.Parts()})
	a := &f.allowances[len(f.allowances)-1]
	if share.Paused {
		a.left = 0
		return a
	}
	if most := share.MaxRunning; most > 0 {
		if a.left = max(0, most-t.out(tenant, queue)); a.left == 0 {
			h.capped = true
			return a
		}
	}
	if share.Rate.Limited() {
		a.bucket = f.tokens.bucket(scoped{tenant, queue}, share.Rate, t.now)
		if a.left = min(a.left, a.bucket.whole()); a.left == 0 {
			if at := a.bucket.next(); h.token.IsZero() || at.Before(h.token) {
				h.token = at
			}
		}
	}
	return a
}

// among deals n hints out among the parties by weight, and within each among
// those below. It returns how many it could.
func (f *fair) among(n int, parties []*party, release func(lane, n int)) int {
	for _, p := range parties {
		p.most = p.can()
	}
	given := dealOut(n, parties)
	for _, p := range parties {
		switch {
		case p.got == 0:
			continue
		case p.allow == nil:
			release(p.lane, p.got)
			continue
		}
		f.among(p.got, p.below, release)
		p.allow.left -= p.got
		if p.allow.bucket != nil {
			p.allow.bucket.tokens -= float64(p.got)
		}
	}
	return given
}

// can is how many hints a party can take.
func (p *party) can() int {
	if p.allow == nil {
		return p.most
	}
	sum := 0
	for _, b := range p.below {
		sum = min(sum+b.can(), math.MaxInt32)
	}
	return min(sum, p.allow.left)
}

// dealOut gives each party its part of n by weight, carrying what does not
// come out even over to the next deal. What one cannot take goes to the
// others.
func dealOut(n int, parties []*party) (given int) {
	in := make([]*party, 0, len(parties))
	for _, p := range parties {
		if p.got = 0; p.most > 0 {
			in = append(in, p)
		} else {
			p.owed.hints = 0
		}
	}
	for surplus := float64(n); given < n && len(in) > 0; {
		weights := 0
		for _, p := range in {
			weights += p.weight
		}
		for _, p := range in {
			p.owed.hints += surplus * float64(p.weight) / float64(weights)
			given += p.take(min(int(max(p.owed.hints, 0)), n-given))
		}
		if in, surplus = unfilled(in); surplus > 0 && len(in) > 0 {
			continue
		}
		// What is left are fractions: who is owed most is first, and owes
		// the rest of it from then on.
		for _, p := range mostOwed(in, n-given) {
			given += p.take(1)
		}
		in, surplus = unfilled(in)
	}
	return given
}

// take gives a party up to n hints.
func (p *party) take(n int) int {
	n = min(n, p.most-p.got)
	p.got += n
	p.owed.hints -= float64(n)
	return n
}

// unfilled are those that can take more, and what the others leave over.
func unfilled(in []*party) (rest []*party, surplus float64) {
	rest = in[:0]
	for _, p := range in {
		if p.got < p.most {
			rest = append(rest, p)
			continue
		}
		surplus += max(p.owed.hints, 0)
		p.owed.hints = 0
	}
	return rest, surplus
}

// mostOwed are the n parties that are owed most, or all if there are fewer.
func mostOwed(in []*party, n int) []*party {
	var h byDebt
	for _, p := range in {
		if len(h) < n {
			heap.Push(&h, p)
		} else if n > 0 && h.before(h[0], p) {
			h[0] = p
			heap.Fix(&h, 0)
		}
	}
	return h
}

// byDebt is a heap with the one that is owed least on top.
type byDebt []*party

func (h byDebt) before(a, b *party) bool {
	return cmp.Or(cmp.Compare(a.owed.hints, b.owed.hints), cmp.Compare(a.weight, b.weight),
		-cmp.Compare(a.owed.name.tenant, b.owed.name.tenant), -cmp.Compare(a.owed.name.queue, b.owed.name.queue), -cmp.Compare(a.owed.name.priority, b.owed.name.priority)) < 0
}
func (h byDebt) Len() int           { return len(h) }
func (h byDebt) Less(i, j int) bool { return h.before(h[i], h[j]) }
func (h byDebt) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *byDebt) Push(x any) { *h = append(*h, x.(*party)) }

// Pop implements heap.Interface.
func (h *byDebt) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// giveBack undoes n hints of a turn that came to nothing: they were not there
// any more, or no job needed them.
func (f *fair) giveBack(lane queue.Lane, n int) {
	if n == 0 {
		return
	}
	f.tokens.mu.Lock()
	defer f.tokens.mu.Unlock()
	for _, name := range []account{{lane.Tenant, "", -1}, {lane.Tenant, lane.Queue, -1}, {lane.Tenant, lane.Queue, lane.Priority}} {
		if d := f.accounts[name]; d != nil {
			d.hints += float64(n)
		}
	}
	for _, name := range []scoped{{lane.Tenant, ""}, {lane.Tenant, lane.Queue}} {
		if b := f.tokens.buckets[name]; b != nil {
			b.tokens += float64(n)
		}
	}
}

// forget drops who has not waited for long.
func (f *fair) forget() {
	for name, d := range f.accounts {
		if d.seen+1024 < f.deals {
			d.gone = true
			delete(f.accounts, name)
		}
	}
}

// tokens are the buckets of those whose rate is bounded, one for all pools
// and classes that this process leads. Whoever begins to lead begins with
// full ones.
type tokens struct {
	mu      sync.Mutex
	buckets map[scoped]*bucket
}

func newTokens() *tokens { return &tokens{buckets: map[scoped]*bucket{}} }

// forget drops buckets that are full again: one made anew is, too.
func (t *tokens) forget(now time.Time) {
	for name, b := range t.buckets {
		if b.refill(b.rate, now); b.tokens >= b.rate.Room() {
			delete(t.buckets, name)
		}
	}
}

// bucket of tokens, one for each job that starts.
type bucket struct {
	rate   job.Rate
	tokens float64
	at     time.Time
}

// bucket is that of a tenant or queue.
func (t *tokens) bucket(name scoped, rate job.Rate, now time.Time) *bucket {
	b := t.buckets[name]
	if b == nil {
		b = &bucket{rate: rate, tokens: rate.Room(), at: now}
		t.buckets[name] = b
	}
	b.refill(rate, now)
	return b
}

func (b *bucket) refill(rate job.Rate, now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens += passed.Seconds() * b.rate.PerSecond
		b.at = now
	}
	b.rate = rate
	b.tokens = min(b.tokens, rate.Room())
}

// whole is how many jobs may start now.
func (b *bucket) whole() int { return int(max(0, b.tokens+1e-9)) }

// next is when there will be a token, if there is none.
func (b *bucket) next() time.Time {
	return b.at.Add(time.Duration(math.Ceil((1 - b.tokens) / b.rate.PerSecond * float64(time.Second))))
}
