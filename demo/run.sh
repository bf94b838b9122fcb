#!/bin/sh
# Builds the shim, the command line and the demo, and runs the demo. The same
# as `make demo`, for a machine without make.
set -eu
cd "$(dirname "$0")/.."
demo/need-build-tools.sh
echo "Building (the first time takes a few minutes)"
target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --target-dir "$target" \
    -p sternline-shim -p sternline-cli -p sternline-demo --bins
# Takes the place of this shell, so that signals reach the demo itself; not
# through cargo run, which would build for this package alone once more.
exec "$target/release/sternline-demo"
