package frame

// Layout says what backs the writable directories inside the sandbox.
type Layout uint8

// The layouts.
const (
	// OneDisk: all of them are directories of one tmpfs, whose size is the limit of all together.
	OneDisk Layout = 1
	// ManyDisks: a tmpfs each, every one with the whole limit as its size.
	ManyDisks Layout = 2
)

// Hello is the agent's first frame: its version and what it finds around it.
type Hello struct {
	Version      uint32
	Layout       Layout
	Disk         int64    // bytes of the disk
	RootReadonly bool     // the image's file system refuses writes
	Kernel       string   // release as uname has it
	Machine      string   // architecture as uname has it
	CPUs         uint32   // as seen inside
	Notes        []string // what was not as expected and was worked around
}

// Kind is the frame's number.
func (*Hello) Kind() Kind { return KindHello }

func (f *Hello) walk(w *wire) {
	w.u32(&f.Version)
	w.u8((*uint8)(&f.Layout))
	w.size(&f.Disk)
	w.flag(&f.RootReadonly)
	w.text(&f.Kernel, MaxName)
	w.text(&f.Machine, MaxName)
	w.u32(&f.CPUs)
	w.texts(&f.Notes, MaxNotes, MaxText)
}

func (f *Hello) check(w *wire) {
	if f.Layout != OneDisk && f.Layout != ManyDisks {
		w.fail("layout %d", f.Layout)
	}
}

// FilesDone answers FilesEnd: all files of the batch are there.
type FilesDone struct {
	Count uint32
	Bytes int64
}

// Kind is the frame's number.
func (*FilesDone) Kind() Kind { return KindFilesDone }

func (f *FilesDone) walk(w *wire) {
	w.u32(&f.Count)
	w.size(&f.Bytes)
}

func (*FilesDone) check(*wire) {}

// StepStarted says that the step's program is about to run its first instruction.
type StepStarted struct{ Step uint32 }

// Kind is the frame's number.
func (*StepStarted) Kind() Kind     { return KindStepStarted }
func (f *StepStarted) walk(w *wire) { w.u32(&f.Step) }
func (*StepStarted) check(*wire)    {}

// StdinTaken gives back that many bytes of the window: they were written to the program, or it reads no more.
type StdinTaken struct {
	Step  uint32
	Bytes uint32
}

// Kind is the frame's number.
func (*StdinTaken) Kind() Kind { return KindStdinTaken }

func (f *StdinTaken) walk(w *wire) {
	w.u32(&f.Step)
	w.u32(&f.Bytes)
}

func (f *StdinTaken) check(w *wire) {
	if f.Bytes == 0 || f.Bytes > StdinWindow {
		w.fail("%d bytes of stdin taken", f.Bytes)
	}
}

// Output is a part of an output stream. Seq counts from 0 in each stream of each step, without gaps.
type Output struct {
	Step   uint32
	Stream Stream
	Seq    uint64
	Data   []byte
}

// Kind is the frame's number.
func (*Output) Kind() Kind { return KindOutput }

func (f *Output) walk(w *wire) {
	w.u32(&f.Step)
	f.Stream.walk(w)
	w.u64(&f.Seq)
	w.data(&f.Data)
}

func (*Output) check(*wire) {}

// OutputEOF ends a stream and repeats what it carried.
type OutputEOF struct {
	Step   uint32
	Stream Stream
	Chunks uint64
	Bytes  int64
}

// Kind is the frame's number.
func (*OutputEOF) Kind() Kind { return KindOutputEOF }

func (f *OutputEOF) walk(w *wire) {
	w.u32(&f.Step)
	f.Stream.walk(w)
	w.u64(&f.Chunks)
	w.size(&f.Bytes)
}

func (*OutputEOF) check(*wire) {}

// StepExit ends a step: no process of the job is left, and both streams have ended before.
type StepExit struct {
	Step     uint32
	Code     uint8 // exit code; 0 when Signal is not
	Signal   uint8 // signal that ended the program, 0 if it exited
	UserUS   int64 // CPU time of all processes of the step that ended
	SystemUS int64
	MaxRSS   int64 // bytes, of the largest process, as the guest's kernel counts it
	WallUS   int64 // by the agent's clock
	Left     uint32
	DiskFree int64 // bytes free on the disk at the end
	Disk     int64 // bytes of the disk
}

// Kind is the frame's number.
func (*StepExit) Kind() Kind { return KindStepExit }

