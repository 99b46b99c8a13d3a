//! What was installed once is used again as long as all that decides it is the same. A stand-in for npm says what was run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::Digest as _;

use crate::delta::walk;
use crate::package::web::{Web, bytes};
use crate::test_server::{TempDir, TestServer, await_some, gzip, is_root, names, tar};

/// It makes what npm makes: files, programs, links to them, a directory in a directory. What the lock file says, it does as
/// well.
const NPM: &str = "#!/bin/sh
[ \"$1\" = --version ] && exec cat \"$BIN/npm-version\"
echo run >> \"$BIN/runs\"
mkdir -p node_modules/.bin node_modules/lib/deep node_modules/@scope/other
echo \"lib\" > node_modules/lib/index.js
echo \"deep\" > node_modules/lib/deep/file
echo \"{}\" > node_modules/@scope/other/package.json
chmod 755 node_modules/lib/index.js
chmod 750 node_modules/lib/deep
ln -s ../lib/index.js node_modules/.bin/lib
if grep -q outside package-lock.json; then touch made; fi
if grep -q place package-lock.json; then echo \"at $PWD\" > node_modules/place; fi
if grep -q absolute package-lock.json; then ln -s /etc/hostname node_modules/absolute; fi
";

const NODE: &str = "#!/bin/sh\nexec cat \"$BIN/node-version\"\n";

const PACKAGE: &str = r#"{"name":"demo","dependencies":{"lib":"1"}}"#;

/// The files of a component, by their names.
type Files = BTreeMap<&'static str, &'static str>;

fn files() -> Files {
    Files::from([("package.json", PACKAGE), ("package-lock.json", "{}")])
}

/// Programs that stand in for npm and node, and a home.
struct Host {
    server: TestServer,
    bin: TempDir,
}

fn programs() -> TempDir {
    let bin = TempDir::new().with(&[
        ("npm", NPM),
        ("node", NODE),
        ("npm-version", "10.0.0\n"),
        ("node-version", "v22.0.0\n"),
        ("home/.npmrc", "a=1"),
    ]);
    for name in ["npm", "node"] {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bin.0.join(name), mode).unwrap();
    }
    bin
}

impl Host {
    fn with(flags: &[&str]) -> Host {
        Host::on(Arc::new(TempDir::new()), programs(), flags, &[])
    }

    fn on(root: Arc<TempDir>, bin: TempDir, flags: &[&str], more: &[(&str, &str)]) -> Host {
        let place = bin.0.to_str().unwrap().to_owned();
        let path = format!("{place}:{}", std::env::var("PATH").unwrap());
        let home = format!("{place}/home");
        let around = [("PATH", &*path), ("BIN", &*place), ("HOME", &*home)];
        let server = TestServer::on(root, flags, &[&around, more].concat());
        Host { server, bin }
    }

    /// Deploys: the id, and how the installation ended in words.
    fn deploy(&self, project: &str, files: &Files, more: &[(&str, &str)]) -> (String, String) {
        let entries: Vec<(String, &str)> = files
            .iter()
            .map(|(name, content)| (format!("./{name}"), *content))
            .collect();
        let entries: Vec<(&str, &str)> = entries
            .iter()
            .map(|(name, text)| (&**name, *text))
            .collect();
        let fields = [&[("project", project)], more].concat();
        let answer = self.server.deploy_live(&fields, &gzip(&tar(&entries)));
        let events = answer.events();
        let last = events.last().unwrap();
        assert_eq!(last.event, "done", "{events:?}");
        let mut ended = events.iter().filter(|one| {
            let status = one.data["status"].as_str();
            one.event == "phase" && one.data["phase"] == "install" && status != Some("start")
        });
        let ended = ended.next_back().unwrap();
        let (status, why) = (&ended.data["status"], &ended.data["message"]);
        let id = events[0].data["deployment_id"].as_str().unwrap();
        let said = format!(
            "{} {}",
            status.as_str().unwrap(),
            why.as_str().unwrap_or("")
        );
        (id.to_owned(), said.trim().to_owned())
    }

    /// Deploys what must be installed, and gives the id.
    fn installs(&self, project: &str, files: &Files, more: &[(&str, &str)], what: &str) -> String {
        let runs = self.runs();
        let (id, said) = self.deploy(project, files, more);
        assert_eq!(said, "done", "{what}");
        assert_eq!(self.runs(), runs + 1, "{what}");
        id
    }

    /// Deploys what must be taken over from a deployment.
    fn reuses(&self, project: &str, files: &Files, from: &str, what: &str) {
        let runs = self.runs();
        let (_, said) = self.deploy(project, files, &[]);
        assert_eq!(said, format!("skipped reused from {from}"), "{what}");
        assert_eq!(self.runs(), runs, "{what}");
    }

    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.bin.0.join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    fn modules(&self, project: &str) -> BTreeMap<String, String> {
        let dir = format!("components/{project}/node_modules");
        walk(&self.server.path(&dir))
    }

