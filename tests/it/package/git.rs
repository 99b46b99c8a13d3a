//! Git repositories.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::web::{Reply, Repositories, Web, git};
use super::{
    arguments_of_children, deploy, everything, fails, is_nowhere, live, of, set_env, succeeds,
    warnings,
};
use crate::needs::{have, is_root, may};
use crate::test_server::{BINARY, TempDir, TestServer, await_some, bare, names};

#[test]
fn a_branch_a_tag_or_a_commit_is_deployed() {
    if !have("git") {
        return;
    }
    let host = TestServer::start();
    let repositories = Repositories::start();
    let (tree, first) = repositories.add(
        "app",
        &[
            ("index.txt", "one"),
            (".env", "A=1"),
            ("node_modules/x/a", "x"),
        ],
    );
    git(&tree, &["tag", "-a", "-m", "x", "v1"]);
    git(&tree, &["branch", "feature/x"]);
    let second = repositories.commit(
        "app",
        &[
            ("index.txt", "two"),
            ("drafts/a", "x"),
            (".gangplankignore", "drafts\n"),
        ],
    );
    let url = repositories.url("app");
    let (short, upper) = (&first[..10], first.to_ascii_uppercase());
    let table = [
        ("", "two", &second, None),
        ("#main", "two", &second, Some("main")),
        ("#v1", "one", &first, Some("v1")),
        ("#feature/x", "one", &first, Some("feature/x")),
        (&*format!("#{first}"), "one", &first, None),
        (&*format!("#{upper}"), "one", &first, None),
        (&*format!("#{short}"), "one", &first, Some(short)),
    ];
    for (reference, content, commit, branch) in table {
        let record = succeeds(&host, &format!("{url}{reference}"), &[]);
        assert_eq!(live(&host), content, "{reference}");
        assert_eq!(record["source"]["commit"], **commit, "{reference}");
        assert_eq!(record["source"]["branch"].as_str(), branch, "{reference}");
        assert_eq!(record["package_identifier"], format!("{url}{reference}"));
        // What is committed is meant to be there, but for git's own and what the component leaves out.
        assert!(host.path("components/app/.env").exists());
        assert!(host.path("components/app/node_modules/x/a").exists());
        assert!(!host.path("components/app/.git").exists());
        assert!(!host.path("components/app/drafts").exists());
    }
    let events = deploy(&host, &url, &[]);
    let lines = of(&events, "install");
    assert!(
        lines.iter().any(|line| line["manager"] == "git"),
        "{events:#?}"
    );
    assert!(warnings(&events)[0].contains("others can change"));
    // A commit is known by its name.
    let events = deploy(&host, &format!("{url}#{first}"), &[]);
    assert!(warnings(&events).is_empty(), "{events:#?}");

    let none = "0".repeat(40);
    for (url, part) in [
        (format!("{url}#none"), "couldn't find remote ref none"),
        (
            format!("{url}#{none}"),
            &*format!("no tag has a commit {none}"),
        ),
        (format!("{url}#abcdef123"), "no tag has a commit abcdef123"),
        (repositories.url("other"), ""),
        (
            "git+ssh://git@127.0.0.1:1/app.git".to_owned(),
            "ssh: connect to host 127.0.0.1 port 1",
        ),
    ] {
        let (code, why) = fails(&host, &url, &[], "fetch");
        assert_eq!(code, "fetch_failed", "{why}");
        assert!(why.contains("git: ") && why.contains(part), "{why}");
    }
}

