// Package images holds the recipes of Sandlot's own images, as data: a JSON
// file per image, and the script that turns unpacked packages into a root
// file system. pkg/image reads and builds them; README.md says how to add one.
package images

import "embed"

// Files are the recipes and the script.
//
//go:embed *.json fixup.sh
var Files embed.FS
