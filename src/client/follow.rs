//! Follows one request to its end over broken connections, for whoever asks: the CLI, and a server that asks its peers.
//!
//! What is lost on the way is tried again as long as the [`RetryWindow`] lasts:
//! - events, once the deployment's id is known: they go on after the last one that was seen, none twice;
//! - a request that the server knows again by its key, or that may be done twice.
//!
//! Any other operation is never sent twice if it may have arrived. A server that was never reached is waited for only if
//! that was asked for. What is shown meanwhile, and what stops it, is the [`FollowHost`]'s affair.

mod again;
mod harper;
mod window;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::name::DeploymentId;
use crate::api::operation::AnswerShape;
use crate::client::follow::again::is_of_fleet;
use crate::client::follow::harper::HarperState;
use crate::client::follow::window::RetryWindow;
use crate::client::harper::find::Sought;
use crate::client::{
    Client, DeploymentRef, InFlight, NoResult, Notice, PlainAnswer, RequestStage, answer,
};
use crate::formats::sse::SseRecord;

/// What the request is about, which decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A deployment that the request starts, and that goes on without it.
    Deployment,
    /// A deployment that the request only watches.
    Watching,
    /// An operation that may change something.
    Operation,
    /// One that only reads.
    Reading,
}

/// When a request may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It uploads a payload with a key, by which the server knows it again.
    Upload,
    /// It has a key, or may be done twice.
    Freely,
    /// It asks for events.
    Events,
    /// It only reads.
    Reading,
    /// Only if it cannot have arrived.
    Unsent,
}

/// What is followed.
#[derive(Debug, Clone)]
pub(crate) struct FollowOptions {
    pub(crate) subject: Subject,
    pub(crate) repeat: Repeat,
    /// What a plain answer looks like; none if only events are an answer.
    pub(crate) shape: Option<AnswerShape>,
    /// The deployment, where it is known before.
    pub(crate) id: Option<String>,
    /// How long something lost is tried again, if that was said: then a server that was never reached is waited for too.
    pub(crate) retry_for: Option<Duration>,
    /// The server was reached before.
    pub(crate) reached: bool,
    /// By what a Harper server's record of the deployment is found.
    pub(crate) sought: Option<Sought>,
}

/// What is next.
#[derive(Debug)]
pub(crate) enum NextNotice {
    Notice(Notice),
    /// Only a panic ends a request's thread without its last notice.
    Gone,
    /// The host wants no more.
    Stop,
    /// Some time passed.
    Tick,
}

/// What a host is told.
#[derive(Debug)]
pub(crate) enum FollowNews<'a> {
    /// The payload was sent.
    Sent,
    /// The answer begins, with this status; `early` if the payload was not sent to its end.
    Head { status: u16, early: bool },
    /// A record that was not there before. One without a number of its own is not kept by the server.
    Record {
        record: &'a SseRecord,
        numbered: bool,
    },
    /// A sentence about what was lost and is tried again.
    Lost(String),
    /// Events come again.
    Reconnected,
}

/// Who follows.
pub(crate) trait FollowHost {
    /// Makes the request, each time that it is needed.
    ///
    /// # Errors
    /// When it cannot even be begun.
    fn begin(&mut self) -> Result<InFlight, Error>;

    /// Waits for what is next, for a short time.
    fn next(&mut self, running: &InFlight) -> NextNotice;

    /// Lets time pass; false if the host wants no more.
    fn pause(&mut self, time: Duration) -> bool;

    fn news(&mut self, news: FollowNews<'_>);
}

/// Why there is no result, and what is known about it.
#[derive(Debug)]
pub(crate) struct FollowError {
    pub(crate) failed: NoResult,
    /// It was an `error` event, which the host has seen.
    pub(crate) shown: bool,
    /// Whether the deployment may go on and can be watched.
    pub(crate) watch: bool,
}

impl From<NoResult> for FollowError {
    fn from(failed: NoResult) -> FollowError {
        FollowError {
            watch: matches!(failed.exit, Exit::Unknown | Exit::Interrupted),
            failed,
            shown: false,
        }
    }
}

/// One request's end as it is awaited.
pub(crate) struct AnswerFollower<'a> {
    client: &'a Client,
    options: FollowOptions,
    window: RetryWindow,
    /// The number of the last event that was seen.
    last: u64,
    /// An event stream of the server's has begun in this run.
    proven: bool,
    /// The server was reached before this request.
    reached_before: bool,
    /// Events came, and no deployment's id before them.
    nameless: bool,
    /// An upload was sent to its end, and its answer was lost.
    unknown: bool,
    /// It was said that something was lost, and nothing new came since.
    said: bool,
    /// The server's clock at its last plain answer.
    date: Option<u64>,
    harper: HarperState,
    attempt: Attempted,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// What the host begins.
    Request,
    /// A deployment's events after the last one.
    Events(DeploymentId),
    /// A deployment's terminal event, when nothing else comes; at a Harper server its record.
    End(DeploymentId),
    /// Which deployment it is, at a Harper server.
    Find,
}