#[test]
fn submodules_come_along_and_lfs_pointers_are_warned_of() {
    if !have("git") {
        return;
    }
    let host = TestServer::start();
    let repositories = Repositories::start();
    repositories.add("inner", &[("deep.txt", "deep")]);
    let (middle, _) = repositories.add("middle", &[("middle.txt", "middle")]);
    git(&middle, &["submodule", "add", "-q", "../inner", "inner"]);
    fs::write(
        middle.join(".gitmodules"),
        "[submodule \"inner\"]\n\tpath = inner\n\turl = ../inner.git\n",
    )
    .unwrap();
    repositories.commit("middle", &[]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n";
    let (app, _) = repositories.add("app", &[("index.txt", "app"), ("img/a.png", pointer)]);
    git(&app, &["submodule", "add", "-q", "../middle", "lib/middle"]);
    // Where it is found from elsewhere.
    fs::write(
        app.join(".gitmodules"),
        "[submodule \"middle\"]\n\tpath = lib/middle\n\turl = ../middle.git\n",
    )
    .unwrap();
    repositories.commit("app", &[]);
    let events = deploy(&host, &repositories.url("app"), &[]);
    assert_eq!(events.last().unwrap().event, "done", "{events:#?}");
    let deep = host.path("components/app/lib/middle/inner/deep.txt");
    assert_eq!(fs::read_to_string(deep).unwrap(), "deep");
    let warned = warnings(&events).join("\n");
    assert!(
        warned.contains("\"img/a.png\" is a Git LFS pointer"),
        "{warned}"
    );
    // By a transport that is a command, or a file of the server's, nothing comes.
    let touched = app.join("touched");
    for url in [
        format!("ext::sh -c touch% {}", touched.display()),
        format!("file://{}", repositories.dir.0.join("inner.git").display()),
        repositories.dir.0.join("inner.git").display().to_string(),
    ] {
        let text = format!("[submodule \"middle\"]\n\tpath = lib/middle\n\turl = {url}\n");
        fs::write(app.join(".gitmodules"), text).unwrap();
        repositories.commit("app", &[]);
        let (code, why) = fails(&host, &repositories.url("app"), &[], "fetch");
        assert_eq!(code, "fetch_failed", "{url}: {why}");
        assert!(!touched.exists(), "{url}");
    }
}

#[test]
fn nothing_that_the_hosts_settings_name_is_run() {
    if !have("git") {
        return;
    }
    let home = TempDir::new();
    let touched = home.0.join("touched");
    let touch = format!("touch {}", touched.display());
    let script = format!("#!/bin/sh\n{touch}\n");
    let home = home.with(&[
        ("hooks/post-checkout", &script),
        ("template/hooks/post-checkout", &script),
        ("attributes", "* filter=evil\n"),
        (
            ".gitconfig",
            &format!(
                "[core]\n\thooksPath = ~/hooks\n\tattributesFile = ~/attributes\n\tfsmonitor = {touch}\n\
                 \tgitProxy = {touch}\n\tsshCommand = {touch}\n[init]\n\ttemplateDir = ~/template\n\
                 [filter \"evil\"]\n\tsmudge = {touch}\n\tclean = cat\n[credential]\n\thelper = !{touch}\n"
            ),
        ),
    ]);
    for hook in ["hooks/post-checkout", "template/hooks/post-checkout"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(home.0.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let home_path = home.0.display().to_string();
    let trace = home.0.join("trace").display().to_string();
    let host = TestServer::with(
        &[],
        &[
            ("HOME", &home_path),
            ("GIT_TEMPLATE_DIR", &format!("{home_path}/template")),
            ("GIT_PROXY_COMMAND", &touch),
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "core.gitProxy"),
            ("GIT_CONFIG_VALUE_0", &touch),
            ("GIT_TRACE", &trace),
        ],
    );
    let repositories = Repositories::start();
    repositories.add(
        "app",
        &[("index.txt", "app"), (".gitattributes", "* filter=evil\n")],
    );
    succeeds(&host, &repositories.url("app"), &[]);
    assert!(!touched.exists() && !Path::new(&trace).exists());
    assert_eq!(live(&host), "app");
}

#[test]
fn credentials_of_a_url_are_gits_and_nobody_elses() {
    if !have("git") {
        return;
    }
    let host = TestServer::start();
    let repositories = Repositories::start();
    repositories.add("app", &[("index.txt", "private")]);
    // `bob:s3cret!`, for a repository that is only a directory of a web server.
    let web = Web::of_files(&repositories.dir.0, Some("Basic Ym9iOnMzY3JldCE="));
    let plain = format!("git+{}", web.url("app.git"));
    let (_, why) = fails(&host, &plain, &[], "fetch");
    assert!(why.contains("could not read Username"), "{why}");
    let private = plain.replace("http://", "http://bob:s3cret%21@");
    let record = succeeds(&host, &private, &[]);
    assert_eq!(live(&host), "private");
    assert_eq!(record["package_identifier"], plain);
    fails(
        &host,
        &plain.replace("http://", "http://bob:wr0ng@"),
        &[],
        "fetch",
    );
    // A redirect takes them nowhere.
    let target = web.url("app.git");
    let other = Web::start(move |asked| {
        let rest = asked.path.trim_start_matches("/app.git");
        Reply::Answer(301, vec![format!("Location: {target}{rest}")], vec![])
    });
    let away = format!("git+{}", other.url("app.git"));
    fails(
        &host,
        &away.replace("http://", "http://bob:s3cret%21@"),
        &[],
        "fetch",
    );
    // While it runs, its arguments can be read by everybody.
    let silent = Web::start(|asked| match asked.authorization {
        None => Reply::Answer(
            401,
            vec!["WWW-Authenticate: Basic realm=\"x\"".into()],
            vec![],
        ),
        Some(_) => Reply::Silence,
    });
    let url = format!("git+{}", silent.url("app.git")).replace("http://", "http://bob:s3cret%21@");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| deploy(&host, &url, &[]));
        let arguments = await_some("a request with credentials", || {
            let asked = silent.asked();
            asked
                .iter()
                .any(|one| one.authorization.is_some())
                .then(|| arguments_of_children(&host))
        });
        let is_git = |(_, line): &(String, Vec<u8>)| line.windows(5).any(|part| part == b"fetch");
        assert!(arguments.iter().any(is_git), "{arguments:?}");
        is_nowhere("s3cret", arguments);
        let list = host
            .operate(&json!({"operation": "list_deployments"}))
            .json();
        let id = list["deployments"][0]["deployment_id"].clone();
        let cancel = json!({"operation": "cancel_deployment", "deployment_id": id});
        assert_eq!(host.operate(&cancel).status, 200);
        assert_eq!(
            running.join().unwrap().last().unwrap().data["code"],
            "cancelled"
        );
    });
    assert!(arguments_of_children(&host).is_empty());
    for secret in ["s3cret", "wr0ng", "Ym9iOnMzY3JldCE="] {
        is_nowhere(secret, everything(&host));
    }
}

