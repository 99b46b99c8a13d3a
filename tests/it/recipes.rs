//! What the README shows works as it stands there: its blocks are taken out of it and run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use crate::needs::{have, is_root, may};
use crate::ports::free_port;
use crate::proxy::nginx;
use crate::test_server::{BINARY, TempDir, TestServer, bare, names};

/// The block of the README below `<!-- recipe: NAME -->`.
pub(crate) fn recipe(name: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(readme).unwrap();
    let mark = format!("<!-- recipe: {name} -->\n```");
    let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("{name}"));
    let (_, block) = rest.split_once('\n').unwrap();
    block.split_once("\n```").unwrap().0.to_owned()
}

/// A user with a home, a server of their own, and gangplank in the path.
struct User {
    host: TestServer,
    home: TempDir,
    port: u16,
}

/// Becomes a server under what the unit of the README says: a user without a home, a system that is read-only, neither homes nor
/// the temporary files of others, no way to get rights. The first argument is the binary, the last one its root.
const SERVICE: &str = r#"
binary=$1 root=$2
mount --make-rprivate /
mount --bind "$root" /mnt
mount -t tmpfs none /var/tmp && mkdir /var/tmp/bin && cp "$binary" /var/tmp/bin/gangplank
for dir in /home /root /tmp; do mount -t tmpfs none "$dir" && chmod 1777 "$dir"; done
mkdir -p "$root" && mount --move /mnt "$root"
mount -o remount,bind,ro /
cd / && shift 2
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/nonexistent \
    setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs /var/tmp/bin/gangplank "$@"
"#;

/// Whether a server can be started like that here.
fn may_serve_as_a_service() -> bool {
    let mounts = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"];
    is_root() && have("unshare") && have("setpriv") && may(&mounts)
}

impl User {
    fn new() -> User {
        User::with(|root| TestServer::on(root, &[], &[]))
    }

    /// The server is a service of the system's.
    fn of_a_service() -> User {
        User::with(|root| {
            std::os::unix::fs::chown(&root.0, Some(65534), Some(65534)).unwrap();
            let mut command = bare("unshare");
            command.args(["-m", "sh", "-euc", SERVICE, "sh", BINARY]);
            command.arg(&root.0);
            TestServer::launch(command, root, &[])
        })
    }

    fn with(serve: impl Fn(Arc<TempDir>) -> TestServer) -> User {
        let home = TempDir::new();
        fs::create_dir(home.0.join("bin")).unwrap();
        std::os::unix::fs::symlink(BINARY, home.0.join("bin/gangplank")).unwrap();
        let root = home.0.join("gangplank");
        fs::create_dir(&root).unwrap();
        let host = serve(Arc::new(TempDir(root)));
        // Free just now; nobody but the system gives it to another one in between.
        let port = free_port();
        User { host, home, port }
    }

    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = bare("sh");
        command
            .args(["-eu", "-c", &script.replace("8080", &self.port.to_string())])
            .current_dir(&self.home.0)
            .env("PATH", format!("{}/bin:{path}", self.home.0.display()))
            .env("HOME", &self.home.0)
            .env("GANGPLANK_ROOT", &self.host.root.0);
        // Cargo finds its toolchain by these, or by the home.
        for (name, dir) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let home = std::env::var("HOME").unwrap_or_default();
            let value = std::env::var(name).unwrap_or_else(|_| format!("{home}/{dir}"));
            command.env(name, value);
        }
        command.env_remove("CARGO_TARGET_DIR");
        command
    }

    /// Runs it, and gives what it printed.
    fn run(&self, script: &str) -> String {
        let output = self.shell(script).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}\n--- {}\n{printed}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        printed
    }
}

#[test]
fn the_first_app_runs_and_keeps_its_data() {
    if !have("curl") || !have("python3") {
        return;
    }
    let user = User::new();
    let printed = user.run(&recipe("first"));
    assert!(printed.ends_with("<h1>Hello</h1>\n"), "{printed}");
    assert!(
        printed.contains("web") && printed.contains("beat"),
        "{printed}"
    );
    let again = user.run("cd hello && echo two > index.html && gangplank deploy && gangplank rollback hello && gangplank logs hello");
    assert!(again.contains("GET /"), "{again}");
    assert!(user.host.path("shared/hello").is_dir());
}

