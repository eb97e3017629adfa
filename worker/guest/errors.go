package guest

import (
	"errors"
	"fmt"

	"github.com/sandlot-dev/sandlot/pkg/frame"
)

// What can end a session, or a step.
var (
	// ErrProtocol: the agent sent what it may not. The sandbox is at fault, or somebody in it has taken the agent over.
	ErrProtocol = errors.New("agent broke the protocol")
	// ErrGone: the agent's end of the channel closed.
	ErrGone = errors.New("agent is gone")
	// ErrStuck: the agent did not end a step in time after it had been told to.
	ErrStuck = errors.New("agent does not answer")
	// ErrClosed: the session was closed on this side.
	ErrClosed = errors.New("session is closed")

	// ErrWall, in Exit.Stopped: the step ran for longer than its limit.
	ErrWall = errors.New("wall time limit reached")
	// ErrOutput, in Exit.Stopped: the step wrote more than its limit.
	ErrOutput = errors.New("output limit reached")
)

// AgentError is a failure that the agent reports of itself.
type AgentError struct {
	Code frame.ErrorCode
	Path string // of the file concerned, if one is
	Text string
}

func (e *AgentError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("agent: %s: %s", e.Path, e.Text)
	}
	return "agent: " + e.Text
}

func agentError(f *frame.Error) error {
	return &AgentError{Code: f.Code, Path: f.Path, Text: f.Text}
}

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