#[test]
fn a_server_that_is_killed_while_git_runs_ends_it_at_the_next_start() {
    if !have("git") {
        return;
    }
    let mut host = TestServer::start();
    let silent = Web::start(|_| Reply::Silence);
    let url = format!("git+{}", silent.url("app.git"));
    let body = super::operation(&url, &[]).to_string();
    let authorization = format!("Authorization: Bearer {}", host.token);
    let headers = [authorization.as_str(), "Content-Type: application/json"];
    let mut stream = host.connect();
    let request = crate::test_server::request("POST", "/", &headers, body.as_bytes());
    std::io::Write::write_all(&mut stream, &request).unwrap();
    await_some("git's request", || {
        (!silent.asked().is_empty()).then_some(())
    });
    assert!(!arguments_of_children(&host).is_empty());
    assert_eq!(names(&host.path("cache/app")), ["fetch"]);
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    let root = std::sync::Arc::clone(&host.root);
    drop(host);
    let host = TestServer::on(root, &[], &[]);
    assert!(arguments_of_children(&host).is_empty());
    assert!(names(&host.path("cache/app")).is_empty());
    let list = host
        .operate(&json!({"operation": "list_deployments"}))
        .json();
    assert_eq!(list["deployments"][0]["error"]["code"], "interrupted");
}

#[test]
fn ssh_asks_nobody_and_is_the_one_of_the_environment() {
    if !have("git") || !have("ssh") {
        return;
    }
    let repositories = Repositories::start();
    repositories.add("app", &[("index.txt", "by ssh")]);
    // It says how it was called, and does here what it should do there.
    let script = format!(
        "#!/bin/sh\necho \"$0 $*\" >> {0}/called\nfor last; do :; done\ncd {0} && eval \"exec $last\"\n",
        repositories.dir.0.display()
    );
    let dir = TempDir::new().with(&[("ssh", &script), ("own", &script)]);
    for name in ["ssh", "own"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.0.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.0.display(), std::env::var("PATH").unwrap());
    let host = TestServer::with(&[], &[("PATH", &path)]);
    let called = || fs::read_to_string(repositories.dir.0.join("called")).unwrap();
    let repository = repositories.dir.0.join("app.git");
    let url = format!(
        "git+ssh://deploy@example.invalid:2222{}",
        repository.display()
    );
    succeeds(&host, &url, &[]);
    assert_eq!(live(&host), "by ssh");
    let first = called();
    let words = [
        "-o BatchMode=yes",
        "-p 2222",
        "deploy@example.invalid",
        "git-upload-pack",
    ];
    assert!(words.iter().all(|word| first.contains(word)), "{first}");
    let own = dir.0.join("own").display().to_string();
    set_env(
        &host,
        json!({"GIT_SSH_COMMAND": own, "GIT_SSH_VARIANT": "ssh"}),
    );
    succeeds(&host, &url, &[]);
    assert!(called()[first.len()..].starts_with(&own), "{}", called());
}