#[test]
fn the_recipe_for_node_answers_while_it_is_deployed_again() {
    if !have("curl") || !have("node") {
        return;
    }
    let user = User::new();
    let printed = user.run(&recipe("node"));
    assert!(printed.ends_with("node\n"), "{printed}");
    let again = "cd node-app; gangplank deploy & while kill -0 $! 2>/dev/null; do curl -fsS http://127.0.0.1:8080/ >/dev/null; done; wait $!";
    user.run(again);
}

#[test]
fn the_recipe_for_python_has_what_it_installed() {
    if !have("curl") || !have("python3") {
        return;
    }
    let user = User::new();
    let printed = user.run(&recipe("python"));
    assert!(printed.contains("app.py"), "{printed}");
    let line = fs::read_to_string(user.host.path("components/python-app/.venv/pyvenv.cfg"));
    assert!(line.unwrap().contains("version"));
}

#[test]
fn the_recipe_for_static_files_is_served_by_nginx() {
    if !have("curl") || !have("nginx") || !have("openssl") {
        return;
    }
    let user = User::new();
    user.run(&recipe("static"));
    let dir = TempDir::new();
    let root = user.host.root.0.display().to_string();
    let location = recipe("nginx").replace("/var/lib/gangplank", &root);
    let (_nginx, port) = nginx(&dir.0, &location);
    let page = |user: &User| user.run(&format!("curl -fsSk https://localhost:{port}/"));
    assert_eq!(page(&user), "<h1>Static</h1>\n");
    user.run("echo new > site/public/index.html && gangplank deploy site");
    assert_eq!(page(&user), "new\n");
}

#[test]
fn the_recipe_for_rust_deploys_what_was_built() {
    if !have("curl") {
        return;
    }
    let user = User::new();
    let printed = user.run(&recipe("rust"));
    assert!(printed.ends_with("rust\n"), "{printed}");
}

/// What a system's own Python needs to make a virtual environment.
const VENV: &[&str] = &["/usr/bin/python3", "-c", "import venv, ensurepip"];

#[test]
fn the_recipes_run_for_a_user_without_a_home_under_the_unit_s_restrictions() {
    if !have("curl") || !have("node") || !have("python3") || !may_serve_as_a_service() {
        return;
    }
    let mut recipes = vec![("first", "Hello"), ("node", "node"), ("rust", "rust")];
    if may(VENV) {
        recipes.push(("python", "app.py"));
    }
    for (name, answer) in recipes {
        let user = User::of_a_service();
        let printed = user.run(&recipe(name));
        assert!(printed.contains(answer), "{name}: {printed}");
        let release = fs::metadata(user.host.path("releases")).unwrap();
        assert_eq!(release.uid(), 65534, "{name}");
    }
}

/// A package of npm as a directory that another one depends on: its program answers on `PORT` with what it was called.
fn stand_in(app: &Path, package: &str, program: &str) {
    let dir = app.join("stand-ins").join(program);
    fs::create_dir_all(&dir).unwrap();
    let described = json!({"name": package, "version": "1.0.0", "bin": {program: "cli.js"}});
    fs::write(dir.join("package.json"), described.to_string()).unwrap();
    let code = "#!/usr/bin/env node\n\
        const called = process.argv.slice(2).join(' ');\n\
        if (called === 'build') require('fs').writeFileSync('built', 'yes');\n\
        else require('http').createServer((_, response) => response.end(called)).listen(process.env.PORT, '127.0.0.1');\n";
    fs::write(dir.join("cli.js"), code).unwrap();
}

