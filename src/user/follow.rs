//! Follows one request to its end, showing what happens, and says what came of it.

use std::time::{Duration, Instant};

use crossbeam_channel::select;
use serde_json::Value;

use crate::client::{Failed, Notice, Running, Stage, answer};
use crate::error::{Error, Exit};
use crate::screen::Screen;
use crate::sse::Record;
use crate::user::Trouble;
use crate::user::pack::Packing;
use crate::user::signals::Signals;

/// How often time passes on the screen.
const TICK: Duration = Duration::from_millis(100);

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

/// One request's end as it is awaited.
pub(crate) struct Following<'a> {
    screen: &'a mut Screen,
    subject: Subject,
    signals: Signals,
    packing: Option<Packing>,
    /// The deployment, once it is known.
    id: Option<String>,
    /// The answer's status, once there is one.
    status: Option<u16>,
    /// The payload was sent.
    sent: bool,
    ticked: Instant,
}

/// What one notice brought.
enum Step {
    On,
    End(Result<Value, Trouble>),
}

impl<'a> Following<'a> {
    pub(crate) fn new(
        screen: &'a mut Screen,
        subject: Subject,
        id: Option<String>,
    ) -> Result<Following<'a>, Trouble> {
        Ok(Following {
            screen,
            subject,
            signals: Signals::new().map_err(Trouble::usage)?,
            packing: None,
            id,
            status: None,
            sent: false,
            ticked: Instant::now(),
        })
    }

    /// With an upload, whose progress is shown.
    pub(crate) fn uploading(mut self, packing: Packing) -> Following<'a> {
        self.packing = Some(packing);
        self
    }

    /// Until there is a result. A stream that breaks is not picked up again yet: this is the place for it.
    pub(crate) fn follow(mut self, running: &Running) -> Result<Value, Trouble> {
        let signals = self.signals.channel().clone();
        loop {
            let step = select! {
                recv(running.notices()) -> notice => match notice {
                    Ok(notice) => self.notice(notice),
                    // Only a panic ends the thread without its last notice.
                    Err(_) => Step::End(Err(self.lost("the request's thread is gone"))),
                },
                recv(signals) -> _ => Step::End(Err(self.interrupted())),
                default(TICK) => Step::On,
            };
            if let Step::End(result) = step {
                return result;
            }
            if self.ticked.elapsed() >= TICK {
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        if let (Some(packing), false, None) = (&self.packing, self.sent, self.status) {
            let (bytes, total) = packing.progress();
            self.screen.upload(bytes, total);
        }
        self.screen.tick();
    }

    fn notice(&mut self, notice: Notice) -> Step {
        match notice {
            Notice::Sent => {
                self.sent = true;
                if let Some(packing) = &self.packing {
                    self.screen.uploaded(packing.progress().0);
                }
                Step::On
            }
            Notice::Head(status) => {
                self.status = Some(status);
                if self.packing.is_some() && !self.sent && (200..300).contains(&status) {
                    // It answers by the idempotency key alone.
                    self.screen.remark("the server has this upload already");
                }
                Step::On
            }
            Notice::Record(record) => self.record(&record),
            Notice::Answer(answer) => Step::End(answer.judge().map_err(Trouble::from)),
            Notice::Ended => Step::End(Err(self.cut())),
            Notice::Broken(stage, error) => Step::End(Err(self.broken(stage, &error))),
        }
    }

    fn record(&mut self, record: &Record) -> Step {
        if record.event == "deployment" {
            self.id = answer::deployment_id(&record.data).or(self.id.take());
        }
        self.screen
            .record(record.id.as_deref(), &record.event, &record.data);
        match record.event.as_str() {
            "done" => Step::End(Ok(answer::done(&record.data))),
            "error" => {
                let failed = answer::failed(&record.data, self.status.unwrap_or_default());
                Step::End(Err(Trouble {
                    failed,
                    shown: true,
                    watch: false,
                }))
            }
            _ => Step::On,
        }
    }

    /// The stream is at its end, and nothing terminal was in it.
    fn cut(&mut self) -> Trouble {
        let status = self.status.unwrap_or_default();
        answer::cut(status, self.id.take()).into()
    }

    fn broken(&mut self, stage: Stage, error: &Error) -> Trouble {
        let exit = match stage {
            Stage::Payload => match self.packing.take().and_then(Packing::failure) {
                Some(error) => return Trouble::usage(error),
                None => Exit::Usage,
            },
            Stage::Connecting | Stage::Sending => Exit::Unreachable,
            Stage::Reading if self.subject == Subject::Reading => Exit::Unreachable,
            Stage::Waiting if matches!(self.subject, Subject::Reading | Subject::Watching) => {
                Exit::Unreachable
            }
            // The server may have begun what it was asked for.
            Stage::Waiting | Stage::Reading => Exit::Unknown,
        };
        self.lost_with(exit, error.to_string())
    }

    fn lost(&mut self, message: &str) -> Trouble {
        self.lost_with(Exit::Unknown, message.to_owned())
    }

    fn lost_with(&mut self, exit: Exit, message: String) -> Trouble {
        let mut trouble = Trouble::from(Failed {
            deployment_id: self.id.take(),
            ..Failed::new(exit, message)
        });
        trouble.watch &= matches!(self.subject, Subject::Deployment | Subject::Watching);
        trouble
    }

    fn interrupted(&mut self) -> Trouble {
        let uploading = self.packing.is_some() && !self.sent && self.status.is_none();
        if uploading {
            let message = "interrupted: the upload was stopped, and nothing was deployed";
            let mut trouble = Trouble::from(Failed::new(Exit::Interrupted, message));
            trouble.watch = false;
            return trouble;
        }
        self.lost_with(Exit::Interrupted, "interrupted".into())
    }
}
