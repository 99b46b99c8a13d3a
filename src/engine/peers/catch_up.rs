//! What is live at a peer, and its payloads and trees, for a host that was off.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;

use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Operation, Options};
use crate::api::source::Provenance;
use crate::client::{InFlight, Notice};
use crate::engine::held_tree::TreeHolder;
use crate::engine::peers::Peer;
use crate::system::stop::Stop;

/// A payload of which nothing comes for so long does not come any longer.
const SILENCE: Duration = Duration::from_secs(60);

/// A component that is live at a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRelease {
    /// Its name.
    pub project: Project,
    /// The peer's deployment whose payload it was built from.
    pub release: DeploymentId,
    /// The payload's SHA-256.
    pub payload_hash: Option<String>,
    /// The tree that it holds.
    pub tree: Option<String>,
    /// How it was built.
    pub options: Options,
    /// What was said of it there.
    pub provenance: Provenance,
    /// Whether its processes run there.
    pub runs: bool,
}

/// The tree of a deployment at a peer.
pub struct PeerTree<'a> {
    pub peer: &'a Peer,
    pub id: DeploymentId,
}

impl TreeHolder for PeerTree<'_> {
    fn list(&self, stop: &Stop) -> Result<Box<dyn Read>, String> {
        let list = self.peer.download(Operation::GetTree(self.id), stop)?;
        Ok(Box::new(list))
    }

    fn objects(&self, numbers: String, stop: &Stop) -> Result<Box<dyn Read>, String> {
        let operation = Operation::GetObjects(self.id, numbers);
        Ok(Box::new(self.peer.download(operation, stop)?))
    }
}

impl Peer {
    /// What is live there, of one component or of all.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn live(&self, only: Option<&Project>, stop: &Stop) -> Result<Vec<PeerRelease>, String> {
        let answer = self.ask(Operation::GetComponents(false), stop)?;
        let mut found = Vec::new();
        for one in answer["components"].as_array().into_iter().flatten() {
            let text = |name: &str| one[name].as_str().unwrap_or_default();
            let (Ok(project), Ok(release)) = (
                text("project").parse::<Project>(),
                text("release_id").parse::<DeploymentId>(),
            ) else {
                return Err(format!("its answer does not name a component: {one}"));
            };
            if only.is_some_and(|only| *only != project) {
                continue;
            }
            let record = self.record(release, stop)?;
            let options = serde_json::from_value(record["options"].clone()).unwrap_or_default();
            let text_of = |value: &Value| value.as_str().map(str::to_owned);
            // It gives the archive of a delta, which has another hash than what came.
            let came_as_delta = record["payload_kind"] == "delta";
            let processes = one["processes"].as_array();
            found.push(PeerRelease {
                project,
                release,
                payload_hash: text_of(&record["payload_hash"]).filter(|_| !came_as_delta),
                tree: text_of(&record["tree"]),
                options,
                provenance: Provenance::of_record(&record),
                runs: processes.is_some_and(|all| !all.is_empty()),
            });
        }
        Ok(found)
    }

    fn record(&self, id: DeploymentId, stop: &Stop) -> Result<Value, String> {
        self.ask(Operation::GetDeployment(id), stop)
    }

    /// What an operation of it answers with, which is bytes, as it comes.
    ///
    /// # Errors
    /// When there is no thread to be had for it.
    pub fn download(&self, operation: Operation, stop: &Stop) -> Result<Download, String> {
        let running = self.client.download(&operation.into());
        Ok(Download {
            running: running.map_err(|error| error.to_string())?,
            stop: stop.clone(),
            bytes: Vec::new(),
            at: 0,
            ended: false,
        })
    }
}

/// The bytes of a payload. One that breaks off is an error, and never a shorter payload.
pub struct Download {
    running: InFlight,
    stop: Stop,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.bytes.len() {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            let notice = crossbeam_channel::select! {
                recv(self.running.notices()) -> notice => notice,
                recv(self.stop.channel()) -> _ => return Err(io::Error::other("stopped")),
                default(SILENCE) => {
                    let why = format!("timed out: nothing came for {} s", SILENCE.as_secs());
                    return Err(io::Error::other(why));
                }
            };
            match notice {
                Ok(Notice::Bytes(bytes)) => {
                    self.bytes = bytes;
                    self.at = 0;
                }
                Ok(Notice::Sent | Notice::Head(_) | Notice::Records(_)) => {}
                Ok(Notice::Ended) => self.ended = true,
                Ok(Notice::Answer(answer)) => {
                    let why = match answer.judge(None) {
                        Ok(_) => "its answer is not a payload".to_owned(),
                        Err(failed) => failed.message,
                    };
                    return Err(io::Error::other(why));
                }
                Ok(Notice::Broken(_, error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("its request ended")),
            }
        }
        let length = buffer.len().min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
