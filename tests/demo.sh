#!/bin/sh
# Shows gangplank at work: serve, deploy with live progress, switch, and what a failing deployment leaves as it was.
# Everything happens in one temporary directory and on loopback; all of it is gone at the end, however that comes.
# Ends with 0 only if everything was as expected.
set -eu
cd "$(dirname "$0")/.."

gangplank=${GANGPLANK:-target/release/gangplank}
case $gangplank in /*) ;; *) gangplank=$(pwd)/$gangplank ;; esac

# What whoever runs this has set for other servers must not lead anywhere.
unset GANGPLANK GANGPLANK_TARGET GANGPLANK_TOKEN GANGPLANK_ROOT GANGPLANK_LISTEN
unset HARPER_CLI_TARGET HARPER_CLI_USERNAME HARPER_CLI_PASSWORD

work=
server=
service=

clean_up() {
    status=$?
    trap '' HUP INT TERM
    trap - EXIT
    for pid in $service $server; do
        kill "$pid" 2>/dev/null || :
    done
    for pid in $service $server; do
        wait "$pid" 2>/dev/null || :
    done
    if [ -n "$work" ]; then rm -rf "$work"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; }

fail() {
    printf 'demo: %s\n' "$*" >&2
    for log in server.log service.log; do
        if [ -n "$work" ] && [ -s "$work/$log" ]; then
            printf '%s\n' "--- $log" >&2
            cat "$work/$log" >&2
        fi
    done
    exit 1
}

# wait_for_address FILE PID: the first address that a program says it listens on, or nothing after ten seconds.
wait_for_address() {
    tries=0
    while [ "$tries" -lt 100 ]; do
        address=$(sed -n 's/^listening on \(http:[^ ]*\)$/\1/p' "$1" | head -n 1)
        if [ -n "$address" ]; then
            printf '%s\n' "$address"
            return
        fi
        kill -0 "$2" 2>/dev/null || return 0
        sleep 0.1
        tries=$((tries + 1))
    done
}

# fetch URL: with what is there; one of the last three runs the service itself.
fetch() {
    if command -v curl >/dev/null 2>&1; then
        curl -sSf --noproxy '*' --max-time 10 "$1"
    elif command -v wget >/dev/null 2>&1; then
        wget -q -O - --no-proxy -T 10 "$1" 2>/dev/null || wget -q -O - "$1"
    elif command -v node >/dev/null 2>&1; then
        node -e 'require("http").get(process.argv[1], a => {
            a.pipe(process.stdout); process.exitCode = a.statusCode == 200 ? 0 : 1 })' "$1"
    elif command -v python3 >/dev/null 2>&1; then
        python3 -c 'import sys, urllib.request as r
sys.stdout.write(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=10).read().decode())' "$1"
    else
        perl -MIO::Socket::INET -e 'my ($host, $path) = $ARGV[0] =~ m{^http://([^/]+)(/.*)$};
            my $s = IO::Socket::INET->new(PeerAddr => $host, Timeout => 10) or die "$host: $@\n";
            print $s "GET $path HTTP/1.0\r\nHost: $host\r\n\r\n"; my ($status) = <$s> =~ /^\S+ (\d+)/;
            while (<$s>) { last if /^\r?\n$/ } print while <$s>; exit($status == 200 ? 0 : 1)' "$1"
    fi
}

# start_service: runs the `web` line of the live release's Procfile; supervising it is not gangplank's work yet.
start_service() {
    line=$(sed -n 's/^web: *//p' "$live/Procfile")
    [ -n "$line" ] || fail "the live Procfile has no web line"
    printf '(in %s) %s\n' "components/harbor" "$line"
    : >"$work/service.log"
    (cd -P "$live" && PORT=0 exec sh -c "exec $line") >"$work/service.log" 2>&1 &
    service=$!
    url=$(wait_for_address "$work/service.log" "$service")
    [ -n "$url" ] || fail "the service did not start"
}

stop_service() {
    kill "$service" 2>/dev/null || :
    wait "$service" 2>/dev/null || :
    service=
}

# expect_page VERSION: the answer over HTTP names this version and the deployment that is live.
expect_page() {
    page=$(fetch "$url") || fail "$url did not answer"
    printf '%s\n' "$page" | sed 's/^/    /'
    case $page in *"version $1<"*"$(live_id)"*) ;; *) fail "the page is not version $1 of deployment $(live_id)" ;; esac
}

live_id() {
    target=$(readlink "$live")
    printf '%s\n' "${target##*/}"
}

[ -x "$gangplank" ] || fail "there is no $gangplank; build it first: make build"
runtime=$(sh tests/demo/start.sh runtime) || fail "the sample component has nothing to run with"

work=$(mktemp -d "${TMPDIR:-/tmp}/gangplank-demo.XXXXXX")
live=$work/root/components/harbor
cp -R tests/demo "$work/harbor"
cd "$work"

step "A server on a root of its own; port 0 takes a free one"
show "gangplank serve --root root --listen 127.0.0.1:0"
"$gangplank" serve --root root --listen 127.0.0.1:0 >server.out 2>server.log &
server=$!
GANGPLANK_TARGET=$(wait_for_address server.out "$server")
[ -n "$GANGPLANK_TARGET" ] || fail "the server did not start"
GANGPLANK_TOKEN=$(cat root/admin.token)
export GANGPLANK_TARGET GANGPLANK_TOKEN
cat server.out

step "Deploy version 1: packed, uploaded, built and checked there; every line arrives as it is printed"
show "gangplank deploy harbor"
"$gangplank" deploy harbor || fail "version 1 was not deployed (exit code $?)"
first=$(live_id)

step "It is live: components/harbor is a link to the release, and its Procfile runs with $runtime"
start_service
show "GET $url"
expect_page 1

step "Deploy version 2: one rename switches the link from the old release to the new one"
echo 2 >harbor/VERSION
show "gangplank deploy harbor"
"$gangplank" deploy harbor || fail "version 2 was not deployed (exit code $?)"
second=$(live_id)
[ "$first" != "$second" ] || fail "the link did not switch"
printf 'components/harbor: %s -> %s\n' "$first" "$second"

step "The process of version 1 ran on meanwhile, from its own release; start the new one"
case $(fetch "$url") in *"version 1<"*) ;; *) fail "the old process does not answer as version 1" ;; esac
stop_service
start_service
show "GET $url"
expect_page 2

step "A third version whose build fails: exit code 1, and the live release is untouched"
echo 'echo "this build is broken" >&2; exit 3' >harbor/build.sh
show "gangplank deploy harbor"
status=0
"$gangplank" deploy harbor || status=$?
[ "$status" = 1 ] || fail "the broken deployment ended with $status and not with 1"
[ "$(live_id)" = "$second" ] || fail "the broken deployment changed what is live"
show "GET $url"
expect_page 2

step "All that happened is on record"
show "gangplank list --output text"
list=$("$gangplank" list --output text) || fail "the list failed (exit code $?)"
printf '%s\n' "$list"
[ "$(printf '%s\n' "$list" | grep -c ' success ')" = 2 ] || fail "the list has not two successes"
[ "$(printf '%s\n' "$list" | grep -c ' failed ')" = 1 ] || fail "the list has not one failure"

step "Stop: both end on SIGTERM, and nothing is left"
stop_service
kill "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || fail "the server ended with $status and not with 0"
echo "the demo went as expected"
