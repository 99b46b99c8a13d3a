//! The spare: a private copy of what is live, of which the next release is made. That it was used is seen by its inode.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{deploy, is_live, noise, walk};
use crate::test_server::{TempDir, TestServer, await_some, names, threads_of};

/// So many files have a spare, however small they are.
const FILES: usize = 520;

/// A directory with many files in it, and one that is large.
fn sample() -> TempDir {
    let source = TempDir::new();
    for n in 0..FILES {
        let dir = source.0.join(format!("d{}/e{}", n % 7, n % 3));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("content {n}")).unwrap();
    }
    fs::write(source.0.join("large"), noise(5 << 18, 1)).unwrap();
    for name in ["directory-file", "directory-link"] {
        fs::create_dir_all(source.0.join(name).join("inside")).unwrap();
        fs::write(source.0.join(name).join("inside/file"), name).unwrap();
    }
    for name in ["file-directory", "file-link"] {
        fs::write(source.0.join(name), name).unwrap();
    }
    for name in ["link-file", "link-directory", "link-link"] {
        symlink("d0/e0", source.0.join(name)).unwrap();
    }
    source
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Waits for the spare of what is live, and gives its inode.
pub(crate) fn spare(host: &TestServer) -> u64 {
    let components = || host.operate(&json!({"operation": "get_components"})).json();
    await_some("the spare", || {
        let tree = components()["components"][0]["tree"].as_str()?.to_owned();
        let index = fs::read(host.path("store/demo/spare.index")).ok()?;
        let head = index.split(|byte| *byte == b'\n').next()?;
        head.ends_with(tree.as_bytes())
            .then(|| inode(&host.path("store/demo/spare")))
    })
}

/// Deploys, and says whether the spare became the release.
fn used(host: &TestServer, source: &Path, what: &str) -> bool {
    let spare = spare(host);
    deploy(host, source, &[]);
    is_live(host, source, what);
    inode(&host.path("components/demo/")) == spare
}

