package client

import (
	"context"
	"io"
	"net/http"

	"github.com/sandlot-dev/sandlot/pkg/api"
)

// Backup streams all state of the server; for the operator. See pkg/backup
// for what it is, and for how to know that it is whole.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	return c.open(ctx, request{path: path("backup")})
}

// Restore fills an empty server from a backup of so many bytes; for the
// operator. One that was cut off is finished by doing it again. The progress,
// if any, is told how many bytes are sent so far.
func (c *Client) Restore(ctx context.Context, backup io.Reader, size int64, progress func(sent int64)) (api.Restored, error) {
	var r api.Restored
	return r, c.call(ctx, request{
		method: http.MethodPost, path: path("restore"), once: true,
		stream: &meter{reader: backup, progress: progress}, size: size, contentType: "application/x-tar",
	}, &r)
}
