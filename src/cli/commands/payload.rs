//! `payload`: the stored payload of a deployment, to stdout or into a file that is there only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::error::{Doing, Error, Exit};
use crate::api::operation::Fields;
use crate::cli::commands::CommandError;
use crate::cli::commands::logs::is_unread;
use crate::cli::commands::session::{NextNotice, Session};
use crate::cli::screen::{print_bytes, stdout_is_terminal};
use crate::client::{NoResult, Notice};

pub(crate) fn run(
    session: &mut Session,
    fields: &Fields,
    out: Option<&Path>,
) -> Result<Option<Value>, CommandError> {
    let Some(path) = out else {
        if stdout_is_terminal() {
            return Err(CommandError::usage(
                "a payload is binary, and stdout is a terminal: name a file with --out FILE, or redirect it",
            ));
        }
        return match receive(session, fields, &mut print_bytes) {
            Err(Stopped::Local(error)) if error.io().is_some_and(is_unread) => Ok(None),
            result => result.map(|_| None).map_err(CommandError::from),
        };
    };
    let mut target = OutFile::open(path).map_err(CommandError::usage)?;
    let bytes = receive(session, fields, &mut |bytes| target.write(bytes))?;
    target.keep().map_err(CommandError::usage)?;
    let id = fields.get("deployment_id").cloned().unwrap_or_default();
    let file = path.display().to_string();
    let message = format!("Saved {bytes} bytes to {file}");
    Ok(Some(
        json!({ "message": message, "deployment_id": id, "file": file, "bytes": bytes }),
    ))
}

/// Why not all bytes were received.
enum Stopped {
    Remote(NoResult),
    Local(Error),
}

impl From<Stopped> for CommandError {
    fn from(stopped: Stopped) -> CommandError {
        match stopped {
            Stopped::Remote(failed) => CommandError {
                failed,
                shown: false,
                // Nothing goes on.
                watch: false,
            },
            Stopped::Local(error) => CommandError::usage(error),
        }
    }
}

/// Receives all bytes, and says how many they were.
fn receive(
    session: &mut Session,
    fields: &Fields,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<u64, Stopped> {
    let stopped = |exit, message: String| Stopped::Remote(NoResult::new(exit, message));
    let running = session.client.download(fields).map_err(Stopped::Local)?;
    let mut received = 0;
    loop {
        match session.next(&running) {
            NextNotice::Notice(Notice::Bytes(bytes)) => {
                take(&bytes).map_err(Stopped::Local)?;
                received += bytes.len() as u64;
            }
            NextNotice::Notice(Notice::Ended) => return Ok(received),
            NextNotice::Notice(Notice::Answer(answer)) => {
                let failed = match answer.judge() {
                    Ok(_) => NoResult::new(Exit::Unreachable, "the answer is no payload"),
                    Err(failed) => failed,
                };
                return Err(Stopped::Remote(failed));
            }
            NextNotice::Notice(Notice::Broken(_, error)) => {
                let message = format!("after {received} bytes: {error}");
                return Err(stopped(Exit::Unreachable, message));
            }
            NextNotice::Gone => {
                let message = "the request's thread is gone".to_owned();
                return Err(stopped(Exit::Unreachable, message));
            }
            NextNotice::Signal => return Err(stopped(Exit::Interrupted, "interrupted".to_owned())),
            NextNotice::Notice(Notice::Head(_) | Notice::Sent | Notice::Record(_))
            | NextNotice::Tick => {}
        }
        if session.due() {
            session.tick();
        }
    }
}

/// Where the bytes go: beside the file under another name until they are all there, or into what is no regular file.
struct OutFile {
    file: File,
    /// What is there and what it will be called; none if the bytes go there at once.
    names: Option<(PathBuf, PathBuf)>,
    path: PathBuf,
}

impl OutFile {
    fn open(path: &Path) -> Result<OutFile, Error> {
        let doing = || format!("writing {}", path.display());
        // A link to a file stays one.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Ok(metadata) = fs::metadata(&real)
            && !metadata.is_file()
        {
            let file = OpenOptions::new().write(true).open(&real).doing(doing)?;
            return Ok(OutFile {
                file,
                names: None,
                path: real,
            });
        }
        let name = real
            .file_name()
            .ok_or_else(|| Error::new(doing(), "it is no name of a file"))?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.part", std::process::id()));
        let beside = real.with_file_name(beside);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&beside);
        Ok(OutFile {
            file: file.doing(|| format!("making {}", beside.display()))?,
            names: Some((beside, real.clone())),
            path: real,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes);
        written.doing(|| format!("writing {}", self.path.display()))
    }

    /// All is there.
    fn keep(mut self) -> Result<(), Error> {
        let Some((beside, real)) = &self.names else {
            return Ok(());
        };
        self.file
            .sync_all()
            .and_then(|()| fs::rename(beside, real))
            .doing(|| format!("writing {}", real.display()))?;
        self.names = None;
        Ok(())
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.names {
            // At worst it stays, under a name that says what it is.
            let _ = fs::remove_file(beside);
        }
    }
}
