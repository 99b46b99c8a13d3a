//! A git repository: one commit of it, with its submodules.
//!
//! git is given no way to run anything that the repository, its server or this host has set up: no configuration but ours,
//! no hooks, no templates, no transports but the few that are named, and nobody to ask. Its own ways to credentials stay: the
//! key of ssh, `~/.netrc`, and `GIT_ASKPASS` or `GIT_SSH_COMMAND` of the component's environment. The credentials of a URL go
//! to git by its environment and to the URL's own host alone.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::api::event::Event;
use crate::api::package::{PackageUrl, is_commit};
use crate::api::source::SourceRevision;
use crate::engine::attempt::Attempt;
use crate::engine::fetch::FetchRequest;
use crate::engine::fetch::local::pack;
use crate::engine::fetch::payload::FetchedPayload;
use crate::engine::fetch::step::{FetchProgram, Says, StepError};
use crate::engine::fetch::workspace::Workspace;
use crate::engine::outcome::Failed;
use crate::formats::archive::PackOptions;
use crate::system::child::act_as;
use crate::system::files::open_at_once;

/// The variables of git's that somebody may set who knows what a component needs. All others could change what is run, or
/// make git print what it sends.
const KEPT: [&[u8]; 9] = [
    b"GIT_ASKPASS",
    b"GIT_SSH",
    b"GIT_SSH_COMMAND",
    b"GIT_SSH_VARIANT",
    b"GIT_SSL_CAINFO",
    b"GIT_SSL_CAPATH",
    b"GIT_SSL_CERT",
    b"GIT_SSL_KEY",
    b"GIT_SSL_NO_VERIFY",
];
/// A credential helper that answers with what is in its environment.
const HELPER: &str = "!f() { test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \
                      \"$GANGPLANK_FETCH_USERNAME\" \"$GANGPLANK_FETCH_PASSWORD\"; }; f";
/// What a Git LFS pointer begins with, and how long one is at most.
const LFS: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);
/// How many pointers are named.
const POINTERS_NAMED: usize = 3;
/// The shortest beginning of a commit's name that git takes.
const COMMIT_LEN_MIN: usize = 7;

/// Fetches a commit.
pub(super) fn fetch(
    request: &FetchRequest<'_>,
    (url, reference): (&PackageUrl, Option<&str>),
    attempt: &mut Attempt,
    payload: &mut FetchedPayload<'_>,
) -> Result<Option<SourceRevision>, Box<Failed>> {
    let workspace = Workspace::make(request)?;
    let own = variables(request, url);
    let git = FetchProgram::find(request, "git", keeps, own)?;
    let tree = workspace.path().join("tree");
    let mut checkout = Checkout {
        request,
        git,
        tree: &tree,
        attempt,
    };
    checkout.clone_to(workspace.path(), url, reference)?;
    let commit = checkout.commit(reference)?;
    checkout.submodules()?;
    let pointers = act_as(request.account, || lfs_pointers(&tree));
    let pointers = pointers.map_err(|error| request.failed(error))?;
    if let Some(warning) = about_pointers(&pointers) {
        attempt.emit(&Event::Warning(warning))?;
    }
    // What is committed is meant to be there.
    let options = PackOptions {
        include_node_modules: true,
        include_secrets: true,
        ..PackOptions::default()
    };
    pack(request, &tree, options, attempt, payload)?;
    let branch = reference.filter(|reference| !is_commit(reference));
    Ok(SourceRevision::found(
        Some(commit),
        branch.map(str::to_owned),
        None,
    ))
}

fn keeps(name: &[u8]) -> bool {
    match name.starts_with(b"GIT_") {
        true => KEPT.contains(&name),
        // It would ask somebody at a screen.
        false => name != b"SSH_ASKPASS",
    }
}

/// A working tree that is being made.
struct Checkout<'a, 'b> {
    request: &'a FetchRequest<'a>,
    git: FetchProgram<'a>,
    tree: &'b Path,
    attempt: &'b mut Attempt,
}

impl Checkout<'_, '_> {
    fn run(&mut self, words: &[&str]) -> Result<(), Box<Failed>> {
        let ran = self.git.run(self.tree, words, Says::Progress, self.attempt);
        ran.map(drop)
    }