/// How one try stands.
struct Attempted {
    asked: Asked,
    /// The answer's status, once there is one.
    status: Option<u16>,
    sent: bool,
    /// The number that its last record came with.
    number: Option<u64>,
}

/// What one notice brought.
enum FollowStep {
    On,
    End(Result<Value, FollowError>),
    /// Nothing comes after the last event.
    Over,
    Lost(FailedTry),
    /// This is asked next.
    Next(Asked),
}

/// A try that came to nothing, and how it ends if there is no other one.
struct FailedTry {
    kind: LossKind,
    trouble: FollowError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossKind {
    /// There was no connection.
    Unreached,
    /// The connection broke, or something else answered, or the server cannot answer now.
    Broken,
    /// As that, when the request had been sent to its end.
    Unanswered,
}

impl<'a> AnswerFollower<'a> {
    pub(crate) fn new(client: &'a Client, options: FollowOptions) -> AnswerFollower<'a> {
        AnswerFollower {
            client,
            window: RetryWindow::new(options.retry_for),
            reached_before: options.reached,
            harper: HarperState::new(options.sought.clone()),
            options,
            last: 0,
            proven: false,
            nameless: false,
            unknown: false,
            said: false,
            date: None,
            attempt: Attempted::of(Asked::Request),
        }
    }

    /// Whether the server was reached.
    pub(crate) fn reached(&self) -> bool {
        self.options.reached
    }

    /// The status of the last answer.
    pub(crate) fn status(&self) -> Option<u16> {
        self.attempt.status
    }

    /// The server's clock at its last plain answer, in milliseconds since the epoch.
    pub(crate) fn date(&self) -> Option<u64> {
        self.date
    }

    /// Until there is a result, or no hope for one.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn follow(&mut self, host: &mut dyn FollowHost) -> Result<Value, FollowError> {
        let mut asked = match self.known() {
            Some(id) if self.watches_harper() => Asked::Events(id),
            None if self.watches_harper() => Asked::Find,
            _ => Asked::Request,
        };
        loop {
            asked = match self.attempt(asked, host)? {
                FollowStep::End(result) => return result,
                FollowStep::Lost(loss) => match self.harper_finished(host) {
                    Some(result) => return Ok(result),
                    None => self.again(asked, loss, host)?,
                },
                FollowStep::Next(next) => next,
                FollowStep::Over => self.over(asked, host)?,
                FollowStep::On => asked,
            };
        }
    }

    fn watches_harper(&self) -> bool {
        self.client.is_harper() && self.options.subject == Subject::Watching
    }

    fn begin(&mut self, asked: Asked, host: &mut dyn FollowHost) -> Result<InFlight, Error> {
        if self.client.is_harper() {
            return self.harper_begin(asked, host);
        }
        match asked {
            // Our own server names a deployment in its first event.
            Asked::Request | Asked::Find => host.begin(),
            Asked::Events(id) => self
                .client
                .events(&DeploymentRef::Deployment(id), self.last),
            Asked::End(id) => self.client.end(id, self.last),
        }
    }