type Edits = (&'static str, fn(&Path));

/// Rounds of changes, each after the ones before it.
const ROUNDS: [Edits; 6] = [
    ("nothing", |_| ()),
    ("files, directories and modes", |dir| {
        fs::write(dir.join("d0/e0/f0"), "changed").unwrap();
        fs::write(dir.join("d1/e1/f1"), "CONTENT 1").unwrap();
        fs::write(dir.join("d1/new"), "new").unwrap();
        fs::remove_file(dir.join("d1/e2/f8")).unwrap();
        fs::write(dir.join("d3/e0/f3"), "").unwrap();
        fs::create_dir_all(dir.join("empty/directory")).unwrap();
        mode(&dir.join("d2/e2/f2"), 0o755);
        mode(&dir.join("d2"), 0o750);
        change_large(dir, |bytes| bytes[500_000] ^= 1);
    }),
    ("changes of kind", |dir| {
        for name in ["directory-file", "directory-link"] {
            fs::remove_dir_all(dir.join(name)).unwrap();
        }
        for name in [
            "file-directory",
            "file-link",
            "link-file",
            "link-directory",
            "link-link",
        ] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        for name in ["directory-file", "link-file"] {
            fs::write(dir.join(name), name).unwrap();
        }
        for name in ["file-directory/deep/down", "link-directory"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("link-directory/f16"), "not through the link").unwrap();
        for name in ["directory-link", "file-link", "link-link"] {
            symlink("d2/e0", dir.join(name)).unwrap();
        }
    }),
    ("names that move", |dir| {
        let rename = |from: &str, to: &str| fs::rename(dir.join(from), dir.join(to)).unwrap();
        rename("d2/e1/f16", "d2/renamed");
        rename("d4", "d9");
        rename("d5/e0", "aside");
        rename("d5/e1", "d5/e0");
        rename("aside", "d5/e1");
        rename("d6/e0", "d6/e4");
        rename("d6/e1", "d6/e0");
        rename("d6/e2", "d6/e1");
        fs::copy(dir.join("large"), dir.join("copy")).unwrap();
        change_large(dir, |bytes| drop(bytes.splice(..0, *b"more")));
    }),
    ("a large file is shorter", |dir| {
        change_large(dir, |bytes| bytes.truncate(1_100_000))
    }),
    ("a large file becomes a small one", |dir| {
        fs::write(dir.join("large"), "small").unwrap();
        fs::write(dir.join("copy"), noise(1_100_000, 5)).unwrap();
    }),
];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn change_large(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join("large");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Writes into every file of the live release.
fn disturb(host: &TestServer) {
    let live = host.path("components/demo").canonicalize().unwrap();
    for (path, is) in walk(&live) {
        if is.starts_with('f') {
            fs::write(live.join(path), "disturbed").unwrap();
        }
    }
}

/// The inodes of the files in a directory, each as often as it is there.
fn inodes(dir: &Path) -> Vec<u64> {
    let files = walk(dir).into_iter().filter(|(_, is)| is.starts_with('f'));
    files.map(|(path, _)| inode(&dir.join(path))).collect()
}

#[test]
fn each_change_is_made_in_the_spare_and_what_runs_changes_nothing() {
    let (host, source) = (TestServer::start(), sample());
    let mut trees = vec![(deploy(&host, &source.0, &[]).0, walk(&source.0))];
    for (n, (what, edit)) in ROUNDS.iter().enumerate() {
        spare(&host);
        if n % 2 == 1 {
            disturb(&host);
            let pristine = walk(&host.path("store/demo/spare"));
            assert!(pristine == trees[n].1, "{what}: the spare is disturbed");
        }
        edit(&source.0);
        assert!(
            used(&host, &source.0, what),
            "{what}: the spare was not used"
        );
        let live = fs::read_link(host.path("components/demo")).unwrap();
        let id = live.file_name().unwrap().to_str().unwrap();
        trees.push((host.record(id), walk(&source.0)));
    }
    spare(&host);
    // No file is that of two of them.
    let mut all = inodes(&host.path("store/demo/spare"));
    for release in names(&host.path("releases/demo")) {
        all.extend(inodes(&host.path("releases/demo").join(release)));
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    let mut kept = 0;
    for (record, tree) in &trees {
        let id = record["deployment_id"].as_str().unwrap();
        if host.path(&format!("deployments/{id}/payload")).exists() {
            let payload = super::edits::payload(&host, id);
            assert!(payload == *tree, "the payload of {id}");
            kept += 1;
        }
    }
    assert_eq!(kept, 5, "so many payloads are kept");
}

#[test]
fn a_spare_belongs_to_the_user_before_it_goes_live_and_nothing_is_handed_over_then() {
    if !crate::needs::is_root() {
        return;
    }
    let (host, source) = (TestServer::with(&["--run-as", "nobody"], &[]), sample());
    let belong = |place: &str| {
        let mut found = Vec::new();
        crate::run_as::owners(&host.path(place), &mut found);
        assert!(
            found.iter().all(|id| *id == crate::run_as::NOBODY),
            "{place}"
        );
    };
    deploy(&host, &source.0, &[]);
    // What is not changed is not touched: giving it away would change its stamp.
    let stamp = |place: &str| {
        let meta = fs::symlink_metadata(host.path(place)).unwrap();
        (meta.ino(), meta.ctime(), meta.ctime_nsec())
    };
    for (what, edit) in &ROUNDS[1..3] {
        spare(&host);
        belong("store/demo/spare/");
        let outside = fs::metadata(host.path("store/demo")).unwrap();
        assert_eq!(
            (outside.uid(), outside.mode() & 0o777),
            (0, 0o700),
            "{what}"
        );
        let before = ["d6/e1", "d6/e1/f13", "d0/e1/f7"].map(|name| {
            let stamp = stamp(&format!("store/demo/spare/{name}"));
            (name, stamp)
        });
        edit(&source.0);
        assert!(used(&host, &source.0, what), "{what}: without the spare");
        belong("components/demo/");
        for (name, before) in before {
            assert_eq!(stamp(&format!("components/demo/{name}")), before, "{name}");
        }
    }
}

/// The tree that a deployment's payload begins from.
fn base(host: &TestServer, id: &str) -> Value {
    let payload = fs::read(host.path(&format!("deployments/{id}/payload"))).unwrap();
    let head = payload[12..].split_inclusive(|byte| *byte == b'}').next();
    serde_json::from_slice::<Value>(head.unwrap()).unwrap()["base"].take()
}

fn live(host: &TestServer) -> String {
    let live = fs::read_link(host.path("components/demo")).unwrap();
    live.file_name().unwrap().to_str().unwrap().to_owned()
}

fn roll_back(host: &TestServer, id: &Value) {
    let operation =
        json!({"operation": "rollback_component", "project": "demo", "deployment_id": id});
    let answer = host.operate(&operation);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Changes that no other version has, in pieces of a large file too.
fn edit_for(dir: &Path, version: u8) {
    fs::write(dir.join("d0/e0/f0"), format!("version {version}")).unwrap();
    fs::write(
        dir.join(format!("d1/of{version}")),
        noise(70_000, version.into()),
    )
    .unwrap();
    fs::rename(dir.join("d2/e2"), dir.join("d2/aside")).unwrap();
    fs::rename(dir.join("d2/e0"), dir.join("d2/e2")).unwrap();
    fs::rename(dir.join("d2/aside"), dir.join("d2/e0")).unwrap();
    change_large(dir, |bytes| bytes[usize::from(version) * 250_000] ^= 1);
}

#[test]
fn a_base_that_is_not_the_tree_of_the_spare_is_as_good_as_one_that_is() {
    let (host, source) = (TestServer::start(), sample());
    let (first, _) = deploy(&host, &source.0, &[]);
    spare(&host);
    edit_for(&source.0, 1);
    let (second, _) = deploy(&host, &source.0, &[]);
    spare(&host);
    // The spare is older than what the client sent last: much of that is nowhere but in its release.
    roll_back(&host, &first["deployment_id"]);
    edit_for(&source.0, 2);
    assert!(used(&host, &source.0, "rolled back"), "rolled back");
    assert_eq!(base(&host, &live(&host)), second["tree"]);
    // The spare is newer: somebody else has deployed meanwhile.
    let other = TempDir::new();
    let copied = std::process::Command::new("cp")
        .args(["-a", &format!("{}/.", source.0.display())])
        .arg(&other.0)
        .status();
    assert!(copied.unwrap().success());
    let third = host.record(&live(&host));
    edit_for(&other.0, 3);
    assert!(used(&host, &other.0, "somebody else"), "somebody else");
    edit_for(&source.0, 4);
    assert!(
        used(&host, &source.0, "on an older base"),
        "on an older base"
    );
    assert_eq!(base(&host, &live(&host)), third["tree"]);
    // What is nowhere but in a release that others wrote into is asked for.
    roll_back(&host, &first["deployment_id"]);
    spare(&host);
    let sent_last = host
        .path("releases/demo")
        .join(third["deployment_id"].as_str().unwrap());
    for release in names(&host.path("releases/demo")) {
        let release = host.path("releases/demo").join(release);
        for name in ["d1/of1", "d1/of2", "large"] {
            if let Ok(mut bytes) = fs::read(release.join(name)) {
                let at = 300_000.min(bytes.len() - 1);
                bytes[at] ^= 1;
                fs::write(release.join(name), bytes).unwrap();
            }
        }
    }
    assert!(sent_last.join("d1/of2").exists());
    edit_for(&source.0, 5);
    let (_, said) = deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, "on a base that others wrote into");
    assert!(said.contains("sending more"), "{said}");
}

/// Deploys a changed tree where the spare is not as it was, and says what the log has of it.
fn unused(host: &TestServer, source: &Path, spoil: &dyn Fn(&Path)) -> String {
    spare(host);
    spoil(&host.path("store/demo"));
    fs::write(
        source.join("d0/e0/f0"),
        noise(100, inode(&host.path("store/demo/spare"))),
    )
    .unwrap();
    deploy(host, source, &[]);
    is_live(host, source, "without a spare");
    let log = host.log.lock().unwrap();
    let mut about = log
        .lines()
        .rev()
        .filter(|line| line.contains("is not used"));
    about.next().unwrap_or_default().to_owned()
}

#[test]
fn a_spare_that_is_not_as_it_was_is_not_used() {
    let (host, source) = (TestServer::start(), sample());
    deploy(&host, &source.0, &[]);
    let touched = "somebody has changed something";
    type Row<'a> = (&'a dyn Fn(&Path), &'a str);
    let table: [Row<'_>; 5] = [
        (
            &|store| {
                let path = store.join("spare/d1/e1/f1");
                let times = fs::metadata(&path).unwrap().modified().unwrap();
                fs::write(&path, "CONTENT 1").unwrap();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(times).unwrap();
            },
            touched,
        ),
        (
            &|store| fs::write(store.join("spare/d1/more"), "").unwrap(),
            touched,
        ),
        (
            &|store| fs::remove_dir_all(store.join("spare/d1")).unwrap(),
            touched,
        ),
        (
            &|store| {
                let index = fs::read(store.join("spare.index")).unwrap();
                fs::write(store.join("spare.index"), &index[..index.len() - 9]).unwrap();
            },
            "is too short",
        ),
        (
            &|store| fs::write(store.join("spare.list"), "nothing").unwrap(),
            "is damaged",
        ),
    ];
    for (spoil, why) in table {
        let said = unused(&host, &source.0, spoil);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_spare_is_kept_as_it_is_asked_for_and_goes_with_its_component() {
    let root = Arc::new(TempDir::new());
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    let source = sample();
    deploy(&host, &source.0, &[]);
    spare(&host);
    // Neither half of one survives a start.
    let store = root.0.join("store/demo");
    fs::remove_file(store.join("spare.index")).unwrap();
    drop(host);
    let host = TestServer::on(Arc::clone(&root), &["--no-spare"], &[]);
    assert!(!store.join("spare").exists() && !store.join("spare.list").exists());
    // Two at once after another: the first one's is not waited for.
    for n in 0..2 {
        fs::write(source.0.join("d0/e0/f0"), n.to_string()).unwrap();
        deploy(&host, &source.0, &[]);
        is_live(&host, &source.0, "without a spare");
    }
    assert!(!store.join("spare").exists());
    drop(host);
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    for n in 2..4 {
        fs::write(source.0.join("d0/e0/f0"), n.to_string()).unwrap();
        deploy(&host, &source.0, &[]);
        is_live(&host, &source.0, "one after the other");
    }
    spare(&host);
    drop(host);
    // One that is not wanted any longer goes after the next end.
    let host = TestServer::on(Arc::clone(&root), &["--no-spare"], &[]);
    deploy(&host, &source.0, &[]);
    await_some("its end", || (!store.join("spare").exists()).then_some(()));
    let dropped = host.operate(&json!({"operation": "drop_component", "project": "demo"}));
    assert_eq!(dropped.status, 200, "{}", dropped.text());
    assert!(!store.exists());
}

/// Where the server is killed: the n-th time that it comes by.
const KILLS: [&str; 9] = [
    "spare-checked",
    "spare-taken",
    // A large file is half patched.
    "spare-patching:2",
    "spare-patched",
    "spare-renamed",
    "spare-copying:300",
    "spare-copied",
    "spare-stamped",
    "spare-placed",
];

/// More of them, for `make crash`: nothing is patched, all of the large file is, names are gone, names have come.
pub(crate) const MORE_KILLS: [&str; 7] = [
    "spare-patching:1",
    "spare-patching:3",
    "spare-patching:4",
    "spare-patching:5",
    "spare-patching:6",
    "spare-copying:2",
    "spare-copying:900",
];

/// All of them.
pub(crate) fn kills() -> impl Iterator<Item = &'static str> {
    KILLS.into_iter().chain(MORE_KILLS)
}

/// Kills the server at a step of a redeploy, or of what comes after it. `damage` is done to what it leaves of a deployment
/// that had not ended.
pub(crate) fn killed_at(step: &str, flags: &[&str], damage: &dyn Fn(&Path, &str)) {
    let what = format!("{step}, {flags:?}");
    let root = Arc::new(TempDir::new());
    let (source, host) = (sample(), TestServer::on(Arc::clone(&root), flags, &[]));
    deploy(&host, &source.0, &[]);
    spare(&host);
    let before = walk(&source.0);
    drop(host);
    let reached = root.0.with_extension("reached");
    let _ = fs::remove_file(&reached);
    let asked = format!("{step}={}", reached.display());
    let checkpoint = [("GANGPLANK_TEST_CHECKPOINT", &*asked)];
    let host = TestServer::on(Arc::clone(&root), flags, &checkpoint);
    fs::write(source.0.join("d0/e0/f0"), "changed").unwrap();
    fs::remove_dir_all(source.0.join("d4/e0")).unwrap();
    change_large(&source.0, |bytes| {
        for at in [100_000, 900_000] {
            bytes[at] ^= 1;
        }
    });
    let after = walk(&source.0);
    let dir = source.0.to_str().unwrap();
    let arguments = ["deploy", dir, "--project", "demo", "--retry-for", "0"];
    let mut client = host.cli_command(&arguments);
    client.stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    await_some(&what, || reached.exists().then_some(()));
    drop(host);
    fs::remove_file(&reached).unwrap();
    client.wait().unwrap();
    let live = [
        "spare-copying",
        "spare-copied",
        "spare-stamped",
        "spare-placed",
    ];
    let live = live.iter().any(|name| step.starts_with(name));
    let ids = names(&root.0.join("deployments"));
    if !live {
        damage(&root.0, &ids[1]);
    }
    let host = TestServer::on(Arc::clone(&root), flags, &[]);
    let expected = if live { &after } else { &before };
    assert!(walk(&host.path("components/demo")) == *expected, "{what}");
    // What is kept is what it was, and nothing of it is half made.
    let releases = names(&host.path("releases/demo"));
    assert_eq!(releases, ids[..1 + usize::from(live)], "{what}");
    for (release, tree) in releases.iter().zip([&before, &after]) {
        let release = host.path("releases/demo").join(release);
        assert!(walk(&release) == *tree, "{what}: {}", release.display());
    }
    let store = root.0.join("store/demo");
    let whole = ["spare", "spare.list", "spare.index"].map(|name| store.join(name).exists());
    assert!(
        whole == [true; 3] || whole == [false; 3],
        "{what}: {whole:?}"
    );
    let hidden = |name: &String| name.starts_with('.');
    assert_eq!(
        names(&store).iter().find(|name| hidden(name)),
        None,
        "{what}"
    );
    fs::write(source.0.join("d0/e0/f0"), "changed again").unwrap();
    deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, &what);
    belong(&host, flags);
}

/// All that is live belongs to the user that it runs as, if there is one.
fn belong(host: &TestServer, flags: &[&str]) {
    if flags.contains(&"--run-as") {
        let mut found = Vec::new();
        crate::run_as::owners(&host.path("components/demo/"), &mut found);
        assert!(found.iter().all(|id| *id == crate::run_as::NOBODY));
    }
}

#[test]
fn a_kill_at_any_step_leaves_a_release_and_a_spare_that_are_whole() {
    if crate::needs::is_debug_build() {
        std::thread::scope(|scope| {
            for steps in KILLS.chunks(KILLS.len().div_ceil(2)) {
                scope.spawn(|| {
                    steps
                        .iter()
                        .for_each(|step| killed_at(step, &[], &|_, _| ()))
                });
            }
        });
    }
}

#[test]
fn what_came_later_keeps_its_spare_when_an_earlier_one_gets_its_turn() {
    let held = TempDir::new().0.with_extension("held");
    let asked = format!("spare-turn@1={}", held.display());
    let checkpoint = [("GANGPLANK_TEST_CHECKPOINT", &*asked)];
    let (source, host) = (sample(), TestServer::with(&[], &checkpoint));
    deploy(&host, &source.0, &[]);
    await_some("the end of the first", || held.exists().then_some(()));
    fs::write(source.0.join("d0/e0/f0"), "changed").unwrap();
    deploy(&host, &source.0, &[]);
    let made = spare(&host);
    fs::remove_file(&held).unwrap();
    // Its thread ends when it has had its turn.
    let is_there = || {
        threads_of(&host.server)
            .iter()
            .any(|name| name.starts_with("spare-"))
    };
    await_some("the turn of the first", || (!is_there()).then_some(()));
    assert_eq!(spare(&host), made);
    assert!(used(&host, &source.0, "nothing"));
}
