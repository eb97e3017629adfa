package gvisor

// What tests look at from outside.
var (
	OpenErofs = openErofs
	ErofsFile = (*erofsStore).file
)
