package api

import (
	"time"

	"github.com/sandlot-dev/sandlot/pkg/backup"
)

// Restored is what a restore has brought.
type Restored struct {
	// ID and CreatedAt are those of the backup.
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	backup.Counts
}
