package image

// What tests look at from outside.
var (
	WriteTree   = writeTree
	HostSources = hostSources
)
