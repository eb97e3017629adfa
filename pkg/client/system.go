package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// Workers lists the workers.
func (c *Client) Workers(ctx context.Context) ([]api.Worker, error) {
	var w api.Workers
	err := c.call(ctx, request{path: path("workers")}, &w)
	return w.Workers, err
}

// Images lists the images that are stored, and those of the catalogue.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	var i api.Images
	err := c.call(ctx, request{path: path("images")}, &i)
	return i.Images, err
}

// PutImage stores an OCI archive under a name. The progress, if any, is told
// how many bytes are sent so far.
func (c *Client) PutImage(ctx context.Context, name string, archive io.Reader, size int64, progress func(sent int64)) (api.Image, error) {
	var i api.Image
	r := request{
		method: http.MethodPut, path: path("images", name), once: true,
		stream: &meter{reader: archive, progress: progress}, size: size, contentType: "application/x-tar",
	}
	return i, c.call(ctx, r, &i)
}

// SetImage says where jobs of an image go that name no pool. For the operator.
func (c *Client) SetImage(ctx context.Context, name string, settings api.ImageSettings) (api.Image, error) {
	var i api.Image
	body, err := json.Marshal(settings)
	if err != nil {
		return i, err
	}
	return i, c.call(ctx, request{method: http.MethodPatch, path: path("images", name), body: body, contentType: "application/json"}, &i)
}

// DeleteImage forgets a name. Jobs that were accepted with it may fail.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: path("images", name)}, nil)
}

// Version names the server.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var v api.Version
	return v, c.call(ctx, request{path: path("version")}, &v)
}

// Health asks once whether the server is ready to accept jobs. One that is
// not says why, and that is no error.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var h api.Health
	response, err := c.do(ctx, request{path: "/readyz"})
	if err != nil {
		return h, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&h); err != nil || h.Status == "" {
		return h, fmt.Errorf("no sandlot server answers at %s, but something else: %s", c.base, response.Status)
	}
	return h, nil
}

// meter counts what is read.
type meter struct {
	reader   io.Reader
	progress func(int64)
	sent     int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.reader.Read(p)
	m.sent += int64(n)
	if m.progress != nil && n > 0 {
		m.progress(m.sent)
	}
	return n, err
}
