//! `payload`: the stored payload of a deployment, to stdout or into a file that is there only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::error::{Doing, Error, Exit};
use crate::api::name::DeploymentId;
use crate::api::operation::{Operation, OperationCall};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, value};
use crate::cli::commands::{CommandSpec, Job, Parse, word_or_here};
use crate::cli::screen::{is_unread, print_bytes, stdout_is_terminal};
use crate::cli::session::find::Purpose;
use crate::cli::session::{CommandError, Session};
use crate::client::follow::NextNotice;
use crate::client::{NoResult, Notice};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["payload"],
    usage: "payload ID",
    summary: "download or delete a stored payload",
    help: "\
usage: gangplank payload [ID] [--out FILE | --delete] [FLAGS]

Downloads the payload of a deployment as it was uploaded, to stdout, or deletes
it. ID: see `gangplank help show`; what is to be deleted cannot be left out.

  --out FILE            into this file, which is there when it is whole
  --delete              delete it at the server
",
    example: "gangplank payload my-app --out app.tgz",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let out = value::path(&mut line, "--out")?;
    let delete = line.contains("--delete");
    if delete && out.is_some() {
        return Err(Usage::new("--out and --delete cannot go together"));
    }
    if delete {
        // What is deleted is named.
        let word = value::one("ID", line, value::deployment)?;
        let job = Job::on_deployment(Some(word), Purpose::Change, Operation::DeletePayload);
        return Ok(job);
    }
    let word = value::at_most_one("ID", line, value::deployment)?;
    Ok(Job::run(move |context| {
        let word = word_or_here(word)?;
        let mut session = context.session()?;
        let id = session.find(&word, None, Purpose::Look)?;
        download(&mut session, id, out.as_deref())
    }))
}

fn download(
    session: &mut Session,
    id: DeploymentId,
    out: Option<&Path>,
) -> Result<Option<Value>, CommandError> {
    let call = OperationCall::from(Operation::GetPayload(id));
    let Some(path) = out else {
        if stdout_is_terminal() {
            return Err(CommandError::usage(
                "a payload is binary, and stdout is a terminal: name a file with --out FILE, or redirect it",
            ));
        }
        return match receive(session, &call, &mut print_bytes) {
            Err(Stopped::Local(error)) if error.io().is_some_and(is_unread) => Ok(None),
            result => result.map(|_| None).map_err(CommandError::from),
        };
    };
    let mut target = OutFile::open(path).map_err(CommandError::usage)?;
    let bytes = receive(session, &call, &mut |bytes| target.write(bytes))?;
    target.keep().map_err(CommandError::usage)?;
    let file = path.display().to_string();
    let message = format!("Saved {bytes} bytes to {file}");
    Ok(Some(
        json!({ "message": message, "deployment_id": id.to_string(), "file": file, "bytes": bytes }),
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
                cancel: false,
            },
            Stopped::Local(error) => CommandError::usage(error),
        }
    }
}

/// Receives all bytes, and says how many they were.
fn receive(
    session: &mut Session,
    call: &OperationCall,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<u64, Stopped> {
    let stopped = |exit, message: String| Stopped::Remote(NoResult::new(exit, message));
    let call = session.fit(call);
    let call = call.map_err(|error| Stopped::Remote(error.failed))?;
    let running = session.client.download(&call).map_err(Stopped::Local)?;
    let mut received = 0;
    loop {
        match session.next(&running) {
            NextNotice::Notice(Notice::Bytes(bytes)) => {
                take(&bytes).map_err(Stopped::Local)?;
                received += bytes.len() as u64;
            }
            NextNotice::Notice(Notice::Ended) => return Ok(received),
            NextNotice::Notice(Notice::Answer(answer)) => {
                let failed = match answer.judge(None) {
                    Ok(_) => NoResult::new(Exit::Unreachable, "the answer is not a payload"),
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
            NextNotice::Stop => return Err(stopped(Exit::Interrupted, "interrupted".to_owned())),
            NextNotice::Notice(Notice::Head(_) | Notice::Sent | Notice::Records(_))
            | NextNotice::Tick => {}
        }
    }
}

/// Where the bytes go: beside the file under another name until they are all there, or into what is not a regular file.
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
        if fs::metadata(&real).is_ok_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(&real).doing(doing)?;
            return Ok(OutFile {
                file,
                names: None,
                path: real,
            });
        }
        let name = real
            .file_name()
            .ok_or_else(|| Error::new(doing(), "not the name of a file"))?;
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
