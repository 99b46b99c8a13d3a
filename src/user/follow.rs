//! Follows one request to its end, showing what happens, and says what came of it.
//!
//! What is lost on the way is tried again as long as the [`Patience`] lasts:
//! - events, once the deployment's id is known: they go on after the last one that was seen, none twice;
//! - an upload whose deployment is not known yet: the payload is sent again with the same idempotency key, so that the
//!   server can tell it from a second deployment.
//!
//! An operation without a key is never sent twice if it may have arrived. A server that was never reached in this run is
//! waited for only if that was asked for.

mod again;

use std::time::Instant;

use serde_json::Value;

use crate::client::{Answer, Failed, Notice, Stage, answer};
use crate::error::{Error, Exit};
use crate::name::DeploymentId;
use crate::sse::Record;
use crate::user::Trouble;
use crate::user::ask::Ask;
use crate::user::pack::Packing;
use crate::user::patience::Patience;
use crate::user::session::{Next, Session};

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
    patience: Patience,
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
    attempt: Attempt,
}

/// How one try stands.
#[derive(Default)]
struct Attempt {
    packing: Option<Packing>,
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
enum Step {
    On,
    End(Result<Value, Trouble>),
    /// Nothing comes after the last event.
    Over,
    Lost(Loss),
}

/// A try that came to nothing, and how it ends if there is no other one.
struct Loss {
    kind: Kind,
    trouble: Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
            patience: Patience::new(session.retry_for),
            session,
            subject,
            id,
            last: 0,
            proven: false,
            nameless: false,
            unknown: false,
            said: false,
            attempt: Attempt::default(),
        }
    }

    /// Until there is a result, or no hope for one.
    pub(crate) fn follow(mut self, mut ask: Ask) -> Result<Value, Trouble> {
        loop {
            match self.attempt(&ask)? {
                Step::End(result) => return result,
                Step::Lost(loss) => ask = self.again(ask, loss)?,
                Step::Over => ask = self.over(ask)?,
                Step::On => {}
            }
        }
    }

    /// One try, to its end.
    fn attempt(&mut self, ask: &Ask) -> Result<Step, Trouble> {
        let (running, packing) = ask.begin(self.session.client).map_err(Trouble::usage)?;
        self.attempt = Attempt {
            packing,
            resumes: ask.resumes(),
            ..Attempt::default()
        };
        loop {
            let step = match self.session.next(&running) {
                Next::Notice(notice) => self.notice(notice),
                Next::Gone => Step::End(Err(self.lost("the request's thread is gone"))),
                Next::Signal => Step::End(Err(self.interrupted())),
                Next::Tick => Step::On,
            };
            if !matches!(step, Step::On) {
                return Ok(step);
            }
            if self.session.due() {
                self.tick();
                let silent = self.attempt.resumes && self.attempt.status.is_none();
                if silent && self.patience.over(Instant::now()) {
                    let trouble = self.lost("the server is silent");
                    return Ok(self.broke(Kind::Broken, trouble));
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

    fn notice(&mut self, notice: Notice) -> Step {
        match notice {
            Notice::Sent => {
                self.attempt.sent = true;
                if let Some(packing) = &self.attempt.packing {
                    self.session.screen.uploaded(packing.progress().0);
                }
                Step::On
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
                Step::On
            }
            Notice::Record(record) => self.record(&record),
            Notice::Answer(answer) => self.answer(&answer),
            // Nobody asked for a download here.
            Notice::Bytes(_) => Step::On,
            Notice::Ended => self.cut(),
            Notice::Broken(stage, error) => self.broken(stage, &error),
        }
    }

    fn record(&mut self, record: &Record) -> Step {
        self.proven = true;
        let number = record.id.as_deref().and_then(|id| id.parse().ok());
        // A record without a number comes with that of the one before it, which is how one can tell.
        let own = std::mem::replace(&mut self.attempt.number, number) != number;
        if let Some(number) = number.filter(|_| own) {
            if number <= self.last {
                return Step::On;
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
            return Step::End(Ok(Value::Null));
        }
        screen.record(record.id.as_deref(), &record.event, &record.data);
        match record.event.as_str() {
            "done" => Step::End(Ok(answer::done(&record.data))),
            "error" => {
                let status = self.attempt.status.unwrap_or_default();
                Step::End(Err(Trouble {
                    failed: answer::failed(&record.data, status),
                    shown: true,
                    watch: false,
                }))
            }
            _ => Step::On,
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

    fn answer(&mut self, answer: &Answer) -> Step {
        let judged = answer.judge();
        if self.attempt.resumes {
            return match judged {
                Ok(_) if answer.status == 204 => Step::Over,
                Ok(_) => {
                    let trouble = self.lost("the answer is no event stream");
                    self.broke(Kind::Broken, trouble)
                }
                Err(failed) if is_foreign(&failed) || answer.status >= 500 => {
                    self.broke(Kind::Broken, failed.into())
                }
                Err(failed) => Step::End(Err(self.refused(failed))),
            };
        }
        match judged {
            Ok(value) => Step::End(Ok(value)),
            // A page of 4xx is one of a wrong address; a proxy that has lost its server says 5xx.
            Err(failed) if is_foreign(&failed) && answer.status < 500 => {
                Step::End(Err(failed.into()))
            }
            Err(failed)
                if is_foreign(&failed)
                    || answer.status == 503
                    || failed.code.as_deref() == Some("upload_broken") =>
            {
                self.broke(Kind::Broken, failed.into())
            }
            Err(failed) => Step::End(Err(failed.into())),
        }
    }

    /// The stream is at its end, and nothing terminal was in it.
    fn cut(&mut self) -> Step {
        let status = self.attempt.status.unwrap_or_default();
        let trouble = Trouble::from(answer::cut(status, self.id.clone()));
        if trouble.failed.exit != Exit::Unknown {
            return Step::End(Err(trouble));
        }
        self.proven = true;
        self.broke(Kind::Unanswered, trouble)
    }

    fn broken(&mut self, stage: Stage, error: &Error) -> Step {
        let reads = matches!(
            self.subject,
            Subject::Reading | Subject::Watching | Subject::Others
        );
        let (kind, exit) = match stage {
            Stage::Payload => {
                let failure = self.attempt.packing.take().and_then(Packing::failure);
                let failure = failure.map_or_else(|| error.to_string(), |error| error.to_string());
                return Step::End(Err(Trouble::usage(failure)));
            }
            Stage::Connecting => (Kind::Unreached, Exit::Unreachable),
            Stage::Sending => (Kind::Broken, Exit::Unreachable),
            Stage::Waiting if reads => (Kind::Unanswered, Exit::Unreachable),
            Stage::Reading if self.subject == Subject::Reading => {
                (Kind::Unanswered, Exit::Unreachable)
            }
            // The server may have begun what it was asked for.
            Stage::Waiting | Stage::Reading => (Kind::Unanswered, Exit::Unknown),
        };
        self.proven |= stage == Stage::Reading;
        let trouble = self.lost_with(exit, error.to_string());
        self.broke(kind, trouble)
    }

    fn broke(&mut self, kind: Kind, trouble: Trouble) -> Step {
        self.session.reached |= kind != Kind::Unreached;
        self.unknown |= kind == Kind::Unanswered && self.attempt.packing.is_some();
        Step::Lost(Loss { kind, trouble })
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

    fn lost(&self, message: &str) -> Trouble {
        self.lost_with(Exit::Unknown, message.to_owned())
    }

    fn lost_with(&self, exit: Exit, message: String) -> Trouble {
        let mut trouble = Trouble::from(Failed {
            deployment_id: self.id.clone(),
            ..Failed::new(exit, message)
        });
        trouble.watch &= matches!(self.subject, Subject::Deployment | Subject::Watching);
        trouble
    }

    fn interrupted(&self) -> Trouble {
        let attempt = &self.attempt;
        let open = attempt.packing.is_some() && !self.unknown && self.id.is_none();
        if open && !attempt.sent && attempt.status.is_none_or(|status| status >= 300) {
            let message = "interrupted: the upload was stopped, and nothing was deployed";
            let mut trouble = Trouble::from(Failed::new(Exit::Interrupted, message));
            trouble.watch = false;
            return trouble;
        }
        self.lost_with(Exit::Interrupted, "interrupted".into())
    }
}

/// Whether something else answered in the server's place.
fn is_foreign(failed: &Failed) -> bool {
    failed.exit == Exit::Unreachable && failed.code.is_none()
}
