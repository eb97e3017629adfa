package client

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// Schedules lists the schedules of the tenant.
func (c *Client) Schedules(ctx context.Context) ([]api.Schedule, error) {
	var s api.Schedules
	err := c.call(ctx, request{path: path("schedules")}, &s)
	return s.Schedules, err
}

// Schedule is one of them.
func (c *Client) Schedule(ctx context.Context, name string) (api.Schedule, error) {
	var s api.Schedule
	return s, c.call(ctx, request{path: path("schedules", name)}, &s)
}

// SetSchedule makes a schedule, or changes it.
func (c *Client) SetSchedule(ctx context.Context, name string, settings api.ScheduleSettings) (api.Schedule, error) {
	var s api.Schedule
	return s, c.put(ctx, path("schedules", name), settings, &s)
}

// RemoveSchedule removes a schedule; its jobs stay.
func (c *Client) RemoveSchedule(ctx context.Context, name string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("schedules", name)}, nil)
}

// RunSchedule submits the job of a schedule now, beside its ticks. With wait
// > 0 the answer is held back until it has ended or the time is over.
func (c *Client) RunSchedule(ctx context.Context, name string, wait time.Duration) (api.Job, error) {
	var j api.Job
	r := request{method: http.MethodPost, path: path("schedules", name, "run"), query: waitQuery(wait)}
	r.header = http.Header{"Idempotency-Key": {"auto-" + uuid.NewString()}}
	return j, c.call(ctx, r, &j)
}
