package frame

// Settings is the worker's answer to Hello. Zero limits mean zero, not "none".
type Settings struct {
	Version uint32
	// Buffer is how many bytes of each output stream the agent holds while the channel is slow, before the program
	// has to wait.
	Buffer uint32
	// SilenceMS is how long the agent goes on in the middle of a step without hearing from its worker.
	SilenceMS uint32
	FileMax   int64 // bytes of one file put
	FilesMax  int64 // bytes of all files of one batch, ended by FilesEnd
	FileCount uint32
}

// Kind is the frame's number.
func (*Settings) Kind() Kind { return KindSettings }

func (f *Settings) walk(w *wire) {
	w.u32(&f.Version)
	w.u32(&f.Buffer)
	w.u32(&f.SilenceMS)
	w.size(&f.FileMax)
	w.size(&f.FilesMax)
	w.u32(&f.FileCount)
}

func (f *Settings) check(w *wire) {
	if f.Buffer < MaxData || f.Buffer > 64<<20 {
		w.fail("output buffer of %d bytes", f.Buffer)
	}
	if f.SilenceMS < 100 || f.SilenceMS > 600_000 {
		w.fail("silence of %d ms", f.SilenceMS)
	}
}

// Beat says that the worker is there. It is sent every second while a step runs.
type Beat struct{}

// Kind is the frame's number.
func (*Beat) Kind() Kind  { return KindBeat }
func (*Beat) walk(*wire)  {}
func (*Beat) check(*wire) {}

// FileOpen begins a file below the work directory. FileData frames of Size bytes in all and a FileEnd follow.
type FileOpen struct {
	Path string // passes CheckPath
	Mode uint32 // permission bits only
	Size int64
}

// Kind is the frame's number.
func (*FileOpen) Kind() Kind { return KindFileOpen }

func (f *FileOpen) walk(w *wire) {
	w.text(&f.Path, MaxPath)
	w.u32(&f.Mode)
	w.size(&f.Size)
}

func (f *FileOpen) check(w *wire) {
	checkFile(w, f.Path, f.Mode)
}

func checkFile(w *wire, path string, mode uint32) {
	if err := CheckPath(path); err != nil {
		w.fail("%s", err)
	}
	if mode&^0o777 != 0 {
		w.fail("mode %o", mode)
	}
}

// FileData is a part of the file opened last.
type FileData struct{ Data []byte }

// Kind is the frame's number.
func (*FileData) Kind() Kind     { return KindFileData }
func (f *FileData) walk(w *wire) { w.data(&f.Data) }
func (*FileData) check(*wire)    {}

// FileEnd closes the file opened last.
type FileEnd struct{}

// Kind is the frame's number.
func (*FileEnd) Kind() Kind  { return KindFileEnd }
func (*FileEnd) walk(*wire)  {}
func (*FileEnd) check(*wire) {}

// FilesEnd ends a batch of files. The agent answers FilesDone, or the first Error of the batch.
type FilesEnd struct{}

// Kind is the frame's number.
func (*FilesEnd) Kind() Kind  { return KindFilesEnd }
func (*FilesEnd) walk(*wire)  {}
func (*FilesEnd) check(*wire) {}

// Limit is one resource limit of a step, soft and hard alike. Resource is Linux's number (RLIMIT_CORE is 4).
type Limit struct {
	Resource uint8
	Value    uint64
}

// StepStart runs a program. One step runs at a time; its number is greater than that of every step before.
type StepStart struct {
	Step   uint32
	Argv   []string // at least the program; looked up in PATH of Env when it has no slash
	Env    []string // the whole environment, NAME=value
	Dir    string   // absolute
	UID    uint32   // not 0
	GID    uint32   // not 0
	Limits []Limit
	Stdin  bool // StdinData and StdinEOF follow; else /dev/null
}

// Kind is the frame's number.
func (*StepStart) Kind() Kind { return KindStepStart }

func (f *StepStart) walk(w *wire) {
	w.u32(&f.Step)
	w.texts(&f.Argv, MaxArgs, MaxArg)
	w.texts(&f.Env, MaxArgs, MaxArg)
	w.text(&f.Dir, MaxPath)
	w.u32(&f.UID)
	w.u32(&f.GID)
	list(w, &f.Limits, MaxLimits, 9, func(l *Limit) {
		w.u8(&l.Resource)
		w.u64(&l.Value)
	})
	w.flag(&f.Stdin)
}

func (f *StepStart) check(w *wire) {
	if len(f.Argv) == 0 || f.Argv[0] == "" {
		w.fail("step without a program")
	}
	if f.Dir == "" || f.Dir[0] != '/' {
		w.fail("work directory %q is not absolute", f.Dir)
	}
	if f.UID == 0 || f.GID == 0 || f.UID > 1<<31 || f.GID > 1<<31 {
		w.fail("step as user %d, group %d", f.UID, f.GID)
	}
	for _, l := range f.Limits {
		if l.Resource > 15 {
			w.fail("resource limit %d", l.Resource)
		}
	}
}

// StdinData is a part of the step's input. The worker keeps within StdinWindow.
type StdinData struct {
	Step uint32
	Data []byte
}

// Kind is the frame's number.
func (*StdinData) Kind() Kind { return KindStdinData }

func (f *StdinData) walk(w *wire) {
	w.u32(&f.Step)
	w.data(&f.Data)
}

func (*StdinData) check(*wire) {}

// StdinEOF closes the step's input once what came before has been taken.
type StdinEOF struct{ Step uint32 }

// Kind is the frame's number.
func (*StdinEOF) Kind() Kind     { return KindStdinEOF }
func (f *StdinEOF) walk(w *wire) { w.u32(&f.Step) }
func (*StdinEOF) check(*wire)    {}

// Signal sends a signal to the step's process group, or SIGKILL to every process of the job when Tree is set. One
// that comes after the step's end is ignored.
type Signal struct {
	Step   uint32
	Number uint8
	Tree   bool
}

// Kind is the frame's number.
func (*Signal) Kind() Kind { return KindSignal }

func (f *Signal) walk(w *wire) {
	w.u32(&f.Step)
	w.u8(&f.Number)
	w.flag(&f.Tree)
}

func (f *Signal) check(w *wire) {
	if f.Number == 0 || f.Number > 64 || f.Tree && f.Number != 9 {
		w.fail("signal %d", f.Number)
	}
}

// Collect asks for the regular files below the work directory whose relative path matches one of the globs.
type Collect struct {
	Globs []string // pass CheckGlob
	Files uint32   // most files
	Bytes int64    // most bytes, all files together
}

// Kind is the frame's number.
func (*Collect) Kind() Kind { return KindCollect }

func (f *Collect) walk(w *wire) {
	w.texts(&f.Globs, MaxGlobs, MaxGlob)
	w.u32(&f.Files)
	w.size(&f.Bytes)
}

func (f *Collect) check(w *wire) {
	for _, g := range f.Globs {
		if err := CheckGlob(g); err != nil {
			w.fail("%s", err)
		}
	}
}

// Shutdown ends the sandbox.
type Shutdown struct{}

// Kind is the frame's number.
func (*Shutdown) Kind() Kind  { return KindShutdown }
func (*Shutdown) walk(*wire)  {}
func (*Shutdown) check(*wire) {}
