//! `install-service`, in a mount namespace of its own with stand-ins for what changes the system.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::needs::{have, is_root, may};
use crate::test_server::{BINARY, TempDir, bare, gangplank};

const MOUNTS: &[&str] = &["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"];

/// Empties what the installation writes to, lays the stand-ins there, and runs the words.
const INSIDE: &str = r#"
set -e
log=$1 init=$2 tool=$3; shift 3
accounts=$(mktemp -d); cp /etc/passwd /etc/group "$accounts"
for dir in /etc /run /usr/local/bin /var/lib /mnt; do mount -t tmpfs none "$dir"; done
cp "$accounts/passwd" "$accounts/group" /etc; rm -r "$accounts"
mkdir -p "/run/$init" /etc/systemd/system /etc/init.d /mnt/bin
stand_in() { printf '#!/bin/sh\necho %s "$@" >>%s\n%s\n' "$1" "$log" "$2" >"/mnt/bin/$1"; chmod +x "/mnt/bin/$1"; }
for name in systemctl rc-update rc-service addgroup; do stand_in "$name" ''; done
add='for user; do :; done; echo "$user:x:977:977::/none:/none" >>/etc/passwd; echo "$user:x:977:" >>/etc/group'
stand_in "$tool" "$add"
PATH=/mnt/bin:/usr/bin:/bin
[ "$tool" = useradd ] || { for name in /bin/* /usr/bin/*; do ln -sf "$name" /mnt/bin/ 2>/dev/null || :; done; rm -f /mnt/bin/useradd /mnt/bin/systemctl; PATH=/mnt/bin; }
export PATH
sh -ec "$1"
"#;

fn inside(log: &Path, (init, tool): (&str, &str), script: &str) -> Output {
    let mut command = bare("unshare");
    command.args(["-m", "sh", "-c", INSIDE, "sh"]).arg(log);
    command.args([init, tool, script]).env("BINARY", BINARY);
    command.output().unwrap()
}

fn runs_here() -> bool {
    is_root() && have("unshare") && may(MOUNTS)
}

fn service(name: &str) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(top.join("tests/service").join(name)).unwrap()
}

#[test]
fn user_root_program_and_unit_are_made_once_and_each_step_is_said() {
    if !runs_here() {
        return;
    }
    let dir = TempDir::new();
    let log = dir.0.join("log");
    let script = format!(
        "$BINARY install-service; \
         cmp $BINARY /usr/local/bin/gangplank; cmp /etc/systemd/system/gangplank.service {}; \
         stat -c '%a %U' /var/lib/gangplank; \
         echo again >>{log}; $BINARY install-service; \
         echo changed >>{log}; $BINARY install-service --listen 0.0.0.0:80; \
         grep -c 'listen 0.0.0.0:80' /etc/systemd/system/gangplank.service",
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/service/gangplank.service")
            .display(),
        log = log.display(),
    );
    let done = inside(&log, ("systemd/system", "useradd"), &script);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{done:?}");
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("Installed: gangplank runs as a service of systemd"),
        "{out}"
    );
    assert_eq!(lines[1], "755 gangplank");
    assert_eq!(lines[4], "1", "{out}");
    let ran = fs::read_to_string(&log).unwrap();
    assert_eq!(
        ran.lines().collect::<Vec<_>>(),
        [
            "useradd --system --user-group --no-create-home --home-dir /var/lib/gangplank --shell /usr/sbin/nologin gangplank",
            "systemctl daemon-reload",
            "systemctl enable gangplank",
            "systemctl restart gangplank",
            "again",
            "systemctl enable gangplank",
            "systemctl start gangplank",
            "changed",
            "systemctl daemon-reload",
            "systemctl enable gangplank",
            "systemctl restart gangplank",
        ]
    );
    for step in [
        "useradd --system",
        "make the directory /var/lib/gangplank for gangplank",
        "to /usr/local/bin/gangplank",
        "write /etc/systemd/system/gangplank.service",
        "systemctl restart gangplank",
    ] {
        assert!(said.contains(step), "{step} is not in {said}");
    }
}

#[test]
fn with_busybox_and_openrc_other_programs_do_it() {
    if !runs_here() {
        return;
    }
    let dir = TempDir::new();
    let log = dir.0.join("log");
    let script = "$BINARY install-service --run-as app --root /srv/apps >/dev/null; \
                  stat -c '%a %U' /srv/apps; stat -c %a /etc/init.d/gangplank; cat /etc/init.d/gangplank";
    let done = inside(
        &log,
        ("openrc", "adduser"),
        &format!("mount -t tmpfs none /srv; {script}"),
    );
    assert!(done.status.success(), "{done:?}");
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        out.starts_with("755 root\n755\n#!/sbin/openrc-run\n"),
        "{out}"
    );
    let arguments = "serve --root /srv/apps --listen 127.0.0.1:9925 --run-as app";
    assert!(
        out.contains(arguments) && !out.contains("command_user"),
        "{out}"
    );
    assert_eq!(
        fs::read_to_string(&log)
            .unwrap()
            .lines()
            .collect::<Vec<_>>(),
        [
            "addgroup -S app",
            "adduser -S -D -H -h /srv/apps -s /sbin/nologin -G app app",
            "rc-update add gangplank default",
            "rc-service gangplank restart",
        ]
    );
}

#[test]
fn a_dry_run_says_all_and_changes_nothing() {
    if !runs_here() {
        return;
    }
    let dir = TempDir::new();
    let log = dir.0.join("log");
    let script = "$BINARY install-service --dry-run; \
                  test ! -e /var/lib/gangplank -a ! -e /usr/local/bin/gangplank -a ! -e /etc/systemd/system/gangplank.service";
    let done = inside(&log, ("systemd/system", "useradd"), script);
    assert!(done.status.success(), "{done:?}");
    assert!(!log.exists());
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    for line in service("gangplank.service").lines() {
        assert!(
            out.contains(&format!("\n  {line}")),
            "{line} is not in {out}"
        );
    }
    assert!(out.contains("\nsystemctl restart gangplank"), "{out}");
}

#[test]
fn what_would_not_work_is_refused_before_anything_is_done() {
    if !runs_here() {
        return;
    }
    let dir = TempDir::new();
    let log = dir.0.join("log");
    let table = [
        (
            "mkdir /var/lib/gangplank; chown 4321 /var/lib/gangplank; $BINARY install-service",
            "belongs to 4321",
        ),
        (
            "rm -r /run/systemd; $BINARY install-service",
            "neither systemd nor OpenRC runs here",
        ),
        (
            "$BINARY install-service --root relative",
            "expected an absolute path",
        ),
        ("$BINARY install-service --root '/x y'", "expected letters"),
        (
            "$BINARY install-service --run-as root",
            "another user than root",
        ),
    ];
    for (script, why) in table {
        let refused = inside(&log, ("systemd/system", "useradd"), script);
        assert_eq!(refused.status.code(), Some(2), "{script}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(why), "{script}: {said}");
        assert!(!log.exists(), "{script}");
    }
    if !have("setpriv") {
        return;
    }
    // The binary may lie where nobody else may go.
    let copied = dir.0.join("gangplank");
    fs::copy(BINARY, &copied).unwrap();
    let mut command = bare("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let refused = command
        .arg(&copied)
        .arg("install-service")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("only root can do so: run it with sudo"),
        "{said}"
    );
    let help = gangplank()
        .args(["install-service", "--help"])
        .output()
        .unwrap();
    assert_eq!(help.status.code(), Some(0));
}
