#!/bin/sh
# Builds a binary that runs on any Linux of this processor, whatever C library is there: target/static/gangplank. It has
# musl in it, or, where Rust's target for that is not to be had, glibc.
set -eu
cd "$(dirname "$0")/../.."
directory=${CARGO_TARGET_DIR:-target}
machine=$(uname -m)
target=$machine-unknown-linux-musl
standard_library() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

standard_library "$target" || rustup target add "$target" || true
if ! standard_library "$target"; then
  echo "Rust has no $target here; glibc takes its place." >&2
elif ! command -v musl-gcc >/dev/null; then
  echo "There is no musl-gcc (Debian: apt install musl-tools); glibc takes its place." >&2
else
  # The C code of the TLS library is made for musl, too.
  export "CC_$(echo "$target" | tr - _)=musl-gcc"
  cargo build --release --locked --target "$target"
  built=$directory/$target/release/gangplank
fi
if [ -z "${built-}" ]; then
  target=$machine-unknown-linux-gnu
  # A static glibc has no dlsym to find getrandom(2) by; without the second flag /dev/random is read, which is not everywhere.
  flags='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
  RUSTFLAGS=$flags cargo build --release --locked --target "$target"
  built=$directory/$target/release/gangplank
fi
mkdir -p "$directory/static"
cp "$built" "$directory/static/gangplank"
ls -l "$directory/static/gangplank"
