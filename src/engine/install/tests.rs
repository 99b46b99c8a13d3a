use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::api::event::Stream;
use crate::system::stop;

/// A host: its programs in `bin`, a release, and a request about it. It goes with its owner.
struct Host {
    dir: PathBuf,
    options: Options,
    environment: Vec<(OsString, OsString)>,
    project: Project,
    stopper: Option<stop::Stopper>,
    stop: Stop,
}

impl Host {
    /// A host with these managers, which say how they were called, and files in the release.
    fn new(managers: &[&str], files: &[(&str, &str)]) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("gangplank-install-{}-{n}", std::process::id()));
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        std::fs::create_dir_all(dir.join("release")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", dir.join("bin/sh")).unwrap();
        for (file, text) in files {
            if let Some(name) = file.strip_suffix('/') {
                std::fs::create_dir(dir.join("release").join(name)).unwrap();
            } else {
                std::fs::write(dir.join("release").join(file), text).unwrap();
            }
        }
        let (stopper, stop) = stop::pair().unwrap();
        let host = Host {
            environment: vec![
                ("PATH".into(), dir.join("bin").into()),
                ("KEPT".into(), "yes".into()),
            ],
            dir,
            options: Options::default(),
            project: "demo".parse().unwrap(),
            stopper: Some(stopper),
            stop,
        };
        for manager in managers {
            host.program(
                manager,
                "echo \"$0 $*\"; env_of() { echo \"$YARN_ENABLE_SCRIPTS\"; }; env_of",
            );
        }
        host
    }

    fn program(&self, name: &str, script: &str) {
        self.program_file(name, &format!("#!/bin/sh\n{script}\n"));
    }

    fn program_file(&self, name: &str, text: &str) {
        // Another process writes it: a descriptor of ours could be inherited by a child that a neighbouring test is just
        // starting, and a file that is open for writing cannot be run.
        let written = Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" >\"$0\"; chmod 755 \"$0\""])
            .arg(self.dir.join("bin").join(name))
            .arg(text)
            .status();
        assert!(written.unwrap().success());
    }

    fn with<T>(&self, act: impl FnOnce(&InstallRequest<'_>) -> T) -> T {
        act(&InstallRequest {
            options: &self.options,
            default_timeout: Duration::from_secs(60),
            release: &self.dir.join("release"),
            project: &self.project,
            id: "01890000-0000-7000-8000-000000000000".parse().unwrap(),
            mark: &ServerMark::new("id", &self.dir),
            shared: Path::new("/shared"),
            environment: &self.environment,
            account: None,
            stop: &self.stop,
        })
    }

    /// The words, with variables in front, or why there are none.
    fn words(&self) -> String {
        match self.with(choose) {
            Ok((Choice::Run(installer), _)) => {
                let variables = installer
                    .variables
                    .iter()
                    .map(|(key, value)| format!("{key}={value} "));
                variables.collect::<String>() + &installer.words.join(" ")
            }
            Ok((Choice::Skip(why), _)) => format!("skip: {why}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    /// Chooses and runs.
    fn install(&self) -> (Result<u64, InstallFailure>, Vec<InstallLine>) {
        let (choice, _) = self.with(choose).unwrap();
        let Choice::Run(installer) = choice else {
            panic!("{choice:?}")
        };
        let mut lines = Vec::new();
        let result = self.with(|request| {
            run(request, &installer, &mut |more| {
                lines.extend(more);
                Ok(())
            })
        });
        (result, lines)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const ALL: &[&str] = &["npm", "pnpm", "yarn", "bun"];
const MODERN: &str = "# This file is generated\n\n__metadata:\n  version: 8\n";

/// A package.json that names a dependency.
const DEPENDS: &str = r#"{"dependencies": {"a": "1"}}"#;

/// A package.json with a dependency, and with the members of this object.
fn package_json(object: &str) -> (&'static str, &'static str) {
    let members = object.trim_start_matches('{');
    let comma = if members == "}" { "" } else { "," };
    let text = format!(r#"{{"dependencies": {{"a": "1"}}{comma}{members}"#);
    // The tables have the texts as long as the test runs.
    ("package.json", Box::leak(text.into_boxed_str()))
}

#[test]
fn the_words_of_what_is_in_a_release() {
    let plain = package_json("{}");
    let pnpm_9 = package_json(r#"{"packageManager": "pnpm@9.1.0+sha512.abc"}"#);
    let yarn_1 = package_json(r#"{"packageManager": "yarn@1.22.22"}"#);
    let yarn_4 = package_json(r#"{"packageManager": "yarn@4.1.0"}"#);
    let bun = package_json(r#"{"packageManager": "bun@1"}"#);
    let engine_yarn = package_json(
        r#"{"devEngines": {"packageManager": {"name": "yarn", "version": "^4.0"}}, "packageManager": "pnpm@9"}"#,
    );
    let engines =
        package_json(r#"{"devEngines": {"packageManager": [{"name": "tool"}, {"name": "pnpm"}]}}"#);
    let (npm_lock, shrinkwrap) = (("package-lock.json", "{}"), ("npm-shrinkwrap.json", "{}"));
    let (pnpm_lock, yarn_lock) = (
        ("pnpm-lock.yaml", ""),
        ("yarn.lock", "# yarn lockfile v1\n"),
    );
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[], "skip: there is no package.json"),
        (&[npm_lock], "skip: there is no package.json"),
        (
            &[
                plain,
                ("node_modules/", ""),
                ("node_modules/a/", ""),
                ("node_modules/a/package.json", "{}"),
            ],
            "skip: node_modules came along",
        ),
        (
            &[
                plain,
                ("node_modules/", ""),
                ("node_modules/@s/", ""),
                ("node_modules/@s/a/", ""),
                ("node_modules/@s/a/package.json", "{}"),
            ],
            "skip: node_modules came along",
        ),
        // No package in it: a mount point, a file, what tools keep there.
        (
            &[plain, ("node_modules/", "")],
            "npm install --ignore-scripts",
        ),
        (
            &[plain, ("node_modules", "")],
            "npm install --ignore-scripts",
        ),
        (
            &[
                plain,
                ("node_modules/", ""),
                ("node_modules/.vite/", ""),
                ("node_modules/.vite/package.json", "{}"),
                ("node_modules/.package-lock.json", "{}"),
                ("node_modules/a/", ""),
                ("node_modules/@s/", ""),
            ],
            "npm install --ignore-scripts",
        ),
        (
            &[plain, ("bun.lock", "")],
            "bun install --frozen-lockfile --ignore-scripts",
        ),
        (
            &[plain, ("bun.lockb", "")],
            "bun install --frozen-lockfile --ignore-scripts",
        ),
        (&[plain, ("deno.lock", "")], "npm install --ignore-scripts"),
        (
            &[plain, ("pnpm-workspace.yaml", "")],
            "pnpm install --ignore-scripts",
        ),
        (
            &[plain, ("pnpm-workspace.yaml", ""), npm_lock],
            "npm ci --ignore-scripts",
        ),
        (
            &[plain, (".yarnrc.yml", "")],
            "YARN_ENABLE_SCRIPTS=false yarn install",
        ),
        (&[plain], "npm install --ignore-scripts"),
        (&[plain, npm_lock], "npm ci --ignore-scripts"),
        (&[plain, shrinkwrap], "npm ci --ignore-scripts"),
        (
            &[plain, pnpm_lock],
            "pnpm install --frozen-lockfile --ignore-scripts",
        ),
        (
            &[plain, yarn_lock],
            "yarn install --frozen-lockfile --ignore-scripts",
        ),
        (
            &[plain, ("yarn.lock", MODERN)],
            "YARN_ENABLE_SCRIPTS=false yarn install --immutable",
        ),
        (
            &[plain, yarn_lock, (".yarnrc.yml", "")],
            "YARN_ENABLE_SCRIPTS=false yarn install --immutable",
        ),
        (
            &[plain, npm_lock, yarn_lock, pnpm_lock],
            "pnpm install --frozen-lockfile --ignore-scripts",
        ),
        (
            &[plain, npm_lock, yarn_lock],
            "yarn install --frozen-lockfile --ignore-scripts",
        ),
        (&[pnpm_9], "pnpm install --ignore-scripts"),
        (&[pnpm_9, npm_lock], "pnpm install --ignore-scripts"),
        (
            &[pnpm_9, pnpm_lock],
            "pnpm install --frozen-lockfile --ignore-scripts",
        ),
        (&[yarn_1], "yarn install --ignore-scripts"),
        (
            &[yarn_1, ("yarn.lock", MODERN)],
            "yarn install --frozen-lockfile --ignore-scripts",
        ),
        (&[yarn_4], "YARN_ENABLE_SCRIPTS=false yarn install"),
        (
            &[yarn_4, yarn_lock],
            "YARN_ENABLE_SCRIPTS=false yarn install --immutable",
        ),
        (&[bun], "bun install --ignore-scripts"),
        (
            &[engine_yarn, yarn_lock],
            "YARN_ENABLE_SCRIPTS=false yarn install --immutable",
        ),
        (&[engines], "pnpm install --ignore-scripts"),
        (
            &[
                plain,
                ("gangplank.json", r#"{"install_command": "make deps"}"#),
            ],
            "sh -c make deps",
        ),
        (
            &[("gangplank.json", r#"{"install_command": "make deps"}"#)],
            "sh -c make deps",
        ),
    ];
    for (files, expected) in table {
        assert_eq!(Host::new(ALL, files).words(), *expected, "{files:?}");
    }
}

#[test]
fn scripts_may_be_allowed() {
    let table = [
        ("package-lock.json", "", "npm ci"),
        ("pnpm-lock.yaml", "", "pnpm install --frozen-lockfile"),
        ("yarn.lock", "", "yarn install --frozen-lockfile"),
        ("yarn.lock", MODERN, "yarn install --immutable"),
        ("other", "", "npm install"),
    ];
    for (lock, text, expected) in table {
        let mut host = Host::new(ALL, &[("package.json", DEPENDS), (lock, text)]);
        host.options.install_allow_scripts = true;
        assert_eq!(host.words(), expected);
    }
}

#[test]
fn nothing_runs_where_there_is_nothing_to_install() {
    let nothing = "skip: package.json names nothing to install";
    let (scripts, npm) = ("npm install", "npm install --ignore-scripts");
    /// The package.json, another file, and what is done without scripts and with them.
    type NeedCase<'a> = (&'a str, &'a str, &'a str, &'a str);
    let table: &[NeedCase] = &[
        ("{}", "other", nothing, nothing),
        (
            r#"{"scripts": {"start": "node ."}}"#,
            "other",
            nothing,
            nothing,
        ),
        (
            r#"{"dependencies": {}, "workspaces": []}"#,
            "other",
            nothing,
            nothing,
        ),
        (
            r#"{"dependencies": null}"#,
            "package-lock.json",
            nothing,
            nothing,
        ),
        (r#"{"devDependencies": {"a": "1"}}"#, "other", npm, scripts),
        (
            r#"{"optionalDependencies": {"a": "1"}}"#,
            "other",
            npm,
            scripts,
        ),
        (r#"{"peerDependencies": {"a": "1"}}"#, "other", npm, scripts),
        (r#"{"workspaces": ["packages/*"]}"#, "other", npm, scripts),
        (
            r#"{"workspaces": {"packages": ["a"]}}"#,
            "other",
            npm,
            scripts,
        ),
        (
            r#"{"scripts": {"postinstall": "x"}}"#,
            "other",
            nothing,
            scripts,
        ),
        (
            r#"{"scripts": {"prepare": "x"}}"#,
            "other",
            nothing,
            scripts,
        ),
        ("{}", "binding.gyp", nothing, scripts),
    ];
    for (package, other, without, with) in table {
        let mut host = Host::new(ALL, &[("package.json", package), (other, "{}")]);
        assert_eq!(host.words(), *without, "{package} {other}");
        host.options.install_allow_scripts = true;
        assert_eq!(host.words(), *with, "{package} {other}");
    }
    let workspace = Host::new(ALL, &[("package.json", "{}"), ("pnpm-workspace.yaml", "")]);
    assert_eq!(workspace.words(), "pnpm install --ignore-scripts");
}

#[test]
fn lock_files_that_nobody_reads_are_named() {
    let plain = package_json("{}");
    let pnpm_9 = package_json(r#"{"packageManager": "pnpm@9.1.0"}"#);
    let (npm, yarn, pnpm) = (
        ("package-lock.json", "{}"),
        ("yarn.lock", ""),
        ("pnpm-lock.yaml", ""),
    );
    let (bun, deno) = (("bun.lock", ""), ("deno.lock", ""));
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[plain], ""),
        (&[plain, npm], ""),
        (&[plain, npm, ("npm-shrinkwrap.json", "{}")], ""),
        (&[pnpm_9, pnpm], ""),
        (
            &[plain, yarn, pnpm],
            "yarn.lock is not read: pnpm installs, as pnpm-lock.yaml asks for it",
        ),
        (
            &[plain, npm, bun],
            "bun.lock is not read: npm installs, as package-lock.json asks for it",
        ),
        (
            &[pnpm_9, npm, yarn],
            "yarn.lock and package-lock.json are not read: pnpm installs, as packageManager of package.json asks for it",
        ),
        (
            &[plain, deno],
            "deno.lock is not read: npm installs, as package.json asks for it",
        ),
    ];
    for (files, expected) in table {
        let (_, warnings) = Host::new(ALL, files).with(choose).unwrap();
        assert_eq!(warnings.join("; "), *expected, "{files:?}");
    }
}

#[test]
fn links_to_what_was_not_deployed_are_named() {
    let host = Host::new(ALL, &[package_json("{}"), ("lib/", "")]);
    let modules = host.dir.join("release/node_modules");
    std::fs::create_dir_all(modules.join("@s")).unwrap();
    std::fs::create_dir_all(host.dir.join("outside")).unwrap();
    for (name, target) in [
        ("inside", "../lib"),
        ("gone", "../../lib"),
        ("@s/out", "../../../outside"),
        (".bin", "nowhere"),
    ] {
        std::os::unix::fs::symlink(target, modules.join(name)).unwrap();
    }
    let why = "which is not in the release: a dependency by path must be in what is deployed";
    assert_eq!(
        host.with(warnings),
        [
            format!("node_modules/@s/out leads to \"../../../outside\", {why}"),
            format!("node_modules/gone leads to \"../../lib\", {why}"),
        ]
    );
}

#[test]
fn the_request_is_stronger_than_the_manifest() {
    let manifest = r#"{"install_command": "make deps", "install_timeout": 7}"#;
    let mut host = Host::new(
        &[],
        &[("gangplank.json", manifest), ("package.json", "broken")],
    );
    let timeout = |host: &Host| match host.with(choose) {
        Ok((Choice::Run(installer), _)) => (installer.manager, installer.timeout),
        other => panic!("{other:?}"),
    };
    assert_eq!(timeout(&host), ("make".into(), Duration::from_secs(7)));
    host.options.install_command = Some("  ./own thing".into());
    assert_eq!(host.words(), "sh -c   ./own thing");
    assert_eq!(timeout(&host), ("./own".into(), Duration::from_secs(7)));
    host.options.install_timeout = Some(1500);
    assert_eq!(timeout(&host).1, Duration::from_millis(1500));
    std::fs::write(host.dir.join("release/gangplank.json"), "{}").unwrap();
    host.options.install_timeout = None;
    assert_eq!(timeout(&host).1, Duration::from_secs(60));
}

#[test]
fn missing_engines_are_judged_by_on_fail() {
    let missing = "tool is not installed on the server, but devEngines.packageManager of package.json asks for it";
    let table: &[(&str, Result<&str, &str>, usize)] = &[
        (r#"{"name": "tool"}"#, Err(missing), 0),
        (r#"{"name": "tool", "onFail": "error"}"#, Err(missing), 0),
        (r#"{"name": "tool", "onFail": "download"}"#, Err(missing), 0),
        (r#"{"name": "tool", "onFail": "whatever"}"#, Err(missing), 0),
        (r#"{"name": "tool", "onFail": "warn"}"#, Ok("yarn"), 1),
        (r#"{"name": "tool", "onFail": "ignore"}"#, Ok("yarn"), 0),
        (r#"{"name": "npm", "onFail": "error"}"#, Ok("npm"), 0),
        (
            r#"[{"name": "tool"}, {"name": "tool", "onFail": "warn"}]"#,
            Ok("yarn"),
            1,
        ),
        (
            r#"[{"name": "tool", "onFail": "error"}, {"name": "npm"}]"#,
            Err(missing),
            0,
        ),
        (r#"[{"name": "other"}, {"name": "tool"}]"#, Err(missing), 0),
        ("[]", Ok("yarn"), 0),
        (
            r#"{"name": "../x"}"#,
            Err("does not name a program: \"../x\""),
            0,
        ),
        (
            r#"{"name": "--x"}"#,
            Err("does not name a program: \"--x\""),
            0,
        ),
        (r#"{"name": ""}"#, Err("does not name a program: \"\""), 0),
    ];
    for (engines, expected, warned) in table {
        let package = format!(
            r#"{{"devEngines": {{"packageManager": {engines}}}, "packageManager": "yarn@1"}}"#
        );
        let host = Host::new(ALL, &[package_json(&package)]);
        match (host.with(choose), expected) {
            (Ok((Choice::Run(installer), warnings)), Ok(manager)) => {
                assert_eq!(
                    (&*installer.manager, warnings.len()),
                    (*manager, *warned),
                    "{engines}"
                );
                assert!(
                    warnings.iter().all(|warning| warning.contains(missing)),
                    "{warnings:?}"
                );
            }
            (Err(refusal), Err(part)) => {
                assert!(refusal.message.contains(part), "{engines}: {refusal}")
            }
            (other, _) => panic!("{engines}: {other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[("package.json", "{\n")], "reading package.json: line 2: "),
        (
            &[("gangplank.json", "{\"x\": 1}")],
            "reading gangplank.json: line 1: ",
        ),
        (
            &[package_json(r#"{"packageManager": "../evil@1"}"#)],
            "does not name a program: \"../evil@1\"",
        ),
        (
            &[package_json(r#"{"packageManager": ""}"#)],
            "does not name a program",
        ),
    ];
    for (files, part) in table {
        let refusal = Host::new(ALL, files).with(choose).unwrap_err();
        assert_eq!(refusal.code, Code::LoadFailed);
        assert!(refusal.message.contains(part), "{refusal}");
    }
}

#[test]
fn a_manager_runs_in_the_release_with_its_environment() {
    let mut host = Host::new(
        &[],
        &[("package.json", DEPENDS), ("package-lock.json", "{}")],
    );
    host.environment.push(("HOME".into(), "/home/x".into()));
    host.program(
        "npm",
        "echo \"$*\"; pwd; echo \"$KEPT $HOME $GANGPLANK_CHILD $GANGPLANK_DEPLOYMENT_ID $GANGPLANK_PROJECT\"; read x || echo closed >&2",
    );
    let (result, lines) = host.install();
    assert_eq!(result, Ok(4));
    let of = |stream| {
        lines
            .iter()
            .filter(move |line| line.stream == stream)
            .map(|line| line.line.as_str())
    };
    let release = host.dir.join("release").canonicalize().unwrap();
    let environment = "yes /home/x id 01890000-0000-7000-8000-000000000000 demo";
    let expected = [
        "ci --ignore-scripts",
        release.to_str().unwrap(),
        environment,
    ];
    assert_eq!(of(Stream::Stdout).collect::<Vec<_>>(), expected);
    assert_eq!(of(Stream::Stderr).collect::<Vec<_>>(), ["closed"]);
    assert!(lines.iter().all(|line| line.manager == "npm"));
}

#[test]
fn modern_yarn_is_told_by_its_environment() {
    let host = Host::new(ALL, &[("package.json", DEPENDS), ("yarn.lock", MODERN)]);
    let (_, lines) = host.install();
    assert_eq!(lines[1].line, "false");
}

#[test]
fn the_servers_own_variables_are_not_passed_on() {
    let all = [
        "PATH",
        "GANGPLANK_TOKEN",
        "GANGPLANK_ROOT",
        "HARPER_CLI_USERNAME",
        "HARPER_CLI_PASSWORD",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "CREDENTIALS_DIRECTORY",
        "SSH_AUTH_SOCK",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "WATCHDOG_USEC",
        "CLI_TARGET_PASSWORD",
        "XDG_CACHE_HOME",
        "HOME",
        "NOTIFY",
    ];
    let kept = |account: Option<&Account>| {
        let all = all.iter().map(|key| (OsString::from(key), OsString::new()));
        let text = |text: OsString| text.into_string().unwrap();
        environment(all, account)
            .into_iter()
            .map(|(key, value)| format!("{}={}", text(key), text(value)))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(None), ["PATH=", "XDG_CACHE_HOME=", "HOME=", "NOTIFY="]);
    let app = Account::find("app", "app:x:1:2::/srv/app:", "").unwrap();
    let own = [
        "PATH=",
        "NOTIFY=",
        "HOME=/srv/app",
        "USER=app",
        "LOGNAME=app",
    ];
    assert_eq!(kept(Some(&app)), own);
}

#[test]
fn failures_say_what_failed_and_what_was_printed() {
    let table = [
        (
            "echo out; exit 3",
            Code::InstallFailed,
            "installing dependencies of demo with npm: exit code 3",
            1,
        ),
        (
            "echo a; echo b >&2; kill -9 $$",
            Code::InstallFailed,
            "installing dependencies of demo with npm: killed by signal 9",
            2,
        ),
        (
            "echo a; while :; do read -r x </dev/zero; done",
            Code::InstallTimeout,
            "installing dependencies of demo with npm: timed out after 0.3s",
            1,
        ),
    ];
    for (script, code, message, lines) in table {
        let mut host = Host::new(&[], &[("package.json", DEPENDS)]);
        host.program("npm", script);
        if code == Code::InstallTimeout {
            host.options.install_timeout = Some(300);
        }
        let failed = host.install().0.unwrap_err();
        assert_eq!(failed.refusal, Refusal::new(code, message));
        assert_eq!(
            (failed.output.lines.len(), failed.output.dropped_lines),
            (lines, 0),
            "{script}"
        );
    }
}

#[test]
fn only_the_last_lines_come_with_a_failure() {
    let host = Host::new(&[], &[("package.json", DEPENDS)]);
    host.program(
        "npm",
        "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; exit 1",
    );
    let (result, lines) = host.install();
    let output = result.unwrap_err().output;
    assert_eq!(
        (lines.len(), output.lines.len(), output.dropped_lines),
        (1000, 200, 800)
    );
    assert_eq!(output.lines, lines[800..]);
}

#[test]
fn a_command_runs_in_a_shell() {
    let mut host = Host::new(&[], &[]);
    host.options.install_command =
        Some("echo a | { read x; echo \"$x$x\"; }; no-such-program".into());
    let (result, lines) = host.install();
    let failed = result.unwrap_err();
    assert_eq!(
        failed.refusal.message,
        "installing dependencies of demo with echo: exit code 127"
    );
    assert_eq!(lines[0].line, "aa");
    assert_eq!(lines[0].manager, "echo");
}

#[test]
fn a_manager_that_is_not_there_is_named_with_what_asked_for_it() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (
            &[("package.json", DEPENDS)],
            "npm is not installed on the server, but package.json asks for it",
        ),
        (
            &[("package.json", DEPENDS), ("yarn.lock", "")],
            "yarn is not installed on the server, but yarn.lock asks for it",
        ),
        (
            &[package_json(r#"{"packageManager": "pnpm@9"}"#)],
            "pnpm is not installed on the server, but packageManager of package.json asks for it",
        ),
    ];
    for (files, part) in table {
        let failed = Host::new(&[], files).install().0.unwrap_err();
        assert_eq!(failed.refusal.code, Code::InstallFailed);
        assert!(failed.refusal.message.contains(part), "{}", failed.refusal);
    }
    // A file that nobody may run is not there either, nor one in a relative PATH.
    let mut host = Host::new(&["npm"], &[("package.json", DEPENDS)]);
    host.environment = vec![("PATH".into(), ".:bin:".into())];
    assert!(host.install().0.is_err());
    let host = Host::new(&["npm"], &[("package.json", DEPENDS)]);
    std::fs::set_permissions(
        host.dir.join("bin/npm"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    assert!(
        host.install()
            .0
            .unwrap_err()
            .refusal
            .message
            .contains("not installed")
    );
}

#[test]
fn a_manager_without_its_interpreter_is_no_bug_of_ours() {
    let host = Host::new(&[], &[("package.json", DEPENDS)]);
    host.program_file("npm", "#!/no/such/interpreter\n");
    let refusal = host.install().0.unwrap_err().refusal;
    assert_eq!(refusal.code, Code::InstallFailed, "{refusal}");
}

#[test]
fn a_stop_cancels() {
    let mut host = Host::new(&[], &[("package.json", DEPENDS)]);
    host.program("npm", "echo up; while :; do read -r x </dev/zero; done");
    let Ok((Choice::Run(installer), _)) = host.with(choose) else {
        panic!()
    };
    let mut stopper = host.stopper.take();
    let result = host.with(|request| {
        run(request, &installer, &mut |_| {
            stopper.take();
            Ok(())
        })
    });
    assert_eq!(result.unwrap_err().refusal.code, Code::Cancelled);
}

#[test]
fn who_leaves_the_group_is_ended_with_it() {
    let mut host = Host::new(&[], &[]);
    host.environment[0].1.push(":/usr/bin:/bin");
    host.options.install_command = Some("setsid sleep 60 & echo $!; sleep 60".into());
    host.options.install_timeout = Some(300);
    let (result, lines) = host.install();
    assert_eq!(result.unwrap_err().refusal.code, Code::InstallTimeout);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lines[0].line));
    // An orphan may wait a moment for its new parent to collect it.
    assert!(stat.is_err() || stat.unwrap().contains(") Z"));
}

#[test]
fn a_failing_journal_fails_the_run() {
    let host = Host::new(&["npm"], &[("package.json", DEPENDS)]);
    let Ok((Choice::Run(installer), _)) = host.with(choose) else {
        panic!()
    };
    let full = || {
        Error::new(
            "writing the journal",
            io::Error::from(io::ErrorKind::StorageFull),
        )
    };
    let result = host.with(|request| run(request, &installer, &mut |_| Err(full())));
    assert_eq!(result.unwrap_err().refusal.code, Code::NoSpace);
}

#[test]
fn checks() {
    let table = [
        ("{}", Ok(0)),
        (r#"{"check": "echo ok"}"#, Ok(1)),
        (
            r#"{"check": "echo no; exit 4"}"#,
            Err("checking demo with 'echo no; exit 4': exit code 4"),
        ),
        (
            r#"{"check": "while :; do read -r x </dev/zero; done", "install_timeout": 1}"#,
            Err("checking demo with 'while :; do read -r x </dev/zero; done': timed out after 1s"),
        ),
    ];
    for (manifest, expected) in table {
        let host = Host::new(&[], &[("gangplank.json", manifest)]);
        let manifest = crate::engine::manifest::manifest(&host.dir.join("release")).unwrap();
        let mut lines = Vec::new();
        let result = host.with(|request| {
            check(request, &manifest, &mut |more| {
                lines.extend(more);
                Ok(())
            })
        });
        assert!(lines.iter().all(|line| line.manager == "echo"));
        let expected = expected.map_err(|message| Refusal::new(Code::LoadFailed, message));
        assert_eq!(result.map_err(|failed| failed.refusal), expected);
    }
}