    /// Waits for the copy of what a deployment installed.
    fn kept(&self, project: &str, from: &str) {
        let index = self.server.path(&format!("store/{project}/modules.index"));
        let end = format!(" {from}\n");
        await_some("the copy of what was installed", || {
            fs::read_to_string(&index)
                .ok()?
                .ends_with(&end)
                .then_some(())
        });
    }

    /// Waits until the log says that there is no copy of it.
    fn is_not_kept(&self, project: &str, why: &str) {
        let line = format!("installed for {project} is not kept for the next release: {why}");
        await_some(&line, || {
            self.server
                .log
                .lock()
                .unwrap()
                .contains(&line)
                .then_some(())
        });
        let index = format!("store/{project}/modules.index");
        assert!(!self.server.path(&index).exists(), "{project}");
    }
}

#[test]
fn what_was_installed_is_used_again_and_equals_a_fresh_installation() {
    let host = Host::with(&[]);
    let mut files = files();
    let first = host.installs("demo", &files, &[], "the first");
    let fresh = host.modules("demo");
    assert!(fresh.len() > 6, "{fresh:?}");
    for round in ["one", "two", "three"] {
        host.kept("demo", &first);
        // What runs from it writes into what is live, which reaches no other release.
        let live = host.server.path("components/demo/node_modules");
        fs::write(live.join("lib/index.js"), round).unwrap();
        fs::write(live.join("lib/own"), round).unwrap();
        files.insert("index.js", round);
        host.reuses("demo", &files, &first, round);
        assert_eq!(host.modules("demo"), fresh, "{round}");
    }
    host.kept("demo", &first);
    let again = host.installs("demo", &files, &[("fresh_install", "true")], "fresh");
    assert_eq!(host.modules("demo"), fresh);
    host.kept("demo", &again);
    // By the client, whose payload is a delta.
    let source = TempDir::new();
    for (name, content) in &files {
        fs::write(source.0.join(name), content).unwrap();
    }
    let runs = host.runs();
    crate::delta::deploy(&host.server, &source.0, &[]);
    assert_eq!((host.runs(), host.modules("demo")), (runs, fresh.clone()));
    host.kept("demo", &again);
    crate::delta::deploy(&host.server, &source.0, &["--fresh-install"]);
    assert_eq!((host.runs(), host.modules("demo")), (runs + 1, fresh));
    let asked = json!({"operation": "drop_component", "project": "demo"});
    assert_eq!(host.server.operate(&asked).status, 200);
    assert!(!host.server.path("store/demo").exists());
}

