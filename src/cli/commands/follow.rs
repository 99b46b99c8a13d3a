//! Follows one request to its end, showing what happens, and says what came of it.
//!
//! What is lost on the way is tried again as long as the [`RetryWindow`] lasts:
//! - events, once the deployment's id is known: they go on after the last one that was seen, none twice;
//! - an upload whose deployment is not known yet: the payload is sent again with the same idempotency key, so that the
//!   server can tell it from a second deployment.
//!
//! An operation without a key is never sent twice if it may have arrived. A server that was never reached in this run is
//! waited for only if that was asked for.

mod again;

use std::time::Instant;

use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::name::DeploymentId;
use crate::cli::commands::CommandError;
use crate::cli::commands::call::Call;
use crate::cli::commands::pack::PackingThread;
use crate::cli::commands::retry_window::RetryWindow;
use crate::cli::commands::session::{NextNotice, Session};
use crate::client::{NoResult, Notice, PlainAnswer, RequestStage, answer};
use crate::formats::sse::SseRecord;

/// What the request is about, which decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A deployment that the request starts, and that goes on without it.
    Deployment,
    /// A deployment that the request only watches.
    Watching,
    /// One that keeps ours waiting: its failure is not ours.
    Others,
    /// An operation that may change something.
    Operation,
    /// One that only reads.
    Reading,
}

/// One request's end as it is awaited.
pub(crate) struct Following<'s, 'a> {
    session: &'s mut Session<'a>,
    subject: Subject,
    patience: RetryWindow,
    /// The deployment, once it is known.
    id: Option<String>,
    /// The number of the last event that was shown.
    last: u64,
    /// An event stream of the server's has begun in this run.
    proven: bool,
    /// Events came, and no deployment's id before them.
    nameless: bool,
    /// An upload was sent to its end, and its answer was lost.
    unknown: bool,
    /// It was said that something was lost, and nothing new came since.
    said: bool,
    /// How the present try stands.
    attempt: Try,
}

/// How one try stands.
#[derive(Default)]
struct Try {
    packing: Option<PackingThread>,
    /// It goes on with events that were lost.
    resumes: bool,
    /// The answer's status, once there is one.
    status: Option<u16>,
    /// The payload was sent.
    sent: bool,
    /// The number that its last record came with.
    number: Option<u64>,
}

/// What one notice brought.
enum FollowStep {
    On,
    End(Result<Value, CommandError>),
    /// Nothing comes after the last event.
    Over,
    Lost(FailedTry),
}

/// A try that came to nothing, and how it ends if there is no other one.
struct FailedTry {
    kind: LossKind,
    trouble: CommandError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossKind {
    /// There was no connection.
    Unreached,
    /// The connection broke, or something else answered, or the server cannot answer now.
    Broken,
    /// As that, when the payload had been sent to its end.
    Unanswered,
}

impl<'s, 'a> Following<'s, 'a> {
    pub(crate) fn new(
        session: &'s mut Session<'a>,
        subject: Subject,
        id: Option<String>,
    ) -> Following<'s, 'a> {
        Following {
            patience: RetryWindow::new(session.retry_for),
            session,
            subject,
            id,
            last: 0,
            proven: false,
            nameless: false,
            unknown: false,
            said: false,
            attempt: Try::default(),
        }
    }

    /// Until there is a result, or no hope for one.
    pub(crate) fn follow(mut self, mut ask: Call) -> Result<Value, CommandError> {
        loop {
            match self.attempt(&ask)? {
                FollowStep::End(result) => return result,
                FollowStep::Lost(loss) => ask = self.again(ask, loss)?,
                FollowStep::Over => ask = self.over(ask)?,
                FollowStep::On => {}
            }
        }
    }

