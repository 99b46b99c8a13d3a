//! One request to a peer, followed to its end: a stream that breaks is picked up where it stopped, and an upload that breaks is
//! begun again, with the same key.

use std::time::{Duration, Instant};

use crossbeam_channel::select;
use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::event::PeerEvent;
use crate::api::name::DeploymentId;
use crate::client::{DeploymentRef, InFlight, Notice, PlainAnswer, RequestStage, answer};
use crate::engine::peers::{Build, OnPeerEvent, Peer};
use crate::formats::sse::SseRecord;
use crate::system::stop::Stop;

/// The first wait before another try; each further one is twice as long, up to the last.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// After so long without anything new, a peer that was lost is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request to a peer.
pub(super) struct Talk<'a> {
    peer: &'a Peer,
    deadline: Instant,
    stop: &'a Stop,
    tell: OnPeerEvent<'a>,
    /// The peer's deployment, once it is known.
    pub(super) id: Option<DeploymentId>,
    previous: Option<DeploymentId>,
    /// Its newest event that was seen.
    last: u64,
    /// The peer was there at least once.
    reached: bool,
    wait: Duration,
    lost_since: Option<Instant>,
}

/// How one connection ended.
enum ConnectionEnd {
    Done(Value),
    /// There is an answer, and it is no.
    Refused(String),
    /// It may go on where it stopped.
    Lost(String),
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        peer: &'a Peer,
        deadline: Instant,
        stop: &'a Stop,
        tell: OnPeerEvent<'a>,
    ) -> Talk<'a> {
        Talk {
            peer,
            deadline,
            stop,
            tell,
            id: None,
            previous: None,
            last: 0,
            reached: false,
            wait: WAIT.0,
            lost_since: None,
        }
    }

    /// The deployment that it was about.
    pub(super) fn build(&self) -> Result<Build, String> {
        match self.id {
            Some(id) => Ok(Build {
                id,
                previous: self.previous,
            }),
            None => Err("its answer names no deployment".to_owned()),
        }
    }

    /// Asks, and follows to the end.
    pub(super) fn run(
        &mut self,
        ask: &mut dyn FnMut() -> Result<InFlight, Error>,
    ) -> Result<Value, String> {
        let mut seen = 0;
        loop {
            let running = match self.id {
                Some(id) => self
                    .peer
                    .client
                    .events(&DeploymentRef::Deployment(id), self.last),
                None => ask(),
            };
            let running = running.map_err(|error| error.to_string())?;
            let why = match self.listen(&running)? {
                ConnectionEnd::Done(value) => return Ok(value),
                ConnectionEnd::Refused(why) => return Err(why),
                ConnectionEnd::Lost(why) => why,
            };
            if !self.reached {
                return Err(why);
            }
            if self.last > seen {
                seen = self.last;
                self.lost_since = None;
                self.wait = WAIT.0;
            }
            let since = *self.lost_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= PATIENCE {
                return Err(format!("{why}, and it was not found again for 60 s"));
            }
            self.pause()?;
        }
    }

    fn pause(&mut self) -> Result<(), String> {
        let wait = self.wait;
        self.wait = (self.wait * 2).min(WAIT.1);
        match self.stop.channel().recv_timeout(wait) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => self.in_time(),
            _ => Err("stopped".to_owned()),
        }
    }

    fn in_time(&self) -> Result<(), String> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err("timed out".to_owned())
        }
    }

    /// Listens to one connection until its end.
    fn listen(&mut self, running: &InFlight) -> Result<ConnectionEnd, String> {
        let mut status = 0;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let notice = select! {
                recv(running.notices()) -> notice => notice,
                recv(self.stop.channel()) -> _ => return Err("stopped".to_owned()),
                default(left) => return Err("timed out".to_owned()),
            };
            match notice {
                Ok(Notice::Sent | Notice::Bytes(_)) => {}
                Ok(Notice::Head(code)) => {
                    status = code;
                    self.reached = true;
                }
                Ok(Notice::Record(record)) => {
                    if let Some(end) = self.record(&record, status) {
                        return Ok(end);
                    }
                }
                Ok(Notice::Answer(answer)) => return self.answer(&answer),
                Ok(Notice::Ended) => return Ok(ConnectionEnd::Lost("its stream ended".to_owned())),
                Ok(Notice::Broken(stage, error)) => {
                    self.reached |= stage != RequestStage::Connecting;
                    return Ok(match stage {
                        RequestStage::Payload => ConnectionEnd::Refused(error.to_string()),
                        _ => ConnectionEnd::Lost(error.to_string()),
                    });
                }
                Err(_) => return Ok(ConnectionEnd::Lost("its request ended".to_owned())),
            }
        }
    }

    fn record(&mut self, record: &SseRecord, status: u16) -> Option<ConnectionEnd> {
        let number = record.id.as_deref().and_then(|id| id.parse::<u64>().ok());
        if let Some(number) = number {
            if number <= self.last {
                return None;
            }
            self.last = number;
        }
        let data = serde_json::from_str::<Value>(&record.data)
            .unwrap_or_else(|_| Value::from(record.data.as_str()));
        let id = |name: &str| data.get(name)?.as_str()?.parse::<DeploymentId>().ok();
        if record.event == "deployment" {
            self.id = id("deployment_id");
            self.previous = id("previous");
        }
        // How far its upload is, is told by the number of bytes here.
        if number.is_some() {
            (self.tell)(PeerEvent {
                peer: self.peer.name.clone(),
                event: record.event.clone(),
                data: data.clone(),
            });
        }
        match record.event.as_str() {
            "done" => Some(ConnectionEnd::Done(answer::done(&record.data))),
            "error" => Some(ConnectionEnd::Refused(
                answer::failed(&record.data, status).message,
            )),
            _ => None,
        }
    }

    fn answer(&mut self, answer: &PlainAnswer) -> Result<ConnectionEnd, String> {
        if let (204, Some(id)) = (answer.status, self.id) {
            // Nothing comes after what was seen: its end is asked for by itself.
            let running = self.peer.client.end(&id, self.last.saturating_sub(1));
            self.last = self.last.saturating_sub(1);
            let running = running.map_err(|error| error.to_string())?;
            return self.listen(&running);
        }
        Ok(match answer.judge() {
            Ok(value) => ConnectionEnd::Done(value),
            Err(failed) if matches!(failed.exit, Exit::Unreachable) => {
                ConnectionEnd::Lost(failed.message)
            }
            // A server that stops is back in a moment; one that is busy with the component is not ours to wait for.
            Err(failed) if answer.status == 503 => ConnectionEnd::Lost(failed.message),
            Err(failed) => ConnectionEnd::Refused(failed.message),
        })
    }
}
