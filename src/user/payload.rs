//! `payload`: the stored payload of a deployment, to stdout or into a file that is there only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client::{Failed, Notice};
use crate::error::{Doing, Error, Exit};
use crate::operation::Fields;
use crate::screen::{print_bytes, stdout_is_terminal};
use crate::user::Trouble;
use crate::user::logs::is_unread;
use crate::user::session::{Next, Session};

pub(crate) fn run(
    session: &mut Session,
    fields: &Fields,
    out: Option<&Path>,
) -> Result<Option<Value>, Trouble> {
    let Some(path) = out else {
        if stdout_is_terminal() {
            return Err(Trouble::usage(
                "a payload is binary, and stdout is a terminal: name a file with --out FILE, or redirect it",
            ));
        }
        return match receive(session, fields, &mut print_bytes) {
            Err(Stopped::Local(error)) if error.io().is_some_and(is_unread) => Ok(None),
            result => result.map(|_| None).map_err(Trouble::from),
        };
    };
    let mut target = Target::open(path).map_err(Trouble::usage)?;
    let bytes = receive(session, fields, &mut |bytes| target.write(bytes))?;
    target.keep().map_err(Trouble::usage)?;
    let id = fields.get("deployment_id").cloned().unwrap_or_default();
    let file = path.display().to_string();
    let message = format!("Saved {bytes} bytes to {file}");
    Ok(Some(
        json!({ "message": message, "deployment_id": id, "file": file, "bytes": bytes }),
    ))
}

/// Why not all bytes were received.
enum Stopped {
    Remote(Failed),
    Local(Error),
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Trouble {
        match stopped {
            Stopped::Remote(failed) => Trouble {
                failed,
                shown: false,
                // Nothing goes on.
                watch: false,
            },
            Stopped::Local(error) => Trouble::usage(error),
        }
    }
}

/// Receives all bytes, and says how many they were.
fn receive(
    session: &mut Session,
    fields: &Fields,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<u64, Stopped> {
    let stopped = |exit, message: String| Stopped::Remote(Failed::new(exit, message));
    let running = session.client.download(fields).map_err(Stopped::Local)?;
    let mut received = 0;
    loop {
        match session.next(&running) {
            Next::Notice(Notice::Bytes(bytes)) => {
                take(&bytes).map_err(Stopped::Local)?;
                received += bytes.len() as u64;
            }
            Next::Notice(Notice::Ended) => return Ok(received),
            Next::Notice(Notice::Answer(answer)) => {
                let failed = match answer.judge() {
                    Ok(_) => Failed::new(Exit::Unreachable, "the answer is no payload"),
                    Err(failed) => failed,
                };
                return Err(Stopped::Remote(failed));
            }
            Next::Notice(Notice::Broken(_, error)) => {
                let message = format!("after {received} bytes: {error}");
                return Err(stopped(Exit::Unreachable, message));
            }
            Next::Gone => {
                let message = "the request's thread is gone".to_owned();
                return Err(stopped(Exit::Unreachable, message));
            }
            Next::Signal => return Err(stopped(Exit::Interrupted, "interrupted".to_owned())),
            Next::Notice(Notice::Head(_) | Notice::Sent | Notice::Record(_)) | Next::Tick => {}
        }
        if session.due() {
            session.tick();
        }
    }
}

/// Where the bytes go: beside the file under another name until they are all there, or into what is no regular file.
struct Target {
    file: File,
    /// What is there and what it will be called; none if the bytes go there at once.
    names: Option<(PathBuf, PathBuf)>,
    path: PathBuf,
}

impl Target {
    fn open(path: &Path) -> Result<Target, Error> {
        let doing = || format!("writing {}", path.display());
        // A link to a file stays one.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Ok(metadata) = fs::metadata(&real)
            && !metadata.is_file()
        {
            let file = OpenOptions::new().write(true).open(&real).doing(doing)?;
            return Ok(Target {
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
        Ok(Target {
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

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.names {
            // At worst it stays, under a name that says what it is.
            let _ = fs::remove_file(beside);
        }
    }
}