    /// One try, to its end.
    fn attempt(&mut self, ask: &Call) -> Result<FollowStep, CommandError> {
        let (running, packing) = ask
            .begin(self.session.client)
            .map_err(CommandError::usage)?;
        self.attempt = Try {
            packing,
            resumes: ask.resumes(),
            ..Try::default()
        };
        loop {
            let step = match self.session.next(&running) {
                NextNotice::Notice(notice) => self.notice(notice),
                NextNotice::Gone => FollowStep::End(Err(self.lost("the request's thread is gone"))),
                NextNotice::Signal => FollowStep::End(Err(self.interrupted())),
                NextNotice::Tick => FollowStep::On,
            };
            if !matches!(step, FollowStep::On) {
                return Ok(step);
            }
            if self.session.due() {
                self.tick();
                let silent = self.attempt.resumes && self.attempt.status.is_none();
                if silent && self.patience.over(Instant::now()) {
                    let trouble = self.lost("the server is silent");
                    return Ok(self.broke(LossKind::Broken, trouble));
                }
            }
        }
    }

    fn tick(&mut self) {
        let attempt = &self.attempt;
        if let (Some(packing), false, None) = (&attempt.packing, attempt.sent, attempt.status) {
            let (bytes, total) = packing.progress();
            self.session.screen.upload(bytes, total);
        }
        self.session.tick();
    }

    fn notice(&mut self, notice: Notice) -> FollowStep {
        match notice {
            Notice::Sent => {
                self.attempt.sent = true;
                if let Some(packing) = &self.attempt.packing {
                    self.session.screen.uploaded(packing.progress().0);
                }
                FollowStep::On
            }
            Notice::Head(status) => {
                self.attempt.status = Some(status);
                self.session.reached = true;
                let good = (200..300).contains(&status);
                if self.attempt.packing.is_some() && !self.attempt.sent && good {
                    // It answers by the idempotency key alone.
                    let remark = "the server has this upload already";
                    self.session.screen.remark(remark);
                }
                FollowStep::On
            }
            Notice::Record(record) => self.record(&record),
            Notice::Answer(answer) => self.answer(&answer),
            // Nobody asked for a download here.
            Notice::Bytes(_) => FollowStep::On,
            Notice::Ended => self.cut(),
            Notice::Broken(stage, error) => self.broken(stage, &error),
        }
    }

    fn record(&mut self, record: &SseRecord) -> FollowStep {
        self.proven = true;
        let number = record.id.as_deref().and_then(|id| id.parse().ok());
        // A record without a number comes with that of the one before it, which is how one can tell.
        let own = std::mem::replace(&mut self.attempt.number, number) != number;
        if let Some(number) = number.filter(|_| own) {
            if number <= self.last {
                return FollowStep::On;
            }
            self.news(number);
        }
        if record.event == "deployment" && self.follows() {
            self.id = answer::deployment_id(&record.data).or(self.id.take());
        }
        self.nameless |= self.id.is_none();
        let screen = &mut *self.session.screen;
        if record.event == "error" && self.subject == Subject::Others {
            let failed = answer::failed(&record.data, self.attempt.status.unwrap_or_default());
            screen.remark(&format!("that deployment failed: {}", failed.message));
            return FollowStep::End(Ok(Value::Null));
        }
        screen.record(record.id.as_deref(), &record.event, &record.data);
        match record.event.as_str() {
            "done" => FollowStep::End(Ok(answer::done(&record.data))),
            "error" => {
                let status = self.attempt.status.unwrap_or_default();
                FollowStep::End(Err(CommandError {
                    failed: answer::failed(&record.data, status),
                    shown: true,
                    watch: false,
                }))
            }
            _ => FollowStep::On,
        }
    }

    /// There is an event that was not there before.
    fn news(&mut self, number: u64) {
        self.last = number;
        self.patience.news();
        if std::mem::take(&mut self.said) && self.attempt.resumes {
            self.session.screen.remark("reconnected");
        }
    }

