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

clean_up() {
    status=$?
    trap '' HUP INT TERM
    trap - EXIT
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || :
        wait "$server" 2>/dev/null || :
    fi
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
    if [ -n "$work" ] && [ -s "$work/server.log" ]; then
        echo "--- server.log" >&2
        cat "$work/server.log" >&2
    fi
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

# free_port: one that nobody listens on just now, by the runtime that is there.
free_port() {
    case $runtime in
        node) node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => {
            console.log(s.address().port); s.close() })' ;;
        python3) python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' ;;
        *) perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(0, INADDR_LOOPBACK));
            print((sockaddr_in(getsockname($s)))[0], "\n")' ;;
    esac
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
port=$(free_port)
sed "s/8080/$port/" tests/demo/gangplank.json >"$work/harbor/gangplank.json"
url=http://127.0.0.1:$port/
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

step "Deploy version 1: packed, uploaded, built and checked there, switched to, and started with $runtime"
show "gangplank deploy harbor"
"$gangplank" deploy harbor || fail "version 1 was not deployed (exit code $?)"
first=$(live_id)

step "It runs, on a socket that the server holds for it"
show "gangplank status"
"$gangplank" status --output text || fail "the status failed (exit code $?)"
show "gangplank logs harbor"
"$gangplank" logs harbor || fail "the logs failed (exit code $?)"
show "GET $url"
expect_page 1

step "Deploy version 2: the new process is healthy before the old one is stopped, and nobody is refused"
echo 2 >harbor/VERSION
show "gangplank deploy harbor"
"$gangplank" deploy harbor || fail "version 2 was not deployed (exit code $?)"
second=$(live_id)
[ "$first" != "$second" ] || fail "the link did not switch"
printf 'components/harbor: %s -> %s\n' "$first" "$second"
show "GET $url"
expect_page 2

step "A third version that does not start: exit code 1, and version 2 goes on answering"
echo 3 >harbor/VERSION
echo 'echo "cannot reach the lighthouse" >&2; exit 3' >harbor/start.sh
show "gangplank deploy harbor"
status=0
"$gangplank" deploy harbor || status=$?
[ "$status" = 1 ] || fail "the broken deployment ended with $status and not with 1"
[ "$(live_id)" = "$second" ] || fail "the broken deployment is live"
show "GET $url"
expect_page 2

step "A fourth whose build fails never comes so far"
cp "$OLDPWD/tests/demo/start.sh" harbor/start.sh
echo 'echo "this build is broken" >&2; exit 3' >harbor/build.sh
show "gangplank deploy harbor"
status=0
"$gangplank" deploy harbor || status=$?
[ "$status" = 1 ] || fail "the broken build ended with $status and not with 1"
expect_page 2

step "Back to version 1, without an upload"
show "gangplank rollback harbor"
"$gangplank" rollback harbor || fail "the rollback failed (exit code $?)"
[ "$(live_id)" = "$first" ] || fail "version 1 is not live again"
expect_page 1

step "All that happened is on record"
show "gangplank list --output text"
list=$("$gangplank" list --output text) || fail "the list failed (exit code $?)"
printf '%s\n' "$list"
for expected in success:3 rolled_back:1 failed:1; do
    count=$(printf '%s\n' "$list" | grep -c " ${expected%:*} ") || :
    [ "$count" = "${expected#*:}" ] || fail "the list has $count times ${expected%:*} and not ${expected#*:}"
done

step "Stop: the server ends on SIGTERM, its processes with it, and nothing is left"
kill "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" = 0 ] || fail "the server ended with $status and not with 0"
if fetch "$url" >/dev/null 2>&1; then fail "the service still answers"; fi
echo "the demo went as expected"
