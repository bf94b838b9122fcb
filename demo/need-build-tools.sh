#!/bin/sh
# Makes sure that Rust programs can be built: cargo is there, and a C compiler
# to link with. Installs the compiler where it may; else it names the command
# that does and ends with 1.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
    echo "error: cargo is not on the PATH: install Rust 1.88 or newer, for example with rustup" >&2
    exit 1
fi
if command -v cc >/dev/null 2>&1; then
    exit 0
fi
if command -v apt-get >/dev/null 2>&1; then
    install="apt-get install -y --no-install-recommends gcc libc6-dev"
elif command -v dnf >/dev/null 2>&1; then
    install="dnf install -y gcc glibc-devel"
elif command -v zypper >/dev/null 2>&1; then
    install="zypper --non-interactive install gcc glibc-devel"
elif command -v pacman >/dev/null 2>&1; then
    install="pacman -S --noconfirm gcc"
elif command -v apk >/dev/null 2>&1; then
    install="apk add gcc musl-dev"
else
    echo "error: Rust needs a C compiler to link with, and there is no cc on the PATH: install gcc" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "error: Rust needs a C compiler to link with, and there is no cc on the PATH: run: sudo $install" >&2
    exit 1
fi
echo "Installing a C compiler: $install"
case "$install" in
apt-get*)
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    ;;
esac
# Words of a command that stands above: they are meant to split.
# shellcheck disable=SC2086
$install </dev/null
if ! command -v cc >/dev/null 2>&1; then
    echo "error: there is still no cc on the PATH after: $install" >&2
    exit 1
fi
