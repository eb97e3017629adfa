# make runtime: containerd, ctr, nats-server, runsc and its shim in $(BIN).
# Always run: build.sh itself knows when there is nothing to do.
BIN ?= bin

.PHONY: runtime
runtime:
	@deploy/runtime/build.sh $(BIN)
