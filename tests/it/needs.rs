//! What a test needs of the machine. A test that does not find it has not run, and that is no success: it is told by name
//! at the end of `make test` (or at once, by a plain `cargo test`), and where `CI` is set, what could have been installed
//! is a failure.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Names the file that the tests which did not run are written into, a line each.
const LIST: &str = "GANGPLANK_NOT_RUN";

/// Why a test cannot run here.
enum Lack<'a> {
    /// Whoever prepares the machine can mend it.
    Missing(&'a str),
    /// The machine or the kind of build forbids it, and nobody can mend that.
    Forbidden(&'a str),
}

/// True if nothing is lacking. Else the test is listed as not run; under `CI` it fails for what is merely missing.
fn runs(lack: Option<Lack<'_>>) -> bool {
    let Some(lack) = lack else {
        return true;
    };
    let need = match lack {
        Lack::Missing(need) => {
            let demanded = std::env::var_os("CI").is_some();
            assert!(!demanded, "this test needs {need}");
            need
        }
        Lack::Forbidden(need) => need,
    };
    // The test harness names each test's thread after the test.
    let thread = std::thread::current();
    let line = format!("{} needs {need}\n", thread.name().unwrap_or("a test"));
    let listed = std::env::var_os(LIST).map(|file| {
        let mut list = OpenOptions::new().append(true).create(true).open(file)?;
        list.write_all(line.as_bytes())
    });
    if !matches!(listed, Some(Ok(()))) {
        // Not by `eprint!`, which the harness keeps from being seen when a test passes.
        let _ = std::io::stderr().write_all(format!("not run: {line}").as_bytes());
    }
    false
}

/// Returns whether a program is there.
pub(crate) fn have(program: &str) -> bool {
    let version = match program {
        "openssl" => "version",
        "nginx" | "ssh" => "-V",
        _ => "--version",
    };
    let started = Command::new(program)
        .arg(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let lack = started.is_err().then_some(Lack::Missing(program));
    runs(lack)
}

/// Returns whether this machine lets us do something, by a command that tries it.
pub(crate) fn may(command: &[&str]) -> bool {
    let tried = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    allows(
        &format!("a machine that allows `{}`", command.join(" ")),
        tried.is_ok_and(|status| status.success()),
    )
}

/// Returns whether the machine allows what the test has tried itself, and what that is.
pub(crate) fn allows(what: &str, allowed: bool) -> bool {
    runs((!allowed).then_some(Lack::Forbidden(what)))
}

/// Returns whether the binary knows checkpoints and what else is only in debug builds.
pub(crate) fn is_debug_build() -> bool {
    allows("a debug build", cfg!(debug_assertions))
}

/// Returns whether the tests run as root.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    runs((!root).then_some(Lack::Missing("to be run as root")))
}

/// The directory in which `npm install harperdb@4.7.29` was run, named by `GANGPLANK_TEST_HARPERDB`. The package is large
/// and its licence is its maker's own, so that nobody has to install it: without it the test is listed as not run, under
/// `CI` too.
pub(crate) fn harperdb() -> Option<PathBuf> {
    let named = std::env::var_os("GANGPLANK_TEST_HARPERDB").map(PathBuf::from);
    allows(
        "GANGPLANK_TEST_HARPERDB, an installed harperdb",
        named.is_some(),
    );
    named
}
