# Sandlot. `make demo` and `make test` are all that a new user needs; both
# install what is missing on Debian, or say what to install elsewhere.

BIN      := $(CURDIR)/bin
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sandlot
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
PACKAGES ?= ./...
# Tests of whole systems run after the others, with the machine for themselves:
# they promise times.
ALONE = /test/(e2e|chaos|ha|power)$$
# The shim is a module of its own: it cannot share gVisor's with the rest.
SHIM = deploy/runtime/gvisor
FORMATTED = bench cmd deploy examples pkg scheduler test worker

export SANDLOT_RUNTIME_DIR := $(BIN)
export GOFLAGS := -buildvcs=false

.PHONY: help
help: ## Show what there is to make.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Check the host, and install what is missing where that is possible.
	@deploy/setup.sh

.PHONY: runtime
runtime: ## Build containerd, gVisor and nats-server from their pinned modules.
	@deploy/runtime/build.sh $(BIN)

.PHONY: build
build: runtime ## Build the sandlot binary and the agent beside the runtime.
	@echo "build: sandlot, sandlot-agent"
	@CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o $(BIN)/sandlot ./cmd/sandlot
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(BIN)/sandlot-agent ./cmd/sandlot-agent

.PHONY: images
images: setup build ## Prepare the images that tests and demo use.
	@$(BIN)/sandlot image build --cache-only busybox python node gcc

.PHONY: demo
demo: images ## Run example programs in real sandboxes and show the verdicts.
	@go run ./test/demo --sandlot $(BIN)/sandlot --jobs examples/demo.jsonl

.PHONY: test
test: images ## Run all tests, race detector on, in real sandboxes.
	@packages=$$(go list $(PACKAGES)) || exit 1; status=0; \
	run() { [ -z "$$2" ] || go test -race -timeout 40m $$1 $(GOTEST_FLAGS) $$2 || status=1; }; \
	run "" "$$(echo "$$packages" | grep -Ev '$(ALONE)')"; \
	run "-p 1" "$$(echo "$$packages" | grep -E '$(ALONE)')"; \
	[ "$(PACKAGES)" != ./... ] || (cd $(SHIM) && CGO_ENABLED=0 go test -timeout 10m $(GOTEST_FLAGS) ./...) || status=1; \
	exit $$status

.PHONY: check
check: verify ## Format, tidiness, generated files and lint.
	@test -z "$$(gofmt -l $(FORMATTED))" || { echo "not formatted:"; gofmt -l $(FORMATTED); exit 1; }
	@go mod tidy -diff
	@go vet ./...
	@cd $(SHIM) && CGO_ENABLED=0 go vet ./...
	@go run $(GOLANGCI) run

.PHONY: gen
gen: ## Write generated documents anew.
	@go test ./pkg/job -run StateDocument -count 1 -update
	@go test ./scheduler -run OpenAPI -count 1 -update

.PHONY: verify
verify: ## Compare generated documents with the code.
	@go test ./pkg/job -run StateDocument -count 1
	@go test ./scheduler -run OpenAPI -count 1

.PHONY: eval
eval: images ## Grade the public HumanEval sets: make eval DATA=folder EVAL_ROUNDS=3.
	@test -n "$(DATA)" || { echo "eval: say where the data sets are: make eval DATA=folder"; exit 2; }
	@go run ./test/eval --data "$(DATA)" --sandlot $(BIN)/sandlot --rounds $(or $(EVAL_ROUNDS),3)

.PHONY: chaos
chaos: $(if $(REAL),images,build) ## Kill, stop and cut off anything under load: SEEDS=n NODES=1|3 REAL=1.
	@go build -o $(BIN)/chaos ./test/chaos
	@$(BIN)/chaos -seeds $(or $(SEEDS),3) -first $(or $(FIRST),1) -nodes $(or $(NODES),1) $(if $(REAL),-real) $(CHAOS_FLAGS)

.PHONY: chaos-selftest
chaos-selftest: build ## Have deliberate bugs caught by the checker of chaos.
	@go build -o $(BIN)/chaos ./test/chaos
	@$(BIN)/chaos -selftest -time 8s

.PHONY: power
power: build ## Cut the power under load, with disks that forget: SEEDS=n of each durability.
	@go build -o $(BIN)/power ./test/power
	@$(BIN)/power -seeds $(or $(SEEDS),3) -first $(or $(FIRST),1) $(POWER_FLAGS)

.PHONY: power-test
power-test: build ## Test the disks that forget, and full disks, on small mounts (not part of make test yet).
	@SANDLOT_REQUIRE=nats,disk go test -tags power -race -v -timeout 20m ./test/power

.PHONY: bench
bench: images ## Measure latency and throughput beside ctr and runsc.
	@go run ./bench --sandlot $(BIN)/sandlot --out bench/out

ROUNDS  ?= 3
JOBS    ?= 30000
BACKLOG ?= 1000000

.PHONY: bench-shares
bench-shares: ## Measure how fair the release is: 20 tenants by weight, and a flood beside them.
	@SANDLOT_SHARES=full go test ./scheduler -run 'FinishedJobsFollow|FloodDoesNot' -count 1 -v -timeout 20m | grep -v 'time='

.PHONY: bench-queue
bench-queue: build ## Measure the queue beside River and asynq, with jobs that do nothing. Short: ROUNDS=1 JOBS=5000 BACKLOG=10000; PLOT=file for the picture
	@bench/peers/setup.sh
	@cd bench/peers && CGO_ENABLED=0 go build -o ../out/peers .
	@go run ./bench/queue --sandlot $(BIN)/sandlot --peers bench/out/peers --out bench/out --rounds $(ROUNDS) --jobs $(JOBS) --backlog $(BACKLOG) $(if $(PLOT),--plot $(PLOT))

.PHONY: bench-batch
bench-batch: build ## Run a batch of a million items whose scheduler is killed three times. Short: ITEMS=50000
	@go run ./bench/queue --sandlot $(BIN)/sandlot --out bench/out --only batch --items $(or $(ITEMS),1000000)

.PHONY: dist
dist: build ## Pack what a user installs, with checksums, licences and SBOM.
	@deploy/dist.sh $(VERSION)

.PHONY: clean
clean: ## Remove what was built; caches stay.
	@rm -rf bin dist bench/out test/chaos/out test/power/out
