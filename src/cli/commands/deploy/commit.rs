//! Which commit is deployed: as the CI system says, else as git says of the directory. Whatever goes wrong here, the
//! deployment goes on without it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::api::source::SourceRevision;
use crate::cli::arguments::Environment;

/// Where CI systems say which commit and which branch they build. GitHub's branch of a pull request comes before its
/// merge.
const CI: [(&str, &[&str]); 5] = [
    ("GITHUB_SHA", &["GITHUB_HEAD_REF", "GITHUB_REF_NAME"]),
    ("CI_COMMIT_SHA", &["CI_COMMIT_REF_NAME"]),
    ("BUILDKITE_COMMIT", &["BUILDKITE_BRANCH"]),
    ("CIRCLE_SHA1", &["CIRCLE_BRANCH"]),
    ("BITBUCKET_COMMIT", &["BITBUCKET_BRANCH"]),
];

/// What git takes for a repository of a million files on a slow disk is not waited for.
const GIT_TIME: Duration = Duration::from_secs(2);

/// All that is asked is a few names; of what changed the first byte is enough.
const ANSWER_MAX: u64 = 4 << 10;

/// The commit of a directory; of an archive only a CI system knows it.
pub(super) fn of(dir: Option<&Path>, environment: Environment) -> Option<SourceRevision> {
    from_ci(environment).or_else(|| from_git(dir.filter(|dir| is_versioned(dir, environment))?))
}

/// A commit that is found out while something else is done.
pub(super) enum FoundCommit {
    Now(Option<SourceRevision>),
    Later(thread::JoinHandle<Option<SourceRevision>>),
}

impl FoundCommit {
    /// Begins to find it out.
    pub(super) fn begin(dir: Option<&Path>) -> FoundCommit {
        let environment = |name: &str| std::env::var(name).ok();
        let dir = dir.map(Path::to_owned);
        let again = dir.clone();
        let find = move || of(dir.as_deref(), &environment);
        match thread::Builder::new().name("commit".into()).spawn(find) {
            Ok(thread) => FoundCommit::Later(thread),
            Err(_) => FoundCommit::Now(of(again.as_deref(), &environment)),
        }
    }

    /// Waits for it.
    pub(super) fn end(self) -> Option<SourceRevision> {
        match self {
            FoundCommit::Now(found) => found,
            FoundCommit::Later(thread) => thread.join().ok().flatten(),
        }
    }
}

/// Whether git may know the directory: to start it where it does not takes longer than a small deployment.
fn is_versioned(dir: &Path, environment: Environment) -> bool {
    let named = environment("GIT_DIR").is_some();
    let above = |dir: &Path| dir.ancestors().any(|dir| dir.join(".git").exists());
    named || dir.canonicalize().is_ok_and(|dir| above(&dir))
}

fn from_ci(environment: Environment) -> Option<SourceRevision> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    CI.iter().find_map(|(commit, branches)| {
        // Buildkite says HEAD where it does not know better.
        let commit = set(commit).filter(|text| is_hash(text))?;
        let branch = branches.iter().find_map(|name| set(name));
        SourceRevision::found(Some(commit), branch, None)
    })
}

fn is_hash(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn from_git(dir: &Path) -> Option<SourceRevision> {
    let words = [
        "rev-parse",
        "--is-inside-work-tree",
        "HEAD",
        "--abbrev-ref",
        "HEAD",
    ];
    let said = git(dir, &words)?;
    let mut said = said.lines();
    let inside = said.next()? == "true";
    let commit = said.next().filter(|text| inside && is_hash(text))?;
    // Where no branch is checked out, git calls it HEAD.
    let branch = said.next().filter(|name| *name != "HEAD");
    let changed = [
        "status",
        "--porcelain",
        "--untracked-files=normal",
        "--",
        ".",
    ];
    let dirty = git(dir, &changed).map(|changed| !changed.is_empty());
    SourceRevision::found(Some(commit.to_owned()), branch.map(str::to_owned), dirty)
}

/// The beginning of what git says; nothing if it is not there, fails, or takes too long. It asks nobody, locks nothing, and
/// starts no program that the repository names.
fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let mut child = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(dir)
        .args(words)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    // The one answer, for which nobody may wait any longer.
    let (sender, receiver) = bounded(1);
    let reader = thread::Builder::new().name("git".into()).spawn(move || {
        let mut text = String::new();
        let read = stdout.take(ANSWER_MAX).read_to_string(&mut text);
        // Nobody waits for it after its time.
        let _ = sender.send(read.is_ok().then_some(text));
    });
    let text = match reader {
        Ok(_) => receiver.recv_timeout(GIT_TIME).ok().flatten(),
        Err(_) => None,
    };
    let Some(text) = text else {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        return None;
    };
    // Its pipe is at its end or closed, so that it ends now.
    let ended = child.wait().ok()?;
    let cut = text.len() as u64 == ANSWER_MAX;
    (ended.success() || cut).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn ci_systems_say_which_commit_they_build() {
        type Case = (
            &'static [(&'static str, &'static str)],
            Option<(&'static str, Option<&'static str>)>,
        );
        let table: [Case; 8] = [
            (&[], None),
            (&[("GITHUB_SHA", SHA)], Some((SHA, None))),
            (
                &[("GITHUB_SHA", SHA), ("GITHUB_REF_NAME", "main")],
                Some((SHA, Some("main"))),
            ),
            (
                &[
                    ("GITHUB_SHA", SHA),
                    ("GITHUB_HEAD_REF", "fix"),
                    ("GITHUB_REF_NAME", "7/merge"),
                ],
                Some((SHA, Some("fix"))),
            ),
            (
                &[
                    ("CI_COMMIT_SHA", "abcdef0"),
                    ("CI_COMMIT_REF_NAME", "v1.2"),
                    ("GITHUB_SHA", ""),
                ],
                Some(("abcdef0", Some("v1.2"))),
            ),
            (
                &[("BUILDKITE_COMMIT", "HEAD"), ("CIRCLE_SHA1", "abcdef0")],
                Some(("abcdef0", None)),
            ),
            (&[("GITHUB_SHA", "not a hash")], None),
            (
                &[("GITHUB_SHA", SHA), ("GITHUB_REF_NAME", "a\x1b[2Jb")],
                Some((SHA, None)),
            ),
        ];
        for (variables, expected) in table {
            let environment = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let expected = expected.and_then(|(commit, branch)| {
                SourceRevision::found(Some(commit.into()), branch.map(str::to_owned), None)
            });
            assert_eq!(of(None, &environment), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_directory_outside_a_work_tree_has_no_commit() {
        let dir = std::env::temp_dir().join(format!("gangplank-commit-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(of(Some(&dir), &|_| None), None);
        assert_eq!(of(Some(&dir.join("none")), &|_| None), None);
        let below = dir.join("a/b");
        fs::create_dir_all(&below).unwrap();
        let named = |name: &str| (name == "GIT_DIR").then(String::new);
        assert!(!is_versioned(&below, &|_| None) && is_versioned(&below, &named));
        // A file stands there in a second work tree.
        fs::write(dir.join(".git"), "gitdir: elsewhere").unwrap();
        assert!(is_versioned(&below, &|_| None));
        fs::remove_dir_all(&dir).unwrap();
    }
}
