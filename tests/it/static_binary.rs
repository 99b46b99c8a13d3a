//! What `make static` builds runs where there is nothing: in a root with it, /proc and a static busybox.

use std::fs;
use std::path::{Path, PathBuf};

use crate::needs::{allows, have, is_root, may};
use crate::test_server::{TempDir, bare};

const NAMESPACES: &[&str] = &[
    "unshare", "-m", "-n", "mount", "-t", "tmpfs", "none", "/mnt",
];

/// Answers each question for an address of 127.0.0.1, and knows no others.
const DNS: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
while True:
    q, who = s.recvfrom(512)
    end = q.index(0, 12) + 5
    v4 = q[end - 4:end - 2] == b'\0\1'
    answer = b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1' if v4 else b''
    s.sendto(q[:2] + b'\x81\x80\0\1\0' + bytes([v4]) + b'\0\0\0\0' + q[12:end] + answer, who)
"#;

const INSIDE: &str = r#"
set -e
root=$1 dns=$2
busybox ip link set lo up
python3 -c "$dns" & dns=$!
mount --rbind /proc "$root/proc"
chroot "$root" /gangplank serve --root /srv/apps >"$root/out" 2>"$root/log" & server=$!
trap 'kill $dns; kill $server 2>/dev/null || :; wait $server' EXIT
tries=0
until grep -q unix: "$root/out"; do sleep 0.05; tries=$((tries + 1)); [ $tries -lt 600 ] || { cat "$root/log" >&2; exit 1; }; done
echo "idle $(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' /proc/$server/status)"
export GANGPLANK_TOKEN_FILE=/srv/apps/admin.token
for name in localhost in-hosts.test in-dns.test; do
  chroot "$root" /gangplank deploy /app --target "http://$name:9925" --output text </dev/null
done
chroot "$root" /gangplank status app --output json --target http://in-dns.test:9925 >"$root/status"
grep -q '"pid": [0-9]' "$root/status"
kill $server
wait $server
echo ended
"#;

#[test]
fn it_serves_deploys_and_finds_names_in_an_empty_root() {
    let built = std::env::var_os("GANGPLANK_STATIC").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/static/gangplank"),
        PathBuf::from,
    );
    if !allows("what `make static` builds", built.exists())
        || !is_root()
        || !["unshare", "python3", "busybox"].into_iter().all(have)
        || !may(NAMESPACES)
    {
        return;
    }
    let dir = TempDir::new().with(&[
        ("etc/hosts", "127.0.0.1 localhost in-hosts.test\n"),
        ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
        // What several distributions have, and what is not there.
        (
            "etc/nsswitch.conf",
            "hosts: mymachines files myhostname dns\n",
        ),
        ("app/index.html", "hello"),
        ("app/Procfile", "web: while :; do sleep 1; done\n"),
    ]);
    for name in ["proc", "bin", "srv", "tmp"] {
        fs::create_dir(dir.0.join(name)).unwrap();
    }
    fs::copy(&built, dir.0.join("gangplank")).unwrap();
    fs::copy("/bin/busybox", dir.0.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep"] {
        std::os::unix::fs::symlink("busybox", dir.0.join("bin").join(name)).unwrap();
    }
    let mut command = bare("unshare");
    command.args(["-m", "-n", "sh", "-c", INSIDE, "sh"]);
    let done = command.arg(&dir.0).arg(DNS).output().unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{done:#?}\n{}",
        fs::read_to_string(dir.0.join("log")).unwrap()
    );
    let deployed = "Successfully deployed: app";
    assert_eq!(out.matches(deployed).count(), 3, "{out}");
    assert!(out.ends_with("ended\n"), "{out}");
    let idle = out.lines().find_map(|line| line.strip_prefix("idle "));
    let idle: u64 = idle.unwrap().parse().unwrap();
    // A tenth of it is its own; the rest are pages of the program, which it may lose at any time.
    // Most of it are the pages of the program itself, which have become more with the fleet and the page.
    assert!(idle <= 5 << 10, "idle takes {idle} kB");
}
