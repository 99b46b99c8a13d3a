//! A root on ext4 file systems of its own, and what a power loss leaves of them.
//!
//! Each file system is an image in a file, mounted by a loop device. Whatever the kernel holds only in memory is not in the
//! image, so a copy of the image is the disk after a power loss. The mounts are in the server's own namespace and end with it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::needs::{have, is_root, may};
use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, kill_children_of, names};

/// Enough for the journal of the file system and a few small releases. The file is sparse.
const SIZE: u64 = 64 << 20;

/// What else reaches the disk before the power goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Flushed {
    /// Only what the server has synced: the file system commits nothing by itself for ten minutes.
    Nothing,
    /// The names and sizes of all files, but not their contents: somebody else's `fsync` commits the journal of the file
    /// system. A new file whose content was not synced is empty then.
    Names,
    /// All of it: there is no loss.
    Everything,
}

/// Returns whether this machine can mount images of ext4.
pub(super) fn have_disks() -> bool {
    if !is_root() || !have("mkfs.ext4") || !have("losetup") || !have("unshare") {
        return false;
    }
    let dir = TempDir::new();
    let image = dir.0.join("image");
    make(&image);
    let mount = format!("mount -o loop '{}' /mnt", image.display());
    may(&["unshare", "-m", "sh", "-c", &mount])
}

fn make(image: &Path) {
    File::create(image).unwrap().set_len(SIZE).unwrap();
    // Nothing is left for the kernel to initialize later, which it would do in the background.
    let made = Command::new("mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        ])
        .arg(image)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// A root, and the images that its file systems are in.
pub(super) struct Disk {
    /// Where each image is mounted: the root itself is the empty path.
    parts: &'static [&'static str],
    images: TempDir,
    root: Arc<TempDir>,
}

impl Disk {
    pub(super) fn new(parts: &'static [&'static str]) -> Disk {
        let disk = Disk {
            parts,
            images: TempDir::new(),
            root: Arc::new(TempDir::new()),
        };
        for n in 0..parts.len() {
            make(&disk.image(n));
        }
        disk
    }

    fn image(&self, n: usize) -> PathBuf {
        self.images.0.join(n.to_string())
    }

    /// Mounts the images, which replays their journals, and starts a server on them.
    pub(super) fn start(&self, environment: &[(&str, &str)]) -> TestServer {
        let mut script = "set -e; ".to_owned();
        for (n, part) in self.parts.iter().enumerate() {
            let place = self.root.0.join(part);
            script.push_str(&format!(
                "mkdir -p '{0}'; mount -o loop,commit=600 '{1}' '{0}'; ",
                place.display(),
                self.image(n).display()
            ));
        }
        script.push_str("exec \"$0\" \"$@\"");
        let mut command = bare("unshare");
        command.args(["-m", "sh", "-c", &script, BINARY]);
        command.envs(environment.iter().copied());
        let flags = ["--min-free-disk", "0"];
        TestServer::launch(command, Arc::clone(&self.root), &flags)
    }

    /// Takes the power away, and gives what is on the disks.
    pub(super) fn lose_power(self, host: TestServer, flushed: Flushed) -> Disk {
        stop(&host);
        for part in self.parts {
            let path = host.path(part);
            let place = File::open(&path).unwrap();
            match flushed {
                Flushed::Nothing => {}
                Flushed::Names => {
                    // A change of an inode that nobody else writes.
                    let mode = place.metadata().unwrap().permissions();
                    fs::set_permissions(&path, mode).unwrap();
                    place.sync_all().unwrap();
                }
                Flushed::Everything => rustix::fs::syncfs(&place).unwrap(),
            }
        }
        let after = Disk {
            parts: self.parts,
            images: TempDir::new(),
            root: Arc::clone(&self.root),
        };
        for n in 0..self.parts.len() {
            copy(&self.image(n), &after.image(n));
        }
        drop(host);
        after
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The server has gone before; what it kept running would keep the mounts.
        kill_children_of(&self.root.0);
    }
}

/// Stops the server where it is, so that nothing is written while its disk is copied.
fn stop(host: &TestServer) {
    host.signal(Signal::STOP);
    let tasks = PathBuf::from(format!("/proc/{}/task", host.server.id()));
    await_some("all threads of the server to be stopped", || {
        let stopped = names(&tasks).iter().all(|task| {
            // One that has ended meanwhile is stopped, too.
            let stat = fs::read_to_string(tasks.join(task).join("stat"));
            stat.map_or(true, |stat| {
                let state = stat.rsplit(')').next().unwrap_or_default();
                state.trim_start().starts_with(['T', 'Z', 'X'])
            })
        });
        stopped.then_some(())
    });
}

/// Copies an image of one moment: what was written into it meanwhile makes the copy start again.
fn copy(from: &Path, to: &Path) {
    for _ in 0..20 {
        let first = sparse_copy(from, to);
        if first == sparse_copy(from, to) {
            return;
        }
        // What writes is the kernel, about work that it had begun.
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} does not come to rest", from.display());
}

/// Copies what is not zero, and gives a checksum of it.
fn sparse_copy(from: &Path, to: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut source = File::open(from).unwrap();
    let mut copy = File::create(to).unwrap();
    let mut sum = DefaultHasher::new();
    let (mut block, zeros) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    for at in (0..SIZE).step_by(block.len()) {
        source.read_exact(&mut block).unwrap();
        // Compared as a whole, which is quick in a debug build, too.
        if block != zeros {
            sum.write_u64(at);
            sum.write(&block);
            copy.seek(SeekFrom::Start(at)).unwrap();
            copy.write_all(&block).unwrap();
        }
    }
    copy.set_len(SIZE).unwrap();
    sum.finish()
}