    /// Runs it; says why if it did not end well.
    fn tries(&mut self, words: &[&str], says: Says) -> Result<Option<String>, Box<Failed>> {
        let tried = self.git.try_run(self.tree, words, says, self.attempt);
        match tried {
            Ok(_) => Ok(None),
            Err(StepError::Ended(why)) => Ok(Some(why)),
            Err(StepError::Refused(refusal)) => Err(self.git.failed(refusal)),
        }
    }

    fn clone_to(
        &mut self,
        dir: &Path,
        url: &PackageUrl,
        reference: Option<&str>,
    ) -> Result<(), Box<Failed>> {
        let init = ["init", "--quiet", "--template=", "tree"];
        self.git.run(dir, &init, Says::Progress, self.attempt)?;
        let url = url.reveal();
        self.run(&["remote", "add", "origin", &url])?;
        let wanted = reference.unwrap_or("HEAD");
        let to_head = ["checkout", "--quiet", "--detach", "FETCH_HEAD"];
        let one = ["fetch", "--progress", "--no-tags", "origin", wanted];
        let shallow = [&one[..3], &["--depth=1"], &one[3..]].concat();
        let Some(why) = self.tries(&shallow, Says::Progress)? else {
            return self.run(&to_head);
        };
        let is_commit =
            wanted.len() >= COMMIT_LEN_MIN && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_commit {
            // A server need not give a commit by its name, and none gives one by its beginning: all of them are fetched.
            let heads = "+refs/heads/*:refs/remotes/origin/*";
            let tags = "+refs/tags/*:refs/tags/*";
            self.run(&["fetch", "--progress", "--no-tags", "origin", heads, tags])?;
            let commit = format!("{wanted}^{{commit}}");
            let look = ["rev-parse", "--verify", "--quiet", &commit];
            if self.tries(&look, Says::Answer)?.is_some() {
                let why = format!("git: no branch and no tag has a commit {wanted}");
                return Err(self.git.failed(self.request.failed(why)));
            }
            return self.run(&["checkout", "--quiet", "--detach", &commit]);
        }
        // A repository that is only a directory of a web server cannot give a part of itself.
        if why.contains("shallow") {
            self.run(&one)?;
            return self.run(&to_head);
        }
        Err(self.git.failed(self.request.failed(why)))
    }

    /// The commit that came, which is the one that was asked for by its name.
    fn commit(&mut self, reference: Option<&str>) -> Result<String, Box<Failed>> {
        let words = ["rev-parse", "--verify", "HEAD"];
        let answer = self
            .git
            .run(self.tree, &words, Says::Answer, self.attempt)?;
        let commit = answer.into_iter().next().unwrap_or_default();
        let asked = reference.filter(|reference| is_commit(reference));
        match asked.map(str::to_ascii_lowercase) {
            Some(asked) if asked != commit => {
                let why = format!("what came is another commit: {commit}");
                Err(self.git.failed(self.request.failed(why)))
            }
            _ => Ok(commit),
        }
    }

    fn submodules(&mut self) -> Result<(), Box<Failed>> {
        if self.tree.join(".gitmodules").symlink_metadata().is_err() {
            return Ok(());
        }
        let update = ["submodule", "update", "--init", "--recursive", "--progress"];
        let shallow: Vec<&str> = update.into_iter().chain(["--depth=1"]).collect();
        // Their servers need not give the one commit alone.
        match self.tries(&shallow, Says::Progress)? {
            None => Ok(()),
            Some(_) => self.run(&update),
        }
    }
}

