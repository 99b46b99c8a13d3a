//! rsync over ssh, to an sshd of our own on loopback, which knows one key; and to a daemon of our own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::children::Running;
use crate::link::{self, Link};

/// Where Debian's sshd locks up what speaks to strangers. Its service makes it, and without it root's sshd does not start.
const EMPTY: &str = "/run/sshd";

/// Whether that was made here.
static MADE: AtomicBool = AtomicBool::new(false);

/// Removes it again.
pub(crate) fn leave_nothing() {
    if MADE.swap(false, Ordering::Relaxed) {
        let _ = fs::remove_dir(EMPTY);
    }
}

/// An sshd that runs, and the way to it.
pub(crate) struct Sshd {
    child: Running,
    config: PathBuf,
    rsync: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        leave_nothing();
    }
}

impl Sshd {
    /// Starts it. If it cannot be used here, says why.
    pub(crate) fn start(work: &Path) -> Result<Sshd, String> {
        let rsync = find("rsync")?;
        let (sshd, keygen) = (find("sshd")?, find("ssh-keygen")?);
        find("ssh")?;
        let dir = work.join("ssh");
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let (host, user) = (dir.join("host"), dir.join("user"));
        for key in [&host, &user] {
            let mut made = Command::new(&keygen);
            made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key);
            let made = made.status().map_err(|error| error.to_string())?;
            assert!(made.success(), "ssh-keygen failed: {made}");
        }
        let port = free_port();
        let (dir, host, user) = (dir.display(), host.display(), user.display());
        let here = work.join("sshd_config");
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {host}\nAuthorizedKeysFile {user}.pub\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPidFile none\nPermitRootLogin yes\n"
        );
        fs::write(&here, text).unwrap();
        let config = work.join("ssh_config");
        let text = format!(
            "Host *\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {user}\n  IdentitiesOnly yes\n  BatchMode yes\n  \
             StrictHostKeyChecking no\n  UserKnownHostsFile {dir}/known_hosts\n  LogLevel ERROR\n"
        );
        fs::write(&config, text).unwrap();
        if rustix::process::getuid().is_root() && fs::create_dir(EMPTY).is_ok() {
            MADE.store(true, Ordering::Relaxed);
        }
        let mut child = Command::new(sshd);
        child.arg("-D").arg("-f").arg(here).stdin(Stdio::null());
        let child = child.stderr(Stdio::null()).spawn();
        let sshd = Sshd {
            child: Running::new(child.map_err(|error| error.to_string())?),
            config,
            rsync,
        };
        wait_for(port);
        let mut login = Command::new("ssh");
        login.arg("-F").arg(&sshd.config).args(["bench", "true"]);
        match login.stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(sshd),
            _ => Err("an sshd of this user on loopback lets nobody in".into()),
        }
    }

    /// The process whose processor time counts too.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Copies a tree from one directory into another, new one.
    pub(crate) fn copy(&self, from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let mut rsync = Command::new(&self.rsync);
        rsync.arg("-a").arg("--rsync-path").arg(&self.rsync);
        rsync
            .arg("-e")
            .arg(format!("ssh -F {}", self.config.display()));
        rsync.arg(format!("{}/", from.display()));
        rsync.arg(format!("bench:{}/", to.display()));
        let status = rsync.status().unwrap();
        assert!(status.success(), "rsync failed: {status}");
    }
}

/// An rsync daemon that runs, and what it writes to.
pub(crate) struct Daemon {
    /// It ends with this.
    _child: Running,
    rsync: PathBuf,
    port: u16,
}

impl Daemon {
    /// Starts one that writes below a directory. If there is no rsync, says so.
    pub(crate) fn start(below: &Path) -> Result<Daemon, String> {
        let rsync = find("rsync")?;
        let port = free_port();
        let config = below.join("rsyncd.conf");
        let module = "[bench]\nread only = no\nuse chroot = no\n";
        // As root it would become nobody.
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let text = format!(
            "{module}path = {}\nuid = {}\ngid = {}\n",
            below.display(),
            uid.as_raw(),
            gid.as_raw()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(&rsync);
        child.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        child.arg(format!("--port={port}"));
        child.arg(format!("--config={}", config.display()));
        child.arg("--log-file=/dev/null").stdin(Stdio::null());
        let child = child.spawn().map_err(|error| error.to_string())?;
        let _child = Running::new(child);
        wait_for(port);
        Ok(Daemon {
            _child,
            rsync,
            port,
        })
    }

    /// A link to it that counts.
    pub(crate) fn link(&self) -> Link {
        link::start(&format!("127.0.0.1:{}", self.port), None)
    }

    /// Copies a tree into a new directory of the daemon's, through a link if there is one. What is equal in another one of its
    /// directories is linked, and what is alike is built from there.
    pub(crate) fn copy(&self, from: &Path, to: &str, like: Option<&str>, through: Option<&Link>) {
        let own = format!("127.0.0.1:{}", self.port);
        let address = through.map_or(own, |link| link.address.clone());
        let mut rsync = Command::new(&self.rsync);
        rsync.arg("-a");
        if let Some(like) = like {
            rsync.arg(format!("--link-dest=../{like}"));
        }
        rsync.arg(format!("{}/", from.display()));
        rsync.arg(format!("rsync://{address}/bench/{to}/"));
        let status = rsync.status().unwrap();
        assert!(status.success(), "rsync failed: {status}");
    }
}

/// A port that is free now, and hardly taken by somebody else within the next moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits until somebody listens there. Two seconds are enough for that, or for it to end since something is missing.
fn wait_for(port: u16) {
    for _ in 0..200 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program's whole path: sshd wants to be started by it, and is not where users look.
fn find(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("there is no {program}"))
}
