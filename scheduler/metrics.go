package scheduler

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/queue"
	"github.com/sandlot-dev/sandlot/pkg/telemetry"
)

// metrics are what Prometheus is told. Counts of jobs come from the index at
// the moment of asking.
type metrics struct {
	registry *prometheus.Registry
	accepted *prometheus.CounterVec
	refused  *prometheus.CounterVec
	redriven *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	ticks    *prometheus.CounterVec
}

func newMetrics(s *Scheduler) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: telemetry.MetricAccepted, Help: "Jobs accepted."}, []string{"tenant", "queue"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: telemetry.MetricRefused, Help: "Submits refused, lines of batches among them; reason is the last word of the problem's type."}, []string{"tenant", "code", "reason"}),
		ticks:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: telemetry.MetricTicks, Help: "Ticks of schedules dealt with by this scheduler: fired, passed over (overlap, missed), unknown, or refused, by the last word of the problem's type. Missed ones that are passed over together count once."}, []string{"tenant", "outcome"}),
		redriven: prometheus.NewCounterVec(prometheus.CounterOpts{Name: telemetry.MetricRedriven, Help: "New jobs made of dead ones."}, []string{"tenant", "queue"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: telemetry.MetricHTTPSeconds, Help: "Time from request to answer, waits included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "code"}),
	}
	m.registry.MustRegister(m.accepted, m.refused, m.redriven, m.seconds, m.ticks, view{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) observe(route string, status int, d time.Duration) {
	m.seconds.WithLabelValues(route, strconv.Itoa(status)).Observe(d.Seconds())
}

// view collects what the scheduler sees.
type view struct{ s *Scheduler }

var (
	descFinal   = prometheus.NewDesc(telemetry.MetricFinal, "Jobs that ended since the start.", []string{"state", "blame", "reason"}, nil)
	descBacklog = prometheus.NewDesc(telemetry.MetricBacklog, "Jobs that have not ended.", []string{"tenant", "queue", "state"}, nil)
	descRecords = prometheus.NewDesc(telemetry.MetricRecords, "Jobs that lists know.", nil, nil)
	descWorkers = prometheus.NewDesc(telemetry.MetricWorkers, "Registered workers.", []string{"pool", "state"}, nil)
	descSlots   = prometheus.NewDesc(telemetry.MetricSlots, "Slots of a worker.", []string{"pool", "worker"}, nil)
	descLead    = map[string]*prometheus.Desc{
		telemetry.MetricLost:           prometheus.NewDesc(telemetry.MetricLost, "Workers found lost by this scheduler.", nil, nil),
		telemetry.MetricRetried:        prometheus.NewDesc(telemetry.MetricRetried, "Attempts of lost workers given to others.", nil, nil),
		telemetry.MetricSpilled:        prometheus.NewDesc(telemetry.MetricSpilled, "Jobs that waited too long where their image prefers and spilled over to another pool.", nil, nil),
		telemetry.MetricReconcileFinds: prometheus.NewDesc(telemetry.MetricReconcileFinds, "Hints that were missing and given again.", nil, nil),
		telemetry.MetricLogsDropped:    prometheus.NewDesc(telemetry.MetricLogsDropped, "Chunks of logs that this process dropped.", nil, nil),
	}
	descReleased = prometheus.NewDesc(telemetry.MetricReleased, "Hints released by this scheduler.", []string{"tenant"}, nil)
	descDemand   = prometheus.NewDesc(telemetry.MetricDemand, "Jobs that ask for a slot of the class: those that wait for their turn, are released, or run.", []string{"pool", "class"}, nil)
	descDead     = prometheus.NewDesc(telemetry.MetricDead, "Entries of the index of dead jobs.", []string{"pool", "tenant"}, nil)
	descSpares   = []*prometheus.Desc{
		prometheus.NewDesc(telemetry.MetricSparesReady, "Sandboxes of a worker that were booted ahead and wait for a job.", []string{"pool", "worker"}, nil),
		prometheus.NewDesc(telemetry.MetricSpareHits, "Jobs of a worker that found a sandbox ready, since it started.", []string{"pool", "worker"}, nil),
		prometheus.NewDesc(telemetry.MetricSpareMisses, "Jobs of a worker that had to boot a sandbox, since it started.", []string{"pool", "worker"}, nil),
		prometheus.NewDesc(telemetry.MetricSparesDropped, "Sandboxes of a worker that were booted ahead in vain, since it started.", []string{"pool", "worker"}, nil),
	}
	descBusy = prometheus.NewDesc(telemetry.MetricBusy, "Slots of a worker that hold a job.", []string{"pool", "worker"}, nil)
)

// Describe implements prometheus.Collector.
func (v view) Describe(out chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{descFinal, descBacklog, descRecords, descWorkers, descSlots, descBusy, descReleased, descDemand, descDead}, descSpares...) {
		out <- d
	}
	for _, d := range descLead {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (v view) Collect(out chan<- prometheus.Metric) {
	x := v.s.index
	x.mu.RLock()
	for k, n := range x.finals {
		out <- prometheus.MustNewConstMetric(descFinal, prometheus.CounterValue, float64(n), string(k.state), string(k.blame), string(k.reason))
	}
	for name, q := range x.queues {
		for state, n := range q.states {
			if !state.Final() {
				out <- prometheus.MustNewConstMetric(descBacklog, prometheus.GaugeValue, float64(n), name.tenant, name.name, string(state))
			}
		}
	}
	out <- prometheus.MustNewConstMetric(descRecords, prometheus.GaugeValue, float64(len(x.entries)))
	x.mu.RUnlock()

	lead := &v.s.lead.Counters
	for name, n := range map[string]int64{
		telemetry.MetricLost: lead.Lost.Load(), telemetry.MetricRetried: lead.Abandoned.Load(),
		telemetry.MetricSpilled: lead.Spilled.Load(), telemetry.MetricReconcileFinds: lead.Restored.Load(), telemetry.MetricLogsDropped: v.s.Queue.DroppedLogs(),
	} {
		out <- prometheus.MustNewConstMetric(descLead[name], prometheus.CounterValue, float64(n))
	}

	for tenant, n := range lead.ReleasedByTenant() {
		out <- prometheus.MustNewConstMetric(descReleased, prometheus.CounterValue, float64(n), tenant)
	}
	v.collectDemand(out)
	v.collectDead(out)

	kinds := map[[2]string]int{}
	for _, w := range v.s.workers.all() {
		one := viewWorker(w)
		kinds[[2]string{one.Pool, one.State}]++
		out <- prometheus.MustNewConstMetric(descSlots, prometheus.GaugeValue, float64(one.Slots), one.Pool, one.ID)
		out <- prometheus.MustNewConstMetric(descBusy, prometheus.GaugeValue, float64(one.Busy), one.Pool, one.ID)
		if s := one.Spares; s != nil {
			for i, n := range []int64{int64(s.Ready), s.Hits, s.Misses, s.Dropped} {
				out <- prometheus.MustNewConstMetric(descSpares[i], prometheus.GaugeValue, float64(n), one.Pool, one.ID)
			}
		}
	}
	for k, n := range kinds {
		out <- prometheus.MustNewConstMetric(descWorkers, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
}

// collectDemand counts what asks for a slot in the streams themselves, so
// that every scheduler tells the same whichever leads. When they cannot be
// asked it tells nothing: a demand of zero would take workers away.
func (v view) collectDemand(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), demandTime)
	defer cancel()
	demand, err := v.s.lead.demand(ctx)
	if err != nil {
		v.s.log.Warn("count demand", "error", err)
		return
	}
	for name, n := range demand {
		out <- prometheus.MustNewConstMetric(descDemand, prometheus.GaugeValue, float64(n), name.pool, name.class)
	}
}

// collectDead counts the index of dead jobs, which all schedulers share.
func (v view) collectDead(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), demandTime)
	defer cancel()
	counts, err := v.s.Queue.CountDead(ctx)
	if err != nil {
		v.s.log.Warn("count dead jobs", "error", err)
		return
	}
	for _, c := range counts {
		out <- prometheus.MustNewConstMetric(descDead, prometheus.GaugeValue, float64(c.Entries), c.Pool, c.Tenant)
	}
}

// demandTime is how long the streams may take to answer one who collects.
const demandTime = 3 * time.Second

type poolClass struct{ pool, class string }

// demand counts the jobs of each class of each pool that wait for their turn,
// are released, or run.
func (l *Lead) demand(ctx context.Context) (map[poolClass]uint64, error) {
	lanes, err := l.Queue.Lanes(ctx, queue.EveryPool, queue.EveryClass)
	if err != nil {
		return nil, err
	}
	demand := map[poolClass]uint64{}
	for _, one := range lanes {
		demand[poolClass{one.Pool, one.Class}] += one.Backlog
	}
	for _, pool := range l.led.list() {
		for _, c := range pool.Classes {
			demand[poolClass{pool.Name, c.Name}] += 0 // told even if there is none
		}
		released, err := l.Queue.Out(ctx, pool.Name)
		if err != nil {
			return nil, err
		}
		for _, o := range released {
			demand[poolClass{pool.Name, o.Class}] += o.Hints
		}
	}
	return demand, nil
}

// refuse counts a submit that came to nothing.
func (m *metrics) refuse(ctx context.Context, p *api.Problem) {
	tenant := ""
	if who, ok := ctx.Value(callerKey{}).(caller); ok {
		tenant = who.tenant
	}
	reason := p.Type[strings.LastIndex(p.Type, ":")+1:]
	m.refused.WithLabelValues(tenant, strconv.Itoa(p.Status), reason).Inc()
}