    /// One try, to its end.
    fn attempt(
        &mut self,
        asked: Asked,
        host: &mut dyn FollowHost,
    ) -> Result<FollowStep, FollowError> {
        let running = self
            .begin(asked, host)
            .map_err(|error| NoResult::new(Exit::Usage, error.to_string()))?;
        self.attempt = Attempted::of(asked);
        loop {
            let step = match host.next(&running) {
                NextNotice::Notice(notice) => {
                    self.harper.heard();
                    self.notice(notice, host)
                }
                NextNotice::Gone => FollowStep::End(Err(self.lost("the request's thread is gone"))),
                NextNotice::Stop => FollowStep::End(Err(self.interrupted())),
                NextNotice::Tick => {
                    let silent = self.attempt.resumes() && self.attempt.status.is_none();
                    if silent && self.window.over(Instant::now()) {
                        let trouble = self.lost("the server is silent");
                        self.broke(LossKind::Broken, trouble)
                    } else if self.client.is_harper() {
                        self.harper_silence(host)
                    } else {
                        FollowStep::On
                    }
                }
            };
            if !matches!(step, FollowStep::On) {
                return Ok(step);
            }
        }
    }

    fn notice(&mut self, notice: Notice, host: &mut dyn FollowHost) -> FollowStep {
        match notice {
            Notice::Sent => {
                self.attempt.sent = true;
                host.news(FollowNews::Sent);
                FollowStep::On
            }
            Notice::Head(status) => {
                self.attempt.status = Some(status);
                self.options.reached = true;
                let early = self.uploads() && !self.attempt.sent;
                host.news(FollowNews::Head { status, early });
                FollowStep::On
            }
            Notice::Records(records) => {
                let mut steps = records.iter().map(|record| self.record(record, host));
                // What follows the record that ends it all is not looked at.
                let end = steps.find(|step| !matches!(step, FollowStep::On));
                end.unwrap_or(FollowStep::On)
            }
            Notice::Answer(answer) => self.answer(&answer),
            // Nobody asked for a download here.
            Notice::Bytes(_) => FollowStep::On,
            Notice::Ended => self.cut(),
            Notice::Broken(stage, error) => self.broken(stage, &error),
        }
    }

    fn record(&mut self, record: &SseRecord, host: &mut dyn FollowHost) -> FollowStep {
        if self.client.is_harper() {
            return self.harper_record(record, host);
        }
        self.proven = true;
        let number = record.id.as_deref().and_then(|id| id.parse().ok());
        let terminal = matches!(record.event.as_str(), "done" | "error");
        // A record without a number comes with that of the one before it, which is how one can tell.
        let own = std::mem::replace(&mut self.attempt.number, number) != number;
        if let Some(number) = number.filter(|_| own) {
            // The end is sent again to whoever asks for it.
            let asked_for = terminal && matches!(self.attempt.asked, Asked::End(_));
            if number <= self.last && !asked_for {
                return FollowStep::On;
            }
            self.came(number, host);
        } else if self.options.subject == Subject::Reading {
            // Lines of a log have no numbers, and whoever shows them knows which are new.
            self.window.news();
            self.said = false;
        }
        if record.event == "deployment" && self.follows() {
            let id = answer::deployment_id(&record.data);
            self.options.id = id.or(self.options.id.take());
        }
        self.nameless |= self.options.id.is_none();
        let numbered = own && number.is_some();
        host.news(FollowNews::Record { record, numbered });
        self.step_of(record)
    }

    /// Whether a record ends the deployment, and how.
    fn step_of(&self, record: &SseRecord) -> FollowStep {
        match record.event.as_str() {
            "done" => FollowStep::End(Ok(answer::done(&record.data))),
            "error" => FollowStep::End(Err(FollowError {
                failed: answer::failed(&record.data, self.attempt.status.unwrap_or_default()),
                shown: true,
                watch: false,
            })),
            _ => FollowStep::On,
        }
    }

    /// There is an event that was not there before.
    fn came(&mut self, number: u64, host: &mut dyn FollowHost) {
        self.last = self.last.max(number);
        self.window.news();
        if std::mem::take(&mut self.said) && self.attempt.resumes() {
            host.news(FollowNews::Reconnected);
        }
    }

