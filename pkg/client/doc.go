// Package client speaks Sandlot's HTTP API with the types of pkg/api.
//
//	c := client.New(client.Config{Server: "http://127.0.0.1:7455", Token: token})
//	j, err := c.Submit(ctx, api.Submit{Language: "python", Code: "print(1)"}, 30*time.Second)
//
// What the server refuses comes back as an *api.Problem. A server that is not
// there is an *Unreachable, whose text says what to do. Calls that are safe to
// repeat are repeated for a while when the server is away or busy, so that a
// restart of the server is a pause and not an error.
package client