#[test]
fn start_scripts_of_frameworks_find_what_was_installed() {
    if !have("curl") || !have("npm") {
        return;
    }
    // The scripts are those of create-next-app and of @nestjs/cli.
    for (package, program, scripts) in [
        (
            "next",
            "next",
            json!({"dev": "next dev", "build": "next build", "start": "next start", "lint": "next lint"}),
        ),
        (
            "@nestjs/cli",
            "nest",
            json!({"build": "nest build", "start": "nest start", "start:dev": "nest start --watch"}),
        ),
    ] {
        let user = User::new();
        let app = user.home.0.join(program);
        stand_in(&app, package, program);
        let described = json!({"name": program, "private": true, "scripts": scripts,
            "dependencies": {package: format!("file:stand-ins/{program}")}});
        fs::write(app.join("package.json"), described.to_string()).unwrap();
        user.run(&format!(
            "gangplank env set {program} PORT=8080; gangplank deploy {program}"
        ));
        let answer = user.run("curl -fsS http://127.0.0.1:8080/");
        assert_eq!(answer, "start");
        // What follows in an install command finds it, too.
        let build = format!("npm install --no-audit --no-fund --offline && {program} build");
        user.run(&format!(
            "gangplank deploy {program} --install-command '{build}'"
        ));
        assert!(
            user.host
                .path(&format!("components/{program}/built"))
                .exists()
        );
    }
}

#[test]
fn serve_from_npm_serves() {
    let registry = [
        "npm",
        "view",
        "serve@14.2.4",
        "version",
        "--fetch-timeout=5000",
        "--fetch-retries=0",
    ];
    if !have("curl") || !have("npm") || !may(&registry) {
        return;
    }
    let user = User::new();
    let app = user.home.0.join("site");
    fs::create_dir_all(app.join("public")).unwrap();
    fs::write(app.join("public/index.html"), "served").unwrap();
    let described = json!({"name": "site", "scripts": {"start": "serve --no-clipboard -l tcp://127.0.0.1:$PORT public"},
        "dependencies": {"serve": "14.2.4"}});
    fs::write(app.join("package.json"), described.to_string()).unwrap();
    let url = json!({"health": {"http": format!("http://127.0.0.1:{}/", user.port)}});
    fs::write(app.join("gangplank.json"), url.to_string()).unwrap();
    user.run("gangplank env set site PORT=8080; gangplank deploy site");
    assert_eq!(user.run("curl -fsS http://127.0.0.1:8080/"), "served");
}

/// A line without what is another one each time: ids, times, sizes, ports and numbers of processes.
fn steady(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.trim_end();
    while let Some(at) = rest.find(|sign: char| sign.is_ascii_digit()) {
        out += &rest[..at];
        let word = &rest[at..];
        let end = word.find(|sign: char| !(sign.is_ascii_hexdigit() || "-.".contains(sign)));
        let number = &word[..end.unwrap_or(word.len())];
        // What the sample component calls its versions, and exit codes, stay.
        let is_small = number.len() == 1 && !out.ends_with('(');
        out += if is_small { number } else { "N" };
        rest = &word[number.len()..];
    }
    out + rest
}

#[test]
fn the_demo_shows_what_the_readme_says() {
    let temporary = TempDir::new();
    let shown = bare("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo.sh"))
        .env("GANGPLANK", BINARY)
        .env("TMPDIR", &temporary.0)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let (printed, told) = (
        String::from_utf8_lossy(&shown.stdout),
        String::from_utf8_lossy(&shown.stderr),
    );
    assert!(shown.status.success(), "{printed}\n{told}");
    // Both go to one terminal; which line comes from which output is nobody's business.
    let all: Vec<String> = printed.lines().chain(told.lines()).map(steady).collect();
    let block = recipe("demo");
    assert!(block.lines().count() <= 22);
    for line in block.lines().filter(|line| *line != "[...]") {
        assert!(all.contains(&steady(line)), "{line}\n{printed}\n{told}");
    }
    assert!(names(&temporary.0).is_empty());
}

/// The lines of a file for a CI system that a shell runs there.
fn shell_lines(system: &str, text: &str) -> String {
    if system == "Jenkinsfile" {
        return text.split("'''").nth(1).unwrap().to_owned();
    }
    let mut script = String::new();
    let mut inside = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        // A block goes on as long as its lines stand deeper than its key.
        if inside.is_some_and(|key| indent <= key) {
            inside = None;
        }
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        let command = match (inside, key) {
            (Some(_), _) => line.trim_start_matches("- "),
            (None, "run") if value != "|" => value,
            (None, "run" | "run: |" | "script:" | "commands:") => {
                inside = Some(indent);
                continue;
            }
            _ => continue,
        };
        script += command;
        script.push('\n');
    }
    script
}

