# One word a job; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help build build-tools man dist check-rules demo e2e faults conformance-runtimes fuzz simulate soak kill-matrix test test-runtimes check
# The stages of a job run in the order in which they are written.
.NOTPARALLEL:

STAGE := .ci/stage
# One list of programs everywhere: another would build them with other features.
BUILD := cargo build --release --locked -p sternline-shim -p sternline-cli -p sternline-demo --bins
# The programs that are measured, and the one that measures.
BENCH := cargo build --release --locked -p sternline-shim -p sternline-cli -p sternline-bench --bins
# Where cargo puts optimised programs: those are what the stories are about.
RELEASE := $(abspath $(or $(CARGO_TARGET_DIR),target))/release
# What is installed beside the programs.
SHARE := $(RELEASE:/release=/share)
# Linked statically, so that it runs in an empty image, where it is the probe. By
# itself, in a directory of its own: what it shares with the others would be built
# with other flags and features, and so twice.
SUITE := hack/build-suite $(RELEASE)
# Runtimes that make pods, by the names of hack/install-test-deps.
PODS := containerd-1.6 containerd-1.7 containerd-2 cri-o
STORIES := cargo test --locked -p sternline-e2e --test e2e
# In two processes, as on a cluster, unless told otherwise.
ENDURANCE := env STERNLINE_BINDER=$(or $(STERNLINE_BINDER),process) STERNLINE_BIN_DIR=$(RELEASE) STERNLINE_ENDURANCE
# A cluster with each of these on its nodes.
CLUSTER := containerd-2 cri-o
# The static programs of the image that is installed there.
IMAGE := $(RELEASE:/release=/image)
ON_CLUSTER := STERNLINE_BIN_DIR=$(RELEASE) STERNLINE_IMAGE_DIR=$(IMAGE) cargo test --locked -p sternline-e2e --test cluster
RUNTIMES := env STERNLINE_BIN_DIR=$(RELEASE) hack/test-runtimes

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build-tools: ## make sure that cargo and a C compiler are there
	@demo/need-build-tools.sh

build: build-tools ## build the programs, optimised, into target/release
	$(BUILD)
	$(SUITE)

demo: ## one forward end to end on this machine, narrated; as root or not
	@demo/run.sh

check: build-tools ## what must be clean before a commit: format, lints, dependencies, docs
	@$(STAGE) "format" cargo fmt --all --check
	@$(STAGE) "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(STAGE) "API docs" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	@$(STAGE) "pages" cargo test --workspace --exclude sternline-e2e --locked --test pages
	@$(STAGE) "dependencies" .ci/deny

e2e: build-tools ## the whole way on a cluster of two nodes, on CLUSTER (containerd-2 and cri-o); root
	@$(STAGE) "programs of a cluster" hack/install-test-deps kubernetes $(CLUSTER)
	@$(STAGE) "build" $(BUILD)
	@$(STAGE) "programs of the image" hack/build-image $(IMAGE)
	@for runtime in $(CLUSTER); do \
		$(STAGE) "a cluster on $$runtime" env STERNLINE_RUNTIME=$$runtime $(ON_CLUSTER) || exit 1; \
	done

soak: build-tools ## random work and random kills for SOAK (15m; 60s and the like) on STERNLINE_RUNTIME; root
	hack/install-test-deps
	$(BUILD)
	$(ENDURANCE)=soak $(STORIES)

kill-matrix: build-tools ## kill everybody (VICTIM=replaced: one alone) in every phase, ROUNDS (100) times, on STERNLINE_RUNTIME; root, an hour or more
	hack/install-test-deps
	$(BUILD)
	$(ENDURANCE)=kill-matrix $(STORIES)

man: build-tools ## make manual pages and completions, into target/share; read: man -M target/share/man sternline
	cargo run --quiet --locked -p sternline-share -- $(SHARE)

dist: build-tools ## static programs for Linux on amd64 and arm64, packed with checksums, into target/dist
	hack/dist

check-rules: ## check the Prometheus rules in deploy/monitoring, and run their unit tests
	hack/check-rules

faults: build-tools ## judge the conformance suite by a reference with switchable faults, or those in FAULTS=name,name; root, ten minutes
	cargo test --locked -p sternline-reference $(if $(FAULTS),--test faults -- every_fault)

conformance-runtimes: build ## judge the shim on pods of every runtime and on namespaces; root; reports into target/conformance
	@for runtime in standalone standalone-tls $(PODS); do \
		hack/install-test-deps $$runtime && \
		$(STAGE) "conformance of the shim: $$runtime" hack/run-conformance $(RELEASE) $$runtime \
			--report-dir $(RELEASE)/../conformance --report-prefix $$runtime- || exit 1; \
	done

simulate: build-tools ## tunnel and session in a world of faults; SIM_SEEDS (10000) runs, or SIM_SEED=n again with its trace
	cargo run --release --locked -p sternline-simulation

fuzz: build-tools ## feed any bytes to everything that reads bytes from outside; FUZZ_SECONDS (600) a target
	hack/fuzz

test-runtimes: build-tools ## end to end on containerd 1.6, 1.7 and 2, CRI-O and plain namespaces, and a table; root
	@$(STAGE) "build" $(BUILD)
	@$(RUNTIMES)

test: build-tools ## install what the tests need, build, run every test; root for namespaces and pods
	@$(STAGE) "test dependencies" hack/install-test-deps
	@$(STAGE) "build" $(BUILD)
	@$(STAGE) "build of the suite" $(SUITE)
	@$(STAGE) "unit, property and integration tests" cargo test --workspace --exclude sternline-e2e --exclude sternline-reference --locked --no-fail-fast
	@$(STAGE) "conformance of the shim on network namespaces" hack/run-conformance $(RELEASE) standalone
	@$(STAGE) "conformance of the shim on containerd pods" hack/run-conformance $(RELEASE) containerd-1.6
	@$(RUNTIMES)
	@$(STAGE) "demo" demo/run.sh

.PHONY: bench bench-full bench-instructions
bench: build-tools ## measure Sternline beside its peers, print the table; root, five minutes, the machine to itself
	@hack/install-bench-deps run
	$(BENCH)
	$(RELEASE)/sternline-bench run --profile quick

bench-full: build-tools ## the same with more rounds, packet loss and 9,000 connections: 75 minutes
	@hack/install-bench-deps run
	$(BENCH)
	$(RELEASE)/sternline-bench run --profile full

bench-instructions: build-tools ## count the instructions of the tunnel and compare them with what is recorded
	@hack/install-bench-deps instructions
	$(BENCH)
	$(RELEASE)/sternline-bench instructions
