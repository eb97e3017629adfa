package image

// Event is one thing to tell somebody who waits for an image.
type Event struct {
	// Image is the name or reference that was asked for.
	Image string
	// Stage is what is being done now.
	Stage Stage
	// Detail is a few words more; may be empty.
	Detail string
	// Done of Total is how far the stage is, in bytes or steps; Total is 0
	// while it is unknown.
	Done, Total int64
}

// Stage is a part of the way to an archive.
type Stage string

// The stages, in the order in which they can come.
const (
	StageWait     Stage = "wait"     // another process builds the same image
	StageProbe    Stage = "probe"    // asking the registry
	StageInstall  Stage = "install"  // installing what building needs
	StagePackages Stage = "packages" // fetching and unpacking packages
	StageFixup    Stage = "fix-up"   // the recipe's steps, in a sandbox
	StagePack     Stage = "pack"     // writing the archive
	StagePull     Stage = "pull"     // copying from the registry
	StageVerify   Stage = "verify"   // checking digests
	StageReady    Stage = "ready"
)

// reporter sends events of one image.
type reporter struct {
	image string
	send  func(Event)
}

func (r reporter) say(stage Stage, detail string) { r.count(stage, detail, 0, 0) }

func (r reporter) count(stage Stage, detail string, done, total int64) {
	if r.send != nil {
		r.send(Event{Image: r.image, Stage: stage, Detail: detail, Done: done, Total: total})
	}
}
