package scheduler

import (
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// explainShare names what is set for the tenant or the queue of a job that
// keeps it waiting now.
func (s *Scheduler) explainShare(rec job.Record) []string {
	var told []string
	for _, of := range []struct{ queue, what, set string }{
		{"", fmt.Sprintf("tenant %q", rec.Tenant), "tenants set " + rec.Tenant},
		{rec.Queue, fmt.Sprintf("queue %q", rec.Queue), "queues set " + rec.Queue},
	} {
		share := s.settings.share(rec.Tenant, of.queue)
		_, running := s.index.unfinished(rec.Tenant, of.queue)
		if share.Paused {
			told = append(told, fmt.Sprintf("It waits because %s is paused; `sandlot %s --paused=false` lets it go on.", of.what, of.set))
		}
		if share.MaxRunning > 0 && running >= share.MaxRunning {
			told = append(told, fmt.Sprintf("It waits because %s is at its cap of running jobs, %d of %d; `sandlot %s --max-running N` changes it.", of.what, running, share.MaxRunning, of.set))
		}
		if share.Rate.Limited() {
			told = append(told, fmt.Sprintf("At most %g jobs of %s start in a second, and %g at once.", share.Rate.PerSecond, of.what, share.Rate.Room()))
		}
	}
	return told
}

// explainTurn says behind whom a job waits: of its own tenant those before it
// in line, of others their part by weight. It names no other tenant, and of
// jobs that are not its own only how many parts they have.
func (s *Scheduler) explainTurn(rec job.Record, now time.Time) string {
	text := fmt.Sprintf("It has waited for %s", ago(now, rec.AcceptedAt))
	own := s.index.ahead(rec.Tenant, rec.Priority, rec.AcceptedAt, rec.ID, now)
	if own > 0 {
		text += fmt.Sprintf(", with %s of its tenant of the same or a better priority before it", jobs(own))
	} else {
		text += " and is the next of its tenant"
	}
	if band := bandOf(rec.Priority, now.Sub(rec.AcceptedAt), s.lead.Aging); band < rec.Priority {
		text += fmt.Sprintf("; by waiting it has risen from priority %d to %d", rec.Priority, band)
	}
	parts, all, others := s.parts(rec.Tenant)
	if others == 0 {
		return text + "."
	}
	return fmt.Sprintf("%s; other tenants with waiting jobs: %d, and its own has %d of %d parts, %.0f %%.", text, others, parts, all, 100*float64(parts)/float64(all))
}

// parts are those of a tenant, and of all who wait together.
func (s *Scheduler) parts(tenant string) (its, all, others int) {
	its = s.settings.share(tenant, "").Parts()
	all = its
	for _, id := range s.index.waitingTenants() {
		if id != tenant {
			all += s.settings.share(id, "").Parts()
			others++
		}
	}
	return its, all, others
}