    fn answer(&mut self, answer: &PlainAnswer) -> FollowStep {
        let judged = answer.judge();
        if self.attempt.resumes {
            return match judged {
                Ok(_) if answer.status == 204 => FollowStep::Over,
                Ok(_) => {
                    let trouble = self.lost("the answer is no event stream");
                    self.broke(LossKind::Broken, trouble)
                }
                Err(failed) if is_foreign(&failed) || answer.status >= 500 => {
                    self.broke(LossKind::Broken, failed.into())
                }
                Err(failed) => FollowStep::End(Err(self.refused(failed))),
            };
        }
        match judged {
            Ok(value) => FollowStep::End(Ok(value)),
            // A page of 4xx is one of a wrong address; a proxy that has lost its server says 5xx.
            Err(failed) if is_foreign(&failed) && answer.status < 500 => {
                FollowStep::End(Err(failed.into()))
            }
            Err(failed)
                if is_foreign(&failed)
                    || answer.status == 503
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
        let trouble = CommandError::from(answer::cut(status, self.id.clone()));
        if trouble.failed.exit != Exit::Unknown {
            return FollowStep::End(Err(trouble));
        }
        self.proven = true;
        self.broke(LossKind::Unanswered, trouble)
    }

    fn broken(&mut self, stage: RequestStage, error: &Error) -> FollowStep {
        let reads = matches!(
            self.subject,
            Subject::Reading | Subject::Watching | Subject::Others
        );
        let (kind, exit) = match stage {
            RequestStage::Payload => {
                let failure = self.attempt.packing.take().and_then(PackingThread::failure);
                let failure = failure.map_or_else(|| error.to_string(), |error| error.to_string());
                return FollowStep::End(Err(CommandError::usage(failure)));
            }
            RequestStage::Connecting => (LossKind::Unreached, Exit::Unreachable),
            RequestStage::Sending => (LossKind::Broken, Exit::Unreachable),
            RequestStage::Waiting if reads => (LossKind::Unanswered, Exit::Unreachable),
            RequestStage::Reading if self.subject == Subject::Reading => {
                (LossKind::Unanswered, Exit::Unreachable)
            }
            // The server may have begun what it was asked for.
            RequestStage::Waiting | RequestStage::Reading => (LossKind::Unanswered, Exit::Unknown),
        };
        self.proven |= stage == RequestStage::Reading;
        let trouble = self.lost_with(exit, error.to_string());
        self.broke(kind, trouble)
    }

    fn broke(&mut self, kind: LossKind, trouble: CommandError) -> FollowStep {
        self.session.reached |= kind != LossKind::Unreached;
        self.unknown |= kind == LossKind::Unanswered && self.attempt.packing.is_some();
        FollowStep::Lost(FailedTry { kind, trouble })
    }

    fn follows(&self) -> bool {
        matches!(
            self.subject,
            Subject::Deployment | Subject::Watching | Subject::Others
        )
    }

    /// The deployment whose events can be picked up again.
    fn known(&self) -> Option<DeploymentId> {
        let id = self.id.as_deref().filter(|_| self.follows())?;
        id.parse().ok()
    }

    fn lost(&self, message: &str) -> CommandError {
        self.lost_with(Exit::Unknown, message.to_owned())
    }

    fn lost_with(&self, exit: Exit, message: String) -> CommandError {
        let mut trouble = CommandError::from(NoResult {
            deployment_id: self.id.clone(),
            ..NoResult::new(exit, message)
        });
        trouble.watch &= matches!(self.subject, Subject::Deployment | Subject::Watching);
        trouble
    }

    fn interrupted(&self) -> CommandError {
        let attempt = &self.attempt;
        let open = attempt.packing.is_some() && !self.unknown && self.id.is_none();
        if open && !attempt.sent && attempt.status.is_none_or(|status| status >= 300) {
            let message = "interrupted: the upload was stopped, and nothing was deployed";
            let mut trouble = CommandError::from(NoResult::new(Exit::Interrupted, message));
            trouble.watch = false;
            return trouble;
        }
        self.lost_with(Exit::Interrupted, "interrupted".into())
    }
}

/// Whether something else answered in the server's place.
fn is_foreign(failed: &NoResult) -> bool {
    failed.exit == Exit::Unreachable && failed.code.is_none()
}