/// What git's environment has beside the component's.
fn variables(request: &FetchRequest<'_>, url: &PackageUrl) -> Vec<(OsString, OsString)> {
    let mut config = vec![
        ("core.hooksPath", "/dev/null".to_owned()),
        ("core.fsmonitor", "false".to_owned()),
        ("advice.detachedHead", "false".to_owned()),
        ("init.defaultBranch", "main".to_owned()),
        ("gc.auto", "0".to_owned()),
        ("maintenance.auto", "false".to_owned()),
        // Under a byte a second for a minute it has stopped.
        ("http.lowSpeedLimit", "1".to_owned()),
        ("http.lowSpeedTime", "60".to_owned()),
    ];
    let protocols = match url.scheme {
        "http" => "https:ssh:http",
        "git" => "https:ssh:git",
        _ => "https:ssh",
    };
    let helper = format!("credential.{}.helper", url.origin());
    let mut own: Vec<(OsString, OsString)> = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TEMPLATE_DIR", ""),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", protocols),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("LC_ALL", "C"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    let has_ssh = |(name, _): &(OsString, OsString)| name == "GIT_SSH_COMMAND" || name == "GIT_SSH";
    if !request.environment.iter().any(has_ssh) {
        own.push(("GIT_SSH_COMMAND".into(), "ssh -o BatchMode=yes".into()));
    }
    if let Some(credentials) = &request.package.credentials {
        config.push((&helper, HELPER.to_owned()));
        let both = [
            ("GANGPLANK_FETCH_USERNAME", credentials.username.reveal()),
            ("GANGPLANK_FETCH_PASSWORD", credentials.password.reveal()),
        ];
        own.extend(both.map(|(name, value)| (name.into(), value.into())));
    }
    own.push(("GIT_CONFIG_COUNT".into(), config.len().to_string().into()));
    for (n, (key, value)) in config.into_iter().enumerate() {
        own.push((format!("GIT_CONFIG_KEY_{n}").into(), key.into()));
        own.push((format!("GIT_CONFIG_VALUE_{n}").into(), value.into()));
    }
    own
}

/// The files of a tree that only say where their content is.
fn lfs_pointers(tree: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut dirs = vec![tree.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.file_name() != ".git" {
                dirs.push(entry.path());
            }
            if !kind.is_file() || entry.metadata()?.len() > LFS.1 {
                continue;
            }
            let mut begin = Vec::new();
            let file = open_at_once(&entry.path())?;
            file.take(LFS.0.len() as u64).read_to_end(&mut begin)?;
            if begin == LFS.0 {
                let path = entry.path();
                let name = path.strip_prefix(tree).unwrap_or(&path);
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn about_pointers(pointers: &[String]) -> Option<String> {
    let named = &pointers[..pointers.len().min(POINTERS_NAMED)];
    let more = match pointers.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if pointers.len() == 1 {
        "is a Git LFS pointer"
    } else {
        "are Git LFS pointers"
    };
    let names: Vec<String> = named.iter().map(|name| format!("{name:?}")).collect();
    (!pointers.is_empty()).then(|| {
        format!(
            "{}{more} {verb}: the content is not in the repository, and is not fetched",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_run_something_or_print_secrets_is_not_passed_on() {
        for kept in [
            "PATH",
            "HOME",
            "GIT_SSH_COMMAND",
            "GIT_ASKPASS",
            "HTTPS_PROXY",
            "SSH_AUTH_SOCK",
        ] {
            assert!(keeps(kept.as_bytes()), "{kept}");
        }
        for dropped in [
            "GIT_CONFIG_COUNT",
            "GIT_CONFIG_PARAMETERS",
            "GIT_DIR",
            "GIT_EXEC_PATH",
            "GIT_TRACE",
            "GIT_TRACE_CURL",
            "GIT_TRACE_REDACT",
            "GIT_ALLOW_PROTOCOL",
            "GIT_TEMPLATE_DIR",
            "GIT_PROXY_COMMAND",
            "GIT_EXTERNAL_DIFF",
            "SSH_ASKPASS",
        ] {
            assert!(!keeps(dropped.as_bytes()), "{dropped}");
        }
    }

    #[test]
    fn pointers_are_named_up_to_a_few() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(about_pointers(&[]), None);
        assert!(
            about_pointers(&names[..1])
                .unwrap()
                .starts_with("\"a\" is a Git LFS pointer:")
        );
        let four = about_pointers(&names).unwrap();
        assert!(
            four.starts_with("\"a\", \"b\", \"c\" and 1 more are Git LFS pointers:"),
            "{four}"
        );
    }
}