#[test]
fn a_change_of_what_decides_an_installation_installs() {
    let host = Host::with(&[]);
    let mut files = files();
    let mut newest = host.installs("demo", &files, &[], "the first");
    let changes: [(&str, &'static str); 7] = [
        (
            "package.json",
            r#"{"name":"demo","dependencies":{"lib":"2"}}"#,
        ),
        ("package-lock.json", "{ }"),
        (".npmrc", "a=1"),
        (".npmrc", "a=2"),
        (".yarnrc.yml", "a: 1"),
        ("pnpm-workspace.yaml", "a: 1"),
        ("patches/a/b.patch", "a"),
    ];
    for (name, content) in changes {
        host.kept("demo", &newest);
        files.insert(name, content);
        newest = host.installs("demo", &files, &[], name);
    }
    for (name, content) in [
        ("npm-version", "10.0.1\n"),
        ("node-version", "v22.0.1\n"),
        ("home/.npmrc", "a=2"),
    ] {
        host.kept("demo", &newest);
        fs::write(host.bin.0.join(name), content).unwrap();
        newest = host.installs("demo", &files, &[], name);
    }
    for value in ["1", "2"] {
        host.kept("demo", &newest);
        let asked = json!({"operation": "set_env", "project": "demo", "set": {"VALUE": value}});
        assert_eq!(host.server.operate(&asked).status, 200);
        newest = host.installs("demo", &files, &[], value);
    }
    host.kept("demo", &newest);
    // What else is in the release decides nothing.
    files.insert("index.js", "new");
    host.reuses("demo", &files, &newest, "another file");
    host.kept("demo", &newest);
    host.installs(
        "demo",
        &files,
        &[("install_allow_scripts", "true")],
        "scripts",
    );
    let own = [("install_command", "npm ci")];
    host.installs("demo", &files, &own, "a command of its own");
    let mut others = files.clone();
    others.insert(
        "package.json",
        r#"{"packageManager":"npm@10","dependencies":{"lib":"2"}}"#,
    );
    others.remove("package-lock.json");
    host.installs("demo", &others, &[], "no lock file");
    others.insert("yarn.lock", "");
    host.installs("demo", &others, &[], "the lock file of another");
    host.reuses("demo", &files, &newest, "as before");
}

#[test]
fn what_belongs_to_one_release_is_installed_again() {
    let host = Host::with(&[]);
    let lock = |text| Files::from([("package.json", PACKAGE), ("package-lock.json", text)]);
    let mut writes = files();
    writes.insert(
        "gangplank.json",
        r#"{"check":"echo x > node_modules/lib/own"}"#,
    );
    let table = [
        (
            "outside",
            lock("outside"),
            "more than node_modules was changed",
        ),
        ("place", lock("place"), "something in it is of use in this"),
        (
            "absolute",
            lock("absolute"),
            "something in it is of use in this",
        ),
        ("writes", writes, "somebody has written into it"),
    ];
    for (project, files, why) in table {
        host.installs(project, &files, &[], project);
        host.is_not_kept(project, why);
        host.installs(project, &files, &[], project);
    }
    // Without a lock, with packages by path, and with workspaces, nothing is known of what would be installed.
    let by_path = r#"{"dependencies":{"lib":"./lib"}}"#;
    let spaces = r#"{"workspaces":["lib"],"dependencies":{"lib":"1"}}"#;
    let first = host.installs("demo", &files(), &[], "the first");
    host.kept("demo", &first);
    for package in [by_path, spaces] {
        let mut files = files();
        files.insert("package.json", package);
        host.installs("demo", &files, &[], package);
        host.installs("demo", &files, &[], package);
    }
    // A copy that somebody has changed.
    fs::write(host.server.path("store/demo/modules/lib/index.js"), "LIB\n").unwrap();
    let again = host.installs("demo", &files(), &[], "damaged");
    assert_eq!(
        fs::read_to_string(
            host.server
                .path("components/demo/node_modules/lib/index.js")
        )
        .unwrap(),
        "lib\n"
    );
    host.kept("demo", &again);
    let none = Host::with(&["--no-spare"]);
    for round in ["first", "second"] {
        none.installs("demo", &files(), &[], round);
    }
    assert!(!none.server.path("store/demo/modules.index").exists());
}

/// Where the server is killed, and whether there is a copy afterwards.
pub(crate) const KILLS: [(&str, bool); 5] = [
    ("modules-copying:3", false),
    ("modules-copied", false),
    ("modules-placed", true),
    ("modules-checked", true),
    ("modules-taken", false),
];

/// Kills a server while it makes or uses a copy.
pub(crate) fn killed_at((step, stays): (&str, bool)) {
    let (root, mut bin) = (Arc::new(TempDir::new()), programs());
    let later = step == "modules-checked" || step == "modules-taken";
    if later {
        let host = Host::on(Arc::clone(&root), bin, &[], &[]);
        let first = host.installs("demo", &files(), &[], step);
        host.kept("demo", &first);
        bin = host.bin;
    }
    let reached = bin.0.join("reached");
    let asked = format!("{step}={}", reached.display());
    let host = Host::on(
        Arc::clone(&root),
        bin,
        &[],
        &[("GANGPLANK_TEST_CHECKPOINT", &asked)],
    );
    if later {
        std::thread::scope(|scope| {
            let source =
                TempDir::new().with(&[("package.json", PACKAGE), ("package-lock.json", "{}")]);
            let dir = source.0.to_str().unwrap();
            let arguments = ["deploy", dir, "--project", "demo", "--retry-for", "0"];
            let mut client = host.server.cli_command(&arguments);
            scope.spawn(move || client.output().unwrap());
            await_some(step, || reached.exists().then_some(()));
            host.server.signal(rustix::process::Signal::KILL);
        });
    } else {
        host.installs("demo", &files(), &[], step);
        await_some(step, || reached.exists().then_some(()));
    }
    let bin = host.bin;
    drop(host.server);
    let host = Host::on(Arc::clone(&root), bin, &[], &[]);
    let store = host.server.path("store/demo");
    let whole = ["modules", "modules.index"].map(|name| store.join(name).exists());
    assert_eq!(whole, [stays; 2], "{step}");
    let left = names(&store);
    assert!(
        !left.iter().any(|name| name.starts_with('.')),
        "{step}: {left:?}"
    );
    let (_, said) = host.deploy("demo", &files(), &[]);
    assert_eq!(
        said.starts_with("skipped reused from "),
        stays,
        "{step}: {said}"
    );
    assert_eq!(host.modules("demo").len(), 9, "{step}");
}

#[test]
fn a_server_that_is_killed_leaves_a_whole_copy_or_none() {
    if crate::needs::is_debug_build() {
        KILLS.into_iter().for_each(killed_at);
    }
}

#[test]
fn what_is_used_again_belongs_to_the_user_that_it_runs_as() {
    if !is_root() {
        return;
    }
    let host = Host::with(&["--run-as", "nobody"]);
    let runs = host.bin.0.join("runs");
    fs::write(&runs, "").unwrap();
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o666)).unwrap();
    let first = host.installs("demo", &files(), &[], "the first");
    host.kept("demo", &first);
    host.reuses("demo", &files(), &first, "the second");
    let modules = host.server.path("components/demo/node_modules");
    let owner = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid())
    };
    let expected = owner(&host.server.path("components/demo/package.json"));
    assert!(expected.0 != 0);
    assert_eq!(owner(&modules), expected);
    for name in walk(&modules).keys() {
        assert_eq!(owner(&modules.join(name)), expected, "{name}");
    }
}