    fn answer(&mut self, answer: &PlainAnswer) -> FollowStep {
        self.date = answer.date;
        if self.attempt.resumes() && self.client.is_harper() {
            return self.harper_answer(answer);
        }
        if self.attempt.resumes() {
            if answer.status == 204 {
                return FollowStep::Over;
            }
            return match answer.judge(None) {
                Ok(_) => FollowStep::On,
                Err(failed) if is_foreign(&failed) || answer.status >= 500 => {
                    self.broke(LossKind::Broken, failed.into())
                }
                Err(failed) => FollowStep::End(Err(self.refused(failed))),
            };
        }
        match answer.judge(self.options.shape) {
            Ok(value) => FollowStep::End(Ok(value)),
            // A page of 4xx is one of a wrong address; a proxy that has lost its server says 5xx.
            Err(failed) if is_foreign(&failed) && answer.status < 500 => {
                FollowStep::End(Err(failed.into()))
            }
            Err(failed)
                if is_foreign(&failed)
                    || (answer.status == 503 && !is_of_fleet(&failed))
                    || failed.code.as_deref() == Some("upload_broken") =>
            {
                self.broke(LossKind::Broken, failed.into())
            }
            Err(failed) => FollowStep::End(Err(failed.into())),
        }
    }

    /// The stream is at its end, and nothing terminal was in it.
    fn cut(&mut self) -> FollowStep {
        let status = self.attempt.status.unwrap_or_default();
        let mut trouble = FollowError::from(answer::cut(status, self.options.id.clone()));
        if self.options.subject == Subject::Reading && trouble.failed.exit == Exit::Unknown {
            // Nothing was begun that could go on.
            trouble = NoResult::new(Exit::Unreachable, trouble.failed.message).into();
            self.proven = true;
            return self.broke(LossKind::Unanswered, trouble);
        }
        if trouble.failed.exit != Exit::Unknown {
            return FollowStep::End(Err(trouble));
        }
        self.proven = true;
        self.broke(LossKind::Unanswered, trouble)
    }

    fn broken(&mut self, stage: RequestStage, error: &Error) -> FollowStep {
        let reads = matches!(self.options.subject, Subject::Reading | Subject::Watching);
        let (kind, exit) = match stage {
            RequestStage::Payload => {
                let failed = NoResult::new(Exit::Usage, error.to_string());
                return FollowStep::End(Err(failed.into()));
            }
            RequestStage::Connecting => (LossKind::Unreached, Exit::Unreachable),
            RequestStage::Sending => (LossKind::Broken, Exit::Unreachable),
            RequestStage::Waiting if reads => (LossKind::Unanswered, Exit::Unreachable),
            RequestStage::Reading if self.options.subject == Subject::Reading => {
                (LossKind::Unanswered, Exit::Unreachable)
            }
            // The server may have begun what it was asked for.
            RequestStage::Waiting | RequestStage::Reading => (LossKind::Unanswered, Exit::Unknown),
        };
        self.proven |= stage == RequestStage::Reading;
        let trouble = self.lost_with(exit, error.to_string());
        self.broke(kind, trouble)
    }

    fn broke(&mut self, kind: LossKind, trouble: FollowError) -> FollowStep {
        self.options.reached |= kind != LossKind::Unreached;
        self.unknown |= kind == LossKind::Unanswered && self.uploads();
        FollowStep::Lost(FailedTry { kind, trouble })
    }

    /// The present try sends a payload.
    fn uploads(&self) -> bool {
        self.options.repeat == Repeat::Upload && self.attempt.asked == Asked::Request
    }

    fn follows(&self) -> bool {
        matches!(
            self.options.subject,
            Subject::Deployment | Subject::Watching
        )
    }

    /// The deployment whose events can be picked up again.
    fn known(&self) -> Option<DeploymentId> {
        let id = self.options.id.as_deref().filter(|_| self.follows())?;
        id.parse().ok()
    }

    fn lost(&self, message: &str) -> FollowError {
        self.lost_with(Exit::Unknown, message.to_owned())
    }

    fn lost_with(&self, exit: Exit, message: String) -> FollowError {
        let mut trouble = FollowError::from(NoResult {
            deployment_id: self.options.id.clone(),
            ..NoResult::new(exit, message)
        });
        trouble.watch &= self.follows();
        trouble
    }
}

impl Attempted {
    fn of(asked: Asked) -> Attempted {
        Attempted {
            asked,
            status: None,
            sent: false,
            number: None,
        }
    }

    /// Whether it goes on with what was begun before.
    fn resumes(&self) -> bool {
        self.asked != Asked::Request
    }
}

/// Whether something else answered in the server's place.
fn is_foreign(failed: &NoResult) -> bool {
    failed.exit == Exit::Unreachable && failed.code.is_none()
}
