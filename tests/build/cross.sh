#!/bin/sh
# Builds a static binary for another processor: cross.sh TARGET, such as aarch64-unknown-linux-gnu for a Raspberry Pi of 64 bits,
# or armv7-unknown-linux-gnueabihf. It needs Rust's standard library and a C compiler for that target.
set -eu
cd "$(dirname "$0")/../.."
target=${1:?which target?}
case $target in
aarch64-*) compiler=aarch64-linux-gnu package='gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
armv7-*) compiler=arm-linux-gnueabihf package='gcc-arm-linux-gnueabihf libc6-dev-armhf-cross' ;;
*)
  echo "cross.sh knows no C compiler for $target: aarch64-unknown-linux-gnu or armv7-unknown-linux-gnueabihf" >&2
  exit 2
  ;;
esac
if ! command -v $compiler-gcc >/dev/null; then
  echo "There is no $compiler-gcc: apt install $package" >&2
  exit 3
fi
if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] && ! rustup target add "$target"; then
  echo "Rust has no standard library for $target here." >&2
  exit 3
fi
variable=$(echo "$target" | tr - _)
export "CC_$variable=$compiler-gcc"
export "CARGO_TARGET_$(echo "$variable" | tr a-z A-Z)_LINKER=$compiler-gcc"
# A static glibc has no dlsym to find getrandom(2) by; without the second flag /dev/random is read, which is not everywhere.
flags='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
RUSTFLAGS=$flags cargo build --release --locked --target "$target"
ls -l "${CARGO_TARGET_DIR:-target}/$target/release/gangplank"
