package frame

// Version is the number of the protocol. Worker and agent must have the same one: they are shipped together.
const Version = 1

// Bounds of single values. Totals (all files, all output) are the worker's settings.
const (
	MaxData    = 32 << 10 // bytes in one data frame
	MaxPath    = 4096     // bytes of a path, as in Linux
	MaxName    = 255      // bytes of one path component
	MaxArgs    = 4096     // arguments of a step, and entries of its environment
	MaxArg     = 128 << 10
	MaxGlobs   = 64
	MaxGlob    = 1024
	MaxLimits  = 16
	MaxText    = 4096
	MaxNotes   = 16
	MaxSkipped = 100

	// StdinWindow is how many bytes of stdin may be on their way without a StdinTaken.
	StdinWindow = 256 << 10
)

const (
	headerSize = 5
	maxSmall   = 64 << 10 // payload of every frame but StepStart
	maxStart   = 1 << 20
)

// Kind is the number of a frame type on the wire.
type Kind uint8

// From worker to agent.
const (
	KindSettings  Kind = 1
	KindBeat      Kind = 2
	KindFileOpen  Kind = 3
	KindFileData  Kind = 4
	KindFileEnd   Kind = 5
	KindFilesEnd  Kind = 6
	KindStepStart Kind = 7
	KindStdinData Kind = 8
	KindStdinEOF  Kind = 9
	KindSignal    Kind = 10
	KindCollect   Kind = 11
	KindShutdown  Kind = 12
)

// From agent to worker.
const (
	KindHello        Kind = 65
	KindFilesDone    Kind = 66
	KindStepStarted  Kind = 67
	KindStdinTaken   Kind = 68
	KindOutput       Kind = 69
	KindOutputEOF    Kind = 70
	KindStepExit     Kind = 71
	KindArtifactOpen Kind = 72
	KindArtifactData Kind = 73
	KindArtifactEnd  Kind = 74
	KindCollectDone  Kind = 75
	KindError        Kind = 76
)

// Side is one end of the channel.
type Side uint8

// The two ends.
const (
	Worker Side = 1
	Agent  Side = 2
)

// sender tells which end sends frames of this kind.
func (k Kind) sender() Side {
	if k < 64 {
		return Worker
	}
	return Agent
}

// maxPayload is the bound of the frame's length field.
func (k Kind) maxPayload() int {
	if k == KindStepStart {
		return maxStart
	}
	return maxSmall
}

// empty gives a zero frame of the kind, nil for an unknown one.
func (k Kind) empty() Frame {
	switch k {
	case KindSettings:
		return &Settings{}
	case KindBeat:
		return &Beat{}
	case KindFileOpen:
		return &FileOpen{}
	case KindFileData:
		return &FileData{}
	case KindFileEnd:
		return &FileEnd{}
	case KindFilesEnd:
		return &FilesEnd{}
	case KindStepStart:
		return &StepStart{}
	case KindStdinData:
		return &StdinData{}
	case KindStdinEOF:
		return &StdinEOF{}
	case KindSignal:
		return &Signal{}
	case KindCollect:
		return &Collect{}
	case KindShutdown:
		return &Shutdown{}
	case KindHello:
		return &Hello{}
	case KindFilesDone:
		return &FilesDone{}
	case KindStepStarted:
		return &StepStarted{}
	case KindStdinTaken:
		return &StdinTaken{}
	case KindOutput:
		return &Output{}
	case KindOutputEOF:
		return &OutputEOF{}
	case KindStepExit:
		return &StepExit{}
	case KindArtifactOpen:
		return &ArtifactOpen{}
	case KindArtifactData:
		return &ArtifactData{}
	case KindArtifactEnd:
		return &ArtifactEnd{}
	case KindCollectDone:
		return &CollectDone{}
	case KindError:
		return &Error{}
	}
	return nil
}
