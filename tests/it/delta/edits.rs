//! Random edits, one after the other, of a tree that has a spare. A failure says its seed; `GANGPLANK_DELTA_SEED` begins with it again, and
//! `GANGPLANK_DELTA_EDITS` says how many.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::delta::cut::cutting;
use crate::delta::{deploy, is_live, noise, sample, spare, walk};
use crate::soak::random::Random;
use crate::test_server::{TempDir, TestServer, await_some, names};

/// How many deployments the server keeps: more than payloads, and fewer than there are edits.
const KEPT: usize = 6;
const FLAGS: [&str; 4] = ["--keep-payloads", "4", "--keep-deployments", "6"];

/// What goes at once has fewer entries.
const GONE: usize = 30;
/// As long as there are more files, some go: 500 stay, which have a spare.
const FILES: usize = 500 + GONE;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap())
}

/// All that is in a directory, and the directories alone.
fn inside(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut all: Vec<PathBuf> = walk(dir).into_keys().map(|name| dir.join(name)).collect();
    all.sort();
    let is_dir = |path: &&PathBuf| fs::symlink_metadata(path).unwrap().is_dir();
    let mut dirs: Vec<PathBuf> = all.iter().filter(is_dir).cloned().collect();
    dirs.push(dir.to_path_buf());
    (all, dirs)
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path).unwrap().is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

/// Does something to a tree, and says what.
fn edit(dir: &Path, random: &mut Random) -> String {
    let (all, dirs) = inside(dir);
    let one = all[random.below(all.len())].clone();
    let into = dirs[random.below(dirs.len())].clone();
    let fresh = into.join(format!("n{}", random.next() % 1000));
    let meta = fs::symlink_metadata(&one).unwrap();
    let files = all
        .iter()
        .filter(|path| !path.is_symlink() && path.is_file());
    let may_go = files.count() > FILES && (!meta.is_dir() || inside(&one).0.len() < GONE);
    let shown = one.strip_prefix(dir).unwrap().display().to_string();
    let size = [0, 1, 70, 4096, 30_000, 1 << 20, (1 << 20) + 7, 2_000_000][random.below(8)];
    match random.below(11) {
        0 | 1 if meta.is_file() => {
            fs::write(&one, noise(size, random.next())).unwrap();
            format!("{shown} is {size} other bytes")
        }
        2 if meta.is_file() && meta.len() > 0 => {
            let mut text = fs::read(&one).unwrap();
            let at = random.below(text.len());
            text[at] ^= 1;
            fs::write(&one, text).unwrap();
            format!("byte {at} of {shown}")
        }
        3 if meta.is_file() => {
            let text = fs::read(&one).unwrap();
            let at = random.below(text.len() + 1);
            let text = [&text[..at], b"inserted", &text[at..]].concat();
            fs::write(&one, text).unwrap();
            format!("inserted into {shown}")
        }
        4 if !meta.is_symlink() => {
            let mode = [0o644, 0o600, 0o755, 0o750, 0o711][random.below(5)]
                | if meta.is_dir() { 0o700 } else { 0 };
            fs::set_permissions(&one, fs::Permissions::from_mode(mode)).unwrap();
            format!("{shown} has {mode:o}")
        }
        5 if may_go => {
            remove(&one);
            format!("{shown} is gone")
        }
        6 if !fresh.exists() && !into.starts_with(&one) => {
            fs::rename(&one, &fresh).unwrap();
            format!("{shown} is {} now", fresh.display())
        }
        7 if meta.is_file() && !fresh.exists() => {
            fs::copy(&one, &fresh).unwrap();
            format!("{shown} is {} too", fresh.display())
        }
        8 if may_go => {
            remove(&one);
            fs::create_dir(&one).unwrap();
            format!("{shown} is a directory now")
        }
        9 if may_go => {
            remove(&one);
            // It leads to something that is there and stays: to its own directory.
            symlink(".", &one).unwrap();
            format!("{shown} is a link now")
        }
        _ if !fresh.exists() => {
            fs::write(&fresh, noise(size, random.next())).unwrap();
            format!("{} comes with {size} bytes", fresh.display())
        }
        _ => "nothing".into(),
    }
}

/// Writes into a live release, as an app may do that runs from it.
fn disturb(host: &TestServer, random: &mut Random) {
    let (all, _) = inside(&host.path("components/demo").canonicalize().unwrap());
    let one = &all[random.below(all.len())];
    if fs::symlink_metadata(one).unwrap().is_file() {
        let text = fs::read(one).unwrap();
        fs::write(one, [&text[..text.len() / 2], b"!"].concat()).unwrap();
    }
}

/// The tree of a stored payload.
pub(crate) fn payload(host: &TestServer, id: &str) -> BTreeMap<String, String> {
    let at = TempDir::new();
    let (file, dir) = (at.0.join("payload"), at.0.join("tree"));
    fs::create_dir(&dir).unwrap();
    let got = host.cli(&["payload", id, "--out", file.to_str().unwrap()]);
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    let tar = Command::new("tar")
        .args(["-xpzf"])
        .arg(&file)
        .arg("-C")
        .arg(&dir)
        .output()
        .unwrap();
    assert!(
        tar.status.success(),
        "{}",
        String::from_utf8_lossy(&tar.stderr)
    );
    walk(&dir)
}

