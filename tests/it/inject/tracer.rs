//! The server's system calls, by a small program around it that lets one of them fail.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

use crate::test_server::{BINARY, bare};

pub(crate) const PROGRAM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/inject/supervise.py");

/// Whoever watches one server.
pub(super) struct Tracer {
    watcher: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    socket: PathBuf,
}

/// What came of it: how often each class of calls was reached, and which calls failed.
pub(super) struct Seen {
    pub(super) counts: Value,
    pub(super) hits: Vec<String>,
}

impl Tracer {
    /// Whether this machine can do it: the program tries.
    pub(super) fn is_possible() -> bool {
        let tried = bare("python3")
            .args([PROGRAM, "check"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    }

    pub(super) fn start(root: &Path) -> Tracer {
        let socket = root.with_extension("watch");
        let mut watcher = bare("python3")
            .args([PROGRAM, "watch"])
            .args([&*socket, root])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (watcher.stdin.take(), watcher.stdout.take());
        let tracer = Tracer {
            watcher,
            talk: Mutex::new((stdin.unwrap(), BufReader::new(stdout.unwrap()))),
            socket,
        };
        assert_eq!(tracer.hear(), "ready");
        tracer
    }

    /// What becomes the server, with the server's arguments at its end.
    pub(super) fn command(&self) -> Command {
        let mut command = bare("python3");
        command
            .args([PROGRAM, "exec"])
            .arg(&self.socket)
            .arg(BINARY);
        command
    }

    /// To be called once the server runs.
    pub(super) fn has_server(&self) {
        assert_eq!(self.hear(), "watching");
    }

    fn hear(&self) -> String {
        let mut line = String::new();
        self.talk.lock().unwrap().1.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&self, line: &str) -> String {
        writeln!(self.talk.lock().unwrap().0, "{line}").unwrap();
        self.hear()
    }

    pub(super) fn arm(&self, what: &str) {
        assert_eq!(self.ask(&format!("arm {what}")), "armed");
    }

    pub(super) fn disarm(&self) -> Seen {
        let seen: Value = serde_json::from_str(&self.ask("disarm")).unwrap();
        let hits = seen["hits"].as_array().unwrap();
        Seen {
            counts: seen["counts"].clone(),
            hits: hits
                .iter()
                .map(|hit| hit.as_str().unwrap().to_owned())
                .collect(),
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
