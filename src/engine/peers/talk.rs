//! One request to a peer, followed to its end within its time, or until a stop.

use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, select};
use serde_json::Value;

use crate::api::error::Error;
use crate::api::event::PeerEvent;
use crate::api::json;
use crate::api::name::DeploymentId;
use crate::api::operation::AnswerShape;
use crate::client::InFlight;
use crate::client::follow::{
    AnswerFollower, FollowHost, FollowNews, FollowOptions, NextNotice, Repeat, Subject,
};
use crate::engine::peers::{Build, OnPeerEvent, Peer};
use crate::formats::sse::SseRecord;
use crate::system::stop::Stop;

/// How often the follower looks whether a silent peer is given up.
const TICK: Duration = Duration::from_secs(1);

/// A request to a peer.
pub(super) struct Talk<'a> {
    peer: &'a Peer,
    deadline: Instant,
    stop: &'a Stop,
    tell: OnPeerEvent<'a>,
    /// How long a peer that cannot be reached is tried again.
    pub(super) retry_for: Option<Duration>,
    /// The peer's deployment, once it is known.
    pub(super) id: Option<DeploymentId>,
    previous: Option<DeploymentId>,
    /// It was ended from here, while the peer went on.
    pub(super) was_left: bool,
    /// What the peer says that failed, if it does.
    pub(super) code: Option<String>,
}

/// How a peer is asked.
type Ask<'q> = &'q mut dyn FnMut() -> Result<InFlight, Error>;

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
            retry_for: None,
            id: None,
            previous: None,
            was_left: false,
            code: None,
        }
    }

    /// The deployment that it was about.
    pub(super) fn build(&self) -> Result<Build, String> {
        match self.id {
            Some(id) => Ok(Build {
                id,
                previous: self.previous,
            }),
            None => Err("its answer does not name a deployment".to_owned()),
        }
    }

    /// Asks, and follows to the end. What is asked has a key, or may be done twice.
    pub(super) fn run(
        &mut self,
        subject: Subject,
        shape: AnswerShape,
        ask: Ask<'_>,
    ) -> Result<Value, String> {
        let options = FollowOptions {
            subject,
            repeat: Repeat::Freely,
            shape: Some(shape),
            id: None,
            retry_for: self.retry_for,
            reached: false,
            sought: None,
        };
        let mut follower = AnswerFollower::new(&self.peer.client, options);
        let mut asking = Asking {
            talk: self,
            ask,
            over: None,
        };
        let result = follower.follow(&mut asking);
        match asking.over {
            Some(why) => {
                self.was_left = true;
                Err(why.to_owned())
            }
            None => result.map_err(|error| {
                self.code = error.failed.code;
                error.failed.message
            }),
        }
    }

    fn record(&mut self, record: &SseRecord, numbered: bool) {
        let data = json::from_text::<Value>(&record.data)
            .unwrap_or_else(|_| Value::from(record.data.as_str()));
        let id = |name: &str| data.get(name)?.as_str()?.parse::<DeploymentId>().ok();
        if record.event == "deployment" {
            self.id = id("deployment_id");
            self.previous = id("previous");
        }
        // The origin itself tells how far the upload is, so the peer's own events about it are left out.
        if numbered {
            (self.tell)(PeerEvent {
                peer: self.peer.name.clone(),
                event: record.event.clone(),
                data,
            });
        }
    }
}

/// A talk while it follows.
struct Asking<'t, 'a, 'q> {
    talk: &'t mut Talk<'a>,
    ask: Ask<'q>,
    /// Why it was ended from here.
    over: Option<&'static str>,
}

impl Asking<'_, '_, '_> {
    fn left(&self) -> Duration {
        self.talk.deadline.saturating_duration_since(Instant::now())
    }
}

impl FollowHost for Asking<'_, '_, '_> {
    fn begin(&mut self) -> Result<InFlight, Error> {
        (self.ask)()
    }

    fn next(&mut self, running: &InFlight) -> NextNotice {
        let left = self.left();
        if left.is_zero() {
            self.over = Some("timed out");
            return NextNotice::Stop;
        }
        select! {
            recv(running.notices()) -> notice => notice.map_or(NextNotice::Gone, NextNotice::Notice),
            recv(self.talk.stop.channel()) -> _ => {
                self.over = Some("stopped");
                NextNotice::Stop
            }
            default(left.min(TICK)) => NextNotice::Tick,
        }
    }

    fn pause(&mut self, time: Duration) -> bool {
        let left = self.left();
        match self.talk.stop.channel().recv_timeout(time.min(left)) {
            Err(RecvTimeoutError::Timeout) if time < left => true,
            Err(RecvTimeoutError::Timeout) => {
                self.over = Some("timed out");
                false
            }
            _ => {
                self.over = Some("stopped");
                false
            }
        }
    }

    fn news(&mut self, news: FollowNews<'_>) {
        if let FollowNews::Record { record, numbered } = news {
            self.talk.record(record, numbered);
        }
    }
}
