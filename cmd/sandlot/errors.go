package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sandlot-dev/sandlot/pkg/api"
	"github.com/sandlot-dev/sandlot/pkg/client"
)

// explainError is err as a person reads it: what is wrong, every field that
// is, and what to do.
func explainError(err error) string {
	if problem, ok := errors.AsType[*api.Problem](err); ok {
		return explainProblem(problem)
	}
	if away, ok := errors.AsType[*client.Unreachable](err); ok {
		return noServerError{tried: away.Server, why: away.Err}.Error()
	}
	return err.Error()
}

func explainProblem(p *api.Problem) string {
	var b strings.Builder
	b.WriteString(p.Title)
	if p.Detail != "" {
		fmt.Fprintf(&b, ": %s", p.Detail)
	}
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", dash(e.Location), e.Message)
		if e.Value != nil {
			fmt.Fprintf(&b, " (you wrote %v)", e.Value)
		}
	}
	if p.RetryAfter > 0 {
		fmt.Fprintf(&b, "\n  Try again in %s.", p.RetryAfter)
	}
	if p.Status == http.StatusUnauthorized {
		b.WriteString("\n  Give the server's token: --token, $SANDLOT_TOKEN, or --data-dir DIR of the server.")
	}
	return b.String()
}

// noServerError says where no server was found, and how to have one.
type noServerError struct {
	// dataDir is where no address was found; else tried did not answer.
	dataDir, tried string
	why            error
}

func (e noServerError) Error() string {
	what := "no server has written its address into " + e.dataDir
	start := "sandlot up --data-dir " + e.dataDir
	if e.tried != "" {
		what = fmt.Sprintf("no server answers at %s (%v)", e.tried, e.why)
		start = "sandlot up"
	}
	return what + `
  Start one:            ` + start + `
  Or name another one:  --server URL and --token TOKEN, or $SANDLOT_SERVER and $SANDLOT_TOKEN, or --data-dir DIR
  Or do without:        sandlot run --local … and sandlot batch run --local …`
}
