package main

import (
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxBootstrap bounds what start reads from its standard input.
const maxBootstrap = 1 << 20

// Field numbers of containerd.runtime.bootstrap.v1.BootstrapParams. The message
// is read by number because gVisor pins a containerd API that does not have it.
const (
	fieldInstanceID = 1
	fieldNamespace  = 2
	fieldSocketDir  = 9
)

// socketDir returns the directory that containerd wants this shim's socket in,
// or "" when it says none. An older containerd sends other messages here: only
// one that names this very task counts.
func socketDir(r io.Reader, namespace, id string) (string, error) {
	msg, err := io.ReadAll(io.LimitReader(r, maxBootstrap))
	if err != nil {
		return "", err
	}
	fields := map[protowire.Number]string{}
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return "", nil
		}
		msg = msg[n:]
		if typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(msg)
			fields[num] = string(value)
		}
		n = protowire.ConsumeFieldValue(num, typ, msg)
		if n < 0 {
			return "", nil
		}
		msg = msg[n:]
	}
	if fields[fieldInstanceID] != id || fields[fieldNamespace] != namespace {
		return "", nil
	}
	return fields[fieldSocketDir], nil
}
