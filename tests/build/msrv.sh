#!/bin/sh
# Checks that the oldest Rust that may build gangplank does, with everything that is tested. Which Rust that is, `Cargo.toml` says.
# It is taken from rustup or from the system, if one of them has it. Otherwise Debian's packages of it are unpacked below
# `target`: nothing is installed, and nothing else on the machine changes.
set -eu
cd "$(dirname "$0")/../.."
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
unpacked=$target/rust-$rust
arguments='check --locked --all-targets'
export CARGO_TARGET_DIR="$target/msrv"
# Less to write: nobody debugs this build.
export CARGO_PROFILE_DEV_DEBUG=0
export RUSTFLAGS='-D warnings'

if rustup run "$rust" cargo --version 2>/dev/null; then
  # shellcheck disable=SC2086
  exec rustup run "$rust" cargo $arguments
fi
case "$(/usr/bin/rustc --version 2>/dev/null)" in
"rustc $rust."*)
  /usr/bin/rustc --version
  # shellcheck disable=SC2086
  PATH=/usr/bin:/bin exec /usr/bin/cargo $arguments
  ;;
esac

# The newest version of a package that is of this Rust.
version() {
  apt-cache madison "$1" 2>/dev/null | awk -v rust="$rust." '$3 ~ "^" rust { print $3; exit }'
}

if [ ! -x "$unpacked/usr/bin/cargo" ]; then
  # A fresh machine knows no packages yet.
  [ -n "$(apt-cache madison rustc 2>/dev/null)" ] || [ "$(id -u)" != 0 ] || apt-get update -qq || true
  # Debian 13 has it as rustc, Debian 12 as rustc-web.
  for names in 'rustc cargo libstd-rust-dev libstd-rust' 'rustc-web cargo-web libstd-rust-web-dev libstd-rust-web'; do
    # shellcheck disable=SC2086
    set -- $names
    is=$(version "$1")
    [ -n "$is" ] && break
  done
  if [ -z "$is" ]; then
    echo "Rust $rust is not to be had here: rustup has no such toolchain, and apt has no such package." >&2
    exit 3
  fi
  of="$1=$is $2=$(version "$2") $3=$is $4-$rust=$is"
  # What those need and a machine without a compiler of Debian's does not have.
  others=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    "$1=$is" "$2=$(version "$2")" "$4-$rust=$is" | awk '$2 ~ /^lib(llvm|http-parser|pcre3|git2)/ { print $2 }' | sort -u)
  rm -rf "$unpacked" "$unpacked.part"
  mkdir -p "$unpacked.part/packages"
  (
    cd "$unpacked.part/packages"
    # shellcheck disable=SC2086
    apt-get download -q $of $others
    for package in *.deb; do dpkg -x "$package" ..; done
  )
  rm -rf "$unpacked.part/packages"
  mv "$unpacked.part" "$unpacked"
fi
libraries=$(dirname "$(find "$unpacked/usr/lib" -name 'librustc_driver-*.so' | head -1)")
LD_LIBRARY_PATH=$libraries:$unpacked/lib/$(basename "$libraries")
PATH=$unpacked/usr/bin:/usr/bin:/bin
export LD_LIBRARY_PATH PATH
rustc --version
# shellcheck disable=SC2086
exec cargo $arguments