#[test]
fn the_files_for_ci_get_the_program_and_deploy_or_fail() {
    if !have("curl") {
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ci");
    let user = User::new();
    let app = user.home.0.join("my-app");
    let token = user.run("gangplank token add runner --role deploy --project my-app");
    let download = user.home.0.join("download");
    let runner = user.home.0.join("runner");
    fs::create_dir(&runner).unwrap();
    fs::copy(BINARY, &download).unwrap();
    let hash = user.run(&format!("sha256sum {}", download.display()));
    let hash = hash.split_whitespace().next().unwrap();
    let systems = [
        ("github.yml", "github", "GITHUB_ACTIONS"),
        ("gitlab-ci.yml", "gitlab", "GITLAB_CI"),
        ("Jenkinsfile", "", "JENKINS_HOME"),
        ("woodpecker.yml", "woodpecker", "CI_PIPELINE_ID"),
    ];
    let mut deployed = 0;
    for (file, block, variable) in systems {
        let text = fs::read_to_string(dir.join(file)).unwrap();
        assert!(
            block.is_empty() || recipe(block) == text.trim_end(),
            "{file}"
        );
        let lines = shell_lines(file, &text);
        assert!(lines.contains("gangplank deploy"), "{file}: {lines}");
        // It fails where the component cannot be built, where the program is another one, and deploys else.
        for (install, hash, succeeds) in [
            ("echo no >&2; exit 3", hash, false),
            ("true", "0000", false),
            ("true", hash, true),
        ] {
            let _ = fs::remove_dir_all(&app);
            fs::create_dir(&app).unwrap();
            let described = json!({ "install_command": install });
            fs::write(app.join("gangplank.json"), described.to_string()).unwrap();
            let told = |name: &str| user.home.0.join(name);
            let (output, summary) = (told("output"), told("summary"));
            let _ = (fs::remove_file(&output), fs::remove_file(&summary));
            let ended = user
                .shell(&format!("set -e\n{lines}"))
                .current_dir(&app)
                .env_remove("GANGPLANK_ROOT")
                .env("GANGPLANK_TARGET", format!("http://{}", user.host.address))
                .env("GANGPLANK_TOKEN", token.trim())
                .env("HOME", &runner)
                .envs([("STATUS", ""), ("DEPLOYMENT", ""), ("BUILD_TAG", "tag")])
                .env(
                    "GANGPLANK_DOWNLOAD",
                    format!("file://{}", download.display()),
                )
                .env("GANGPLANK_SHA256", hash)
                .env("CI", "true")
                .env(variable, "true")
                .env("GITHUB_OUTPUT", &output)
                .env("GITHUB_STEP_SUMMARY", &summary)
                .env("GITHUB_REF_NAME", "main")
                .env("GITHUB_ACTOR", "somebody")
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.success(), succeeds, "{file}: {lines}\n{shown}");
            deployed += u32::from(succeeds);
            let has_begun = hash != "0000";
            let folds = match block {
                "github" => "::group::install",
                "gitlab" => "section_start:",
                _ => "install done",
            };
            assert!(
                !has_begun || !succeeds || shown.contains(folds),
                "{file}: {shown}"
            );
            assert_eq!(
                shown.contains('\u{1b}'),
                block == "gitlab" && has_begun,
                "{shown}"
            );
            // Only GitHub's runner is told in files.
            assert_eq!(output.exists(), block == "github" && has_begun, "{file}");
            if output.exists() {
                let output = fs::read_to_string(&output).unwrap();
                let status = if succeeds {
                    "status=success"
                } else {
                    "status=failed"
                };
                assert!(
                    output.contains(status) && output.contains("\nproject=my-app\n"),
                    "{output}"
                );
                assert!(output.contains("\ndeployment_id="), "{output}");
                let summary = fs::read_to_string(&summary).unwrap();
                assert!(summary.contains("### gangplank: my\\-app"), "{summary}");
            }
        }
    }
    let list = user.run("gangplank list --project my-app --status success --output json");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["total"], deployed, "{list}");
}