#[test]
fn git_has_its_time_and_ends_with_the_server() {
    if !have("git") {
        return;
    }
    let mut host = TestServer::start();
    let silent = Web::start(|_| Reply::Silence);
    let url = format!("git+{}", silent.url("app.git"));
    let limit = [("install_timeout", json!(700))];
    let (code, why) = fails(&host, &url, &limit, "fetch");
    assert!(
        code == "fetch_failed" && why.contains("timed out after 0.7s"),
        "{why}"
    );
    let asked = silent.asked().len();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| deploy(&host, &url, &[]));
        await_some("git's request", || {
            (silent.asked().len() > asked).then_some(())
        });
        host.signal(rustix::process::Signal::TERM);
        let events = running.join().unwrap();
        assert_eq!(
            events.last().unwrap().data["code"],
            "interrupted",
            "{events:#?}"
        );
    });
    assert!(host.server.wait().unwrap().success());
    assert!(arguments_of_children(&host).is_empty());
    assert!(names(&host.path("cache/app")).is_empty());
}

#[test]
fn a_repository_that_the_disk_does_not_hold_is_refused() {
    let mounts = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"];
    if !have("git") || !is_root() || !may(&mounts) {
        return;
    }
    let repositories = Repositories::start();
    let (tree, _) = repositories.add("app", &[("index.txt", "x")]);
    // What does not shrink, and is more than the disk has.
    let noise: Vec<u8> = (0..24_u64 << 20)
        .scan(1_u64, |state, _| {
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Some((*state >> 56) as u8)
        })
        .collect();
    fs::write(tree.join("noise"), noise).unwrap();
    repositories.commit("app", &[]);
    let root = std::sync::Arc::new(TempDir::new());
    let mut command = bare("unshare");
    let script = format!(
        "mount -t tmpfs -o size=20m none '{}' && exec \"$0\" \"$@\"",
        root.0.display()
    );
    command.args(["-m", "sh", "-c", &script, BINARY]);
    let host = TestServer::launch(command, root, &["--min-free-disk", "1M"]);
    let (code, why) = fails(&host, &repositories.url("app"), &[], "fetch");
    assert_eq!(code, "no_space", "{why}");
    repositories.add("small", &[("index.txt", "fits")]);
    succeeds(&host, &repositories.url("small"), &[]);
    assert_eq!(live(&host), "fits");
}

#[test]
fn what_is_fetched_is_fetched_as_the_user() {
    if !have("git") || !is_root() {
        return;
    }
    let host = TestServer::with(&["--run-as", "nobody"], &[]);
    let repositories = Repositories::start();
    repositories.add("app", &[("index.txt", "nobody's")]);
    succeeds(&host, &repositories.url("app"), &[]);
    assert_eq!(live(&host), "nobody's");
    set_env(&host, json!({"SSL_CERT_FILE": host.path("admin.token")}));
    let (_, why) = fails(&host, "https://localhost:1/x.tgz", &[], "fetch");
    assert!(why.contains("(SSL_CERT_FILE): Permission denied"), "{why}");
    // What is the server's own is not the user's to read, by whatever name.
    let cli = |package: &str| {
        let mut command = crate::test_server::gangplank();
        let target = format!("unix:{}", host.path("run/gangplank.sock").display());
        command.args([
            "deploy",
            "--package",
            package,
            "--project",
            "app",
            "--target",
            &target,
        ]);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let dir = TempDir::new();
    std::os::unix::fs::symlink(host.path("admin.token"), dir.0.join("link.tgz")).unwrap();
    for path in [
        host.path("admin.token"),
        host.path("deployments"),
        dir.0.join("link.tgz"),
    ] {
        let (code, said) = cli(&format!("file:{}", path.display()));
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("ermission denied") && said.contains("fetch_failed"),
            "{said}"
        );
    }
}