/// The tarball of a package with some files in it.
fn packed(name: &str) -> Vec<u8> {
    let manifest = json!({"name": name, "version": "1.0.0"}).to_string();
    let mut files = vec![("package/package.json".to_owned(), manifest)];
    files.extend((0..100).map(|n| {
        let text = format!("module.exports = '{name} {n}';\n").repeat(120);
        (format!("package/lib/{n}.js"), text)
    }));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    gzip(&tar(&files))
}

/// A manifest and a lock file for so many packages, whose tarballs are there.
fn locked(packages: usize, web: &Web) -> [(&'static str, String); 2] {
    let names: Vec<String> = (0..packages).map(|n| format!("p{n}")).collect();
    let wanted = names.iter().map(|name| (name.clone(), json!("1.0.0")));
    let wanted: serde_json::Map<String, serde_json::Value> = wanted.collect();
    let root = json!({"name": "demo", "version": "1.0.0", "dependencies": wanted});
    let mut all = serde_json::Map::from_iter([(String::new(), root.clone())]);
    for name in &names {
        let hash = STANDARD.encode(sha2::Sha512::digest(packed(name)));
        let one = json!({"version": "1.0.0", "resolved": web.url(&format!("{name}.tgz")),
            "integrity": format!("sha512-{hash}")});
        all.insert(format!("node_modules/{name}"), one);
    }
    let lock = json!({"name": "demo", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": all});
    [
        ("package.json", root.to_string()),
        ("package-lock.json", lock.to_string()),
    ]
}

/// With npm itself, which takes its seconds: `GANGPLANK_NPM_PACKAGES` says how many packages, and asks for it.
#[test]
fn npm_itself_runs_once_for_a_lock_file() {
    let asked = std::env::var("GANGPLANK_NPM_PACKAGES").ok();
    let Some(packages) = asked.and_then(|asked| asked.parse::<usize>().ok()) else {
        return;
    };
    if !crate::needs::have("npm") {
        return;
    }
    let web =
        Web::start(|asked| bytes(&packed(asked.path.trim_matches(['/', '.', 't', 'g', 'z']))));
    let (home, source) = (TempDir::new(), TempDir::new());
    let around = [
        ("HOME", home.0.to_str().unwrap()),
        ("npm_config_registry", &*web.url("")),
        ("npm_config_audit", "false"),
        ("npm_config_update_notifier", "false"),
    ];
    let host = TestServer::with(&[], &around);
    let write = |files: &[(&str, String)]| {
        for (name, text) in files {
            fs::write(source.0.join(name), text).unwrap();
        }
    };
    let deploy = |what: &str| {
        let begun = std::time::Instant::now();
        let (record, said) = crate::delta::deploy(&host, &source.0, &[]);
        eprintln!("{what}: {:?}", begun.elapsed());
        let id = record["deployment_id"].as_str().unwrap().to_owned();
        (id, said)
    };
    let modules = || walk(&host.path("components/demo/node_modules"));
    let kept = |from: &str| {
        await_some("the copy of what npm installed", || {
            let index = fs::read_to_string(host.path("store/demo/modules.index")).ok()?;
            index.ends_with(&format!(" {from}\n")).then_some(())
        });
    };
    write(&locked(packages, &web));
    let (first, _) = deploy(&format!("npm with {packages} packages"));
    let fresh = modules();
    assert!(fresh.len() > packages * 100, "{}", fresh.len());
    for round in 0..3 {
        kept(&first);
        write(&[("index.js", round.to_string())]);
        let (_, said) = deploy("the same lock file");
        assert!(said.contains(&format!("reused from {first}")), "{said}");
        assert!(modules() == fresh, "{round}");
    }
    kept(&first);
    write(&locked(packages - 1, &web));
    let (_, said) = deploy("another lock file");
    assert!(!said.contains("reused from"), "{said}");
    assert_eq!(modules().len() + 103, fresh.len());
}
