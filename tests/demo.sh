#!/bin/sh
# The demo: a server on a temporary root, a component deployed to it twice and broken once, and the component seen to
# answer. Everything that it makes is gone at its end, however that comes.
#
# usage: sh tests/demo.sh GANGPLANK_BINARY
set -eu

gangplank=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
sample=$(cd "$(dirname "$0")/demo" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/gangplank-demo.XXXXXX")
server= service=

clean_up() {
  status=$?
  trap - EXIT INT TERM
  for process in $service $server; do
    kill "$process" 2> /dev/null && wait "$process" 2> /dev/null || :
  done
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# Waits for at most ten seconds until a command succeeds.
await() {
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || return 1
    sleep 0.1
  done
}

# Prints what the component answers.
ask() {
  if command -v curl > /dev/null 2>&1; then
    curl -fsS "http://127.0.0.1:$PORT/"
  elif command -v wget > /dev/null 2>&1; then
    wget -qO- "http://127.0.0.1:$PORT/"
  elif command -v python3 > /dev/null 2>&1; then
    python3 -c "import os, urllib.request as r; print(r.urlopen('http://127.0.0.1:' + os.environ['PORT']).read().decode(), end='')"
  elif command -v node > /dev/null 2>&1; then
    node -e 'fetch("http://127.0.0.1:" + process.env.PORT).then(async (r) => process.stdout.write(await r.text()), () => process.exit(1))'
  else
    perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new("127.0.0.1:$ENV{PORT}") or exit 1; print $s "GET / HTTP/1.0\r\n\r\n"; my $b = 0; while (<$s>) { print if $b; $b = 1 if /^\r?$/ }'
  fi
}
answers() { ask 2> /dev/null | grep -q "version $1"; }

# Runs the `web` line of the live release's Procfile, as a later version of gangplank will do by itself.
run_live() {
  if [ -n "$service" ]; then
    kill "$service" && wait "$service" 2> /dev/null || :
  fi
  line=$(sed -n 's/^web: *//p' "$GANGPLANK_ROOT/components/hello/Procfile")
  (cd -P "$GANGPLANK_ROOT/components/hello" && exec sh -c "exec $line") > "$work/service.log" 2>&1 &
  service=$!
}

# A port of its own for each run, so that two demos at once do not meet.
PORT=$((20000 + $$ % 20000))
GANGPLANK_ROOT=$work/root
export PORT GANGPLANK_ROOT
unset GANGPLANK_TARGET HARPER_CLI_TARGET 2> /dev/null || :

say "a server on a temporary root"
"$gangplank" serve --listen 127.0.0.1:0 > "$work/listening" 2> "$work/server.log" &
server=$!
await grep -q '^listening on unix:' "$work/listening" || { cat "$work/server.log" >&2; fail "the server did not start"; }
cat "$work/listening"

cp -R "$sample" "$work/hello"

say "version 1: packed, uploaded, unpacked, built, checked, made live"
"$gangplank" deploy "$work/hello"

say "the component runs from components/hello, and answers"
run_live
await answers 1 || { cat "$work/service.log" >&2; fail "version 1 does not answer at port $PORT"; }
ask

say "version 2: the live release is exchanged with one rename"
echo 2 > "$work/hello/VERSION"
"$gangplank" deploy "$work/hello"
run_live
await answers 2 || { cat "$work/service.log" >&2; fail "version 2 does not answer at port $PORT"; }
ask

say "version 3 does not build: the deployment fails, and version 2 stays live"
echo 3 > "$work/hello/VERSION"
if "$gangplank" deploy "$work/hello" --install-command 'echo "compiling"; echo "it does not compile" >&2; exit 1'; then
  fail "a broken version was deployed"
fi
answers 2 || fail "version 2 answers no more"
ask

say "what happened"
"$gangplank" list --output text

say "all as expected; cleaning up"