/// A client that deploys a directory and tries again for as long as it takes.
fn patient(host: &TestServer, source: &Path) -> Command {
    let dir = source.to_str().unwrap();
    let mut command = host.cli_command(&[
        "deploy",
        dir,
        "--project",
        "demo",
        "--yes",
        "--retry-for",
        "60",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Deploys over a wire that is cut.
fn over_a_cut(host: &TestServer, source: &Path, random: &mut Random) {
    let most = 1 + random.below(300_000) as u64;
    let mut client = patient(host, source);
    let proxy = cutting(host, most, 1 + random.next() % 2);
    client.env("GANGPLANK_TARGET", format!("http://{proxy}"));
    let done = client.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "cut after {most}: {said}");
}

/// Kills the server while a client deploys; another one takes its root and its address.
fn over_a_kill(mut host: TestServer, source: &Path, random: &mut Random) -> TestServer {
    let before = names(&host.path("deployments"));
    let mut client = patient(&host, source).spawn().unwrap();
    // Which of its files is there first is chance, too.
    let part = ["record.json", "payload", "manifest", "events.ndjson"][random.below(4)];
    await_some("the beginning of the deployment", || {
        let all = names(&host.path("deployments"));
        let fresh = all.iter().filter(|id| !before.contains(id));
        let begun = fresh
            .map(|id| host.path("deployments").join(id).join(part))
            .any(|path| path.exists());
        (begun || client.try_wait().unwrap().is_some()).then_some(())
    });
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let (root, address) = (Arc::clone(&host.root), host.address.clone());
    drop(host);
    let flags = [&FLAGS[..], &["--listen", &address]].concat();
    let host = TestServer::on(root, &flags, &[]);
    let done = client.wait_with_output().unwrap();
    if !done.status.success() {
        // It was interrupted, which is an answer, too.
        deploy(&host, source, &[]);
    }
    host
}

#[test]
fn each_of_many_random_edits_is_live_as_it_is() {
    let seed = number("GANGPLANK_DELTA_SEED", 1);
    let edits = number("GANGPLANK_DELTA_EDITS", 25);
    let mut random = Random(seed);
    let mut host = TestServer::with(&FLAGS, &[]);
    let source = sample();
    for n in 0..FILES {
        let dir = source.0.join(format!("s{}", n / 8));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("small {n}")).unwrap();
    }
    let mut trees = BTreeMap::new();
    let (mut deltas, mut spares) = (0, 0);
    // How the one before came: directly.
    let mut way = 2;
    deploy(&host, &source.0, &[]);
    for n in 0..edits {
        // A server that was killed after the end makes no spare of it any more.
        let waits = way != 1 && random.below(3) > 0;
        let spare = waits.then(|| spare::spare(&host));
        let many = 1 + random.below(4);
        let done: Vec<String> = (0..many).map(|_| edit(&source.0, &mut random)).collect();
        if random.below(4) == 0 {
            disturb(&host, &mut random);
        }
        let what = format!("seed {seed}, edit {n}: {}", done.join("; "));
        // What came by the address of a proxy is not what a client knows of ours.
        let is_known = way != 0;
        way = random.below(8);
        match way {
            0 => over_a_cut(&host, &source.0, &mut random),
            1 => host = over_a_kill(host, &source.0, &mut random),
            _ => drop(deploy(&host, &source.0, &[])),
        }
        is_live(&host, &source.0, &what);
        let to = fs::read_link(host.path("components/demo")).unwrap();
        let id = to.file_name().unwrap().to_str().unwrap().to_owned();
        let record = host.record(&id);
        let is_delta = record["payload_kind"] == "delta";
        deltas += u64::from(is_delta);
        if let Some(spare) = spare {
            let used = spare::inode(&host.path("components/demo/")) == spare;
            assert!(
                used || way < 2 || !is_known || !is_delta,
                "{what}: without its spare"
            );
            spares += u64::from(used);
        }
        trees.insert(id, walk(&source.0));
    }
    assert!(deltas * 2 > edits, "{deltas} of {edits}");
    assert!(spares * 3 > edits, "{spares} of {edits}");
    // What is too much goes after the end of the last deployment: its payloads first, then the deployments.
    await_some("the end of the retention", || {
        (names(&host.path("deployments")).len() <= KEPT).then_some(())
    });
    // Every payload that is kept is that of its time.
    let mut kept = 0;
    for (id, tree) in &trees {
        if host.path("deployments").join(id).join("payload").exists() {
            assert!(
                payload(&host, id) == *tree,
                "seed {seed}: the payload of {id}"
            );
            kept += 1;
        }
    }
    assert!(kept >= 3, "{kept}");
    assert!(
        names(&host.path("store/demo"))
            .iter()
            .all(|name| !name.starts_with('.'))
    );
}
