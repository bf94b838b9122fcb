# One word a job; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help build build-tools demo faults test check
# The stages of a job run in the order in which they are written.
.NOTPARALLEL:

STAGE := .ci/stage
# One list of programs everywhere: another would build them with other features.
BUILD := cargo build --release --locked -p sternline-shim -p sternline-cli -p sternline-demo --bins
# Built by itself: together with the others their dependencies would be built
# with other features than the demo builds them, and so twice.
SUITE := cargo build --release --locked -p sternline-conformance --bins
# Where cargo puts optimised programs: those are what the stories are about.
RELEASE := $(abspath $(or $(CARGO_TARGET_DIR),target))/release
E2E := STERNLINE_BIN_DIR=$(RELEASE) cargo test --locked -p sternline-e2e

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

faults: build-tools ## judge the conformance suite by a reference with switchable faults; root, six minutes, the machine to itself
	cargo test --locked -p sternline-reference

test: build-tools ## install what the tests need, build, run every test; root for namespaces and pods
	@$(STAGE) "test dependencies" hack/install-test-deps
	@$(STAGE) "build" $(BUILD)
	@$(STAGE) "build of the suite" $(SUITE)
	@$(STAGE) "unit, property and integration tests" cargo test --workspace --exclude sternline-e2e --exclude sternline-reference --locked --no-fail-fast
	@$(STAGE) "conformance of the shim" hack/run-conformance $(RELEASE)
	@$(STAGE) "end to end on network namespaces" env STERNLINE_RUNTIME=standalone $(E2E)
	@$(STAGE) "end to end on containerd pods" env STERNLINE_RUNTIME=containerd-1.6 $(E2E)
	@$(STAGE) "demo" demo/run.sh