func (f *StepExit) walk(w *wire) {
	w.u32(&f.Step)
	w.u8(&f.Code)
	w.u8(&f.Signal)
	w.size(&f.UserUS)
	w.size(&f.SystemUS)
	w.size(&f.MaxRSS)
	w.size(&f.WallUS)
	w.u32(&f.Left)
	w.size(&f.DiskFree)
	w.size(&f.Disk)
}

func (f *StepExit) check(w *wire) {
	if f.Signal > 64 || f.Signal != 0 && f.Code != 0 {
		w.fail("exit code %d with signal %d", f.Code, f.Signal)
	}
}

// ArtifactOpen begins a collected file. ArtifactData frames and an ArtifactEnd follow.
type ArtifactOpen struct {
	Path string // passes CheckPath
	Mode uint32
	Size int64
}

// Kind is the frame's number.
func (*ArtifactOpen) Kind() Kind { return KindArtifactOpen }

func (f *ArtifactOpen) walk(w *wire) {
	w.text(&f.Path, MaxPath)
	w.u32(&f.Mode)
	w.size(&f.Size)
}

func (f *ArtifactOpen) check(w *wire) {
	checkFile(w, f.Path, f.Mode)
}

// ArtifactData is a part of the artifact opened last.
type ArtifactData struct{ Data []byte }

// Kind is the frame's number.
func (*ArtifactData) Kind() Kind     { return KindArtifactData }
func (f *ArtifactData) walk(w *wire) { w.data(&f.Data) }
func (*ArtifactData) check(*wire)    {}

// ArtifactEnd closes the artifact opened last, all of its Size bytes sent.
type ArtifactEnd struct{}

// Kind is the frame's number.
func (*ArtifactEnd) Kind() Kind  { return KindArtifactEnd }
func (*ArtifactEnd) walk(*wire)  {}
func (*ArtifactEnd) check(*wire) {}

// SkipReason says why a matching file was not collected.
type SkipReason uint8

// The reasons.
const (
	SkipCount  SkipReason = 1 // more files than asked for
	SkipBytes  SkipReason = 2 // would pass the byte cap
	SkipType   SkipReason = 3 // not a regular file
	SkipName   SkipReason = 4 // the name does not pass CheckPath
	SkipUnread SkipReason = 5 // could not be opened by the job's user
	SkipWalk   SkipReason = 6 // the tree is too large to be walked to its end
)

// Skip is one file that was not collected. Path is empty for SkipName and SkipWalk.
type Skip struct {
	Path   string
	Reason SkipReason
}

// CollectDone answers Collect.
type CollectDone struct {
	Files   uint32
	Bytes   int64
	Skipped uint32 // how many in all
	Skips   []Skip // the first of them
}

// Kind is the frame's number.
func (*CollectDone) Kind() Kind { return KindCollectDone }

func (f *CollectDone) walk(w *wire) {
	w.u32(&f.Files)
	w.size(&f.Bytes)
	w.u32(&f.Skipped)
	list(w, &f.Skips, MaxSkipped, 5, func(s *Skip) {
		w.text(&s.Path, MaxPath)
		w.u8((*uint8)(&s.Reason))
	})
}

func (f *CollectDone) check(w *wire) {
	if uint32(len(f.Skips)) > f.Skipped {
		w.fail("%d files skipped, %d named", f.Skipped, len(f.Skips))
	}
	for _, s := range f.Skips {
		if s.Reason < SkipCount || s.Reason > SkipWalk {
			w.fail("skip reason %d", s.Reason)
		}
	}
}

// ErrorCode tells the worker what kind of thing went wrong in the agent.
type ErrorCode uint8

// The codes. After CodeProtocol and CodeSetup the agent is gone; after the others it goes on.
const (
	CodeProtocol ErrorCode = 1 // the worker sent what it may not
	CodeSetup    ErrorCode = 2 // the sandbox's directories could not be made
	CodeFile     ErrorCode = 3 // a file could not be put
	CodeDiskFull ErrorCode = 4 // a file did not fit the disk
	CodeLaunch   ErrorCode = 5 // a step could not be started, through no fault of its program
	CodeCollect  ErrorCode = 6 // artifacts could not be read
)

// Error says that the agent could not do what it was last asked for. Path is the file concerned, if one is.
type Error struct {
	Code ErrorCode
	Path string
	Text string
}

// Kind is the frame's number.
func (*Error) Kind() Kind { return KindError }

func (f *Error) walk(w *wire) {
	w.u8((*uint8)(&f.Code))
	w.text(&f.Path, MaxPath)
	w.text(&f.Text, MaxText)
}

func (f *Error) check(w *wire) {
	if f.Code < CodeProtocol || f.Code > CodeCollect {
		w.fail("error code %d", f.Code)
	}
}
