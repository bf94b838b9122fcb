#!/bin/sh
# Builds the shim, the command line and the demo, and runs the demo. The same
# as `make demo`, for a machine without make.
set -eu
cd "$(dirname "$0")/.."
demo/need-build-tools.sh
echo "Building (the first time takes a few minutes)"
cargo build --release --locked -p sternline-shim -p sternline-cli -p sternline-demo --bins
# Takes the place of this shell, so that signals reach the demo itself.
exec cargo run --quiet --release --locked -p sternline-demo
