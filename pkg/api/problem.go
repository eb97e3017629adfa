package api

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/pkg/job"
)

// ProblemType is the media type of a Problem.
const ProblemType = "application/problem+json"

// Problem is an error as a client sees it (RFC 9457). It names what is wrong
// and what to do about it; internals stay in the server's log.
type Problem struct {
	// Type is a stable word for programs: "urn:sandlot:invalid".
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Errors lists every field that is wrong, all at once.
	Errors []FieldError `json:"errors,omitempty"`
	// RetryAfter is when it makes sense to try again; 0: never as it is.
	RetryAfter job.Millis `json:"retry_after_ms,omitempty"`
}

// FieldError is what is wrong with one field.
type FieldError struct {
	// Location is the path of the field: "limits.memory", "steps[1].command".
	Location string `json:"location"`
	// Message says what is wrong and how to write it.
	Message string `json:"message"`
	Value   any    `json:"value,omitempty"`
}

// Types of problems.
const (
	TypeSyntax       = "urn:sandlot:syntax"
	TypeInvalid      = "urn:sandlot:invalid"
	TypeTooLarge     = "urn:sandlot:too-large"
	TypeUnauthorized = "urn:sandlot:unauthorized"
	TypeForbidden    = "urn:sandlot:forbidden"
	TypeNotFound     = "urn:sandlot:not-found"
	TypeGone         = "urn:sandlot:gone"
	TypeMethod       = "urn:sandlot:method"
	TypeSchema       = "urn:sandlot:schema"
	TypeConflict     = "urn:sandlot:conflict"
	TypeNotFinal     = "urn:sandlot:not-final"
	TypeFull         = "urn:sandlot:full"
	TypeUnfit        = "urn:sandlot:unfit"
	TypeUnavailable  = "urn:sandlot:unavailable"
	TypeInternal     = "urn:sandlot:internal"
)

// NewProblem makes a problem of the given type.
func NewProblem(status int, kind, format string, args ...any) *Problem {
	return &Problem{Type: kind, Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// Error is the problem in one line.
func (p *Problem) Error() string {
	parts := make([]string, 0, len(p.Errors)+1)
	if p.Detail != "" {
		parts = append(parts, p.Detail)
	} else if len(p.Errors) == 0 {
		parts = append(parts, p.Title)
	}
	for _, e := range p.Errors {
		parts = append(parts, strings.TrimPrefix(e.Location+": "+e.Message, ": "))
	}
	return strings.Join(parts, "; ")
}

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of the body, whatever the client asked for.
func (p *Problem) ContentType(string) string { return ProblemType }

// GetHeaders are the headers that go with the problem.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.RetryAfter > 0 {
		seconds := (p.RetryAfter.Duration() + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="sandlot"`)
	}
	return h
}
