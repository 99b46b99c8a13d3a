//! Requests that are followed to their end on a screen, until a signal comes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::operation::{AnswerShape, OperationCall, OperationName};
use crate::cli::screen::Screen;
use crate::cli::session::missing::DeltaUpload;
use crate::cli::session::pack::{self, PackLink, PackingThread, UploadSource};
use crate::cli::session::{CommandError, Session};
use crate::client::follow::{
    AnswerFollower, FollowHost, FollowNews, FollowOptions, NextNotice, Repeat, Subject,
};
use crate::client::speed::LinkSpeed;
use crate::client::{Client, DeploymentRef, InFlight};
use crate::formats::archive::Spool;
use crate::formats::sse::SseRecord;

/// What is asked.
#[derive(Clone)]
pub(crate) enum FollowedRequest<'a> {
    Operation(&'a OperationCall),
    /// A deployment without a payload, which the server knows again by the key.
    Keyed {
        call: &'a OperationCall,
        key: &'a str,
    },
    /// What kind of server answers. It may be asked again.
    Probe(&'a OperationCall),
    /// What of a tree is missing, or without its list whether there is anything at all; the server ends an earlier upload with this key for it.
    Prepare {
        call: &'a OperationCall,
        list: Option<&'a Arc<Spool>>,
        key: &'a str,
    },
    /// An operation with a payload, which is packed for each try anew.
    Upload {
        call: &'a OperationCall,
        source: UploadSource,
        /// How only what the server lacks is sent, if that is wanted.
        delta: Option<&'a DeltaUpload>,
        key: &'a str,
    },
    /// The lines that a component's processes print, as events; `again` is asked where they are to go on.
    Lines {
        first: &'a OperationCall,
        again: Option<&'a OperationCall>,
    },
    /// The events of a component's newest deployment, or all of one's.
    Watch(DeploymentRef),
}

/// What is to be shown.
pub(crate) enum Shown<'a> {
    Record(&'a SseRecord),
    /// Lines that were shown may come again.
    Again,
}

/// Shows it; false if nobody wants more.
pub(crate) type Show<'a> = &'a mut dyn FnMut(&mut Screen, Shown<'_>) -> bool;

impl FollowedRequest<'_> {
    /// What a Harper server answers, where that is less than ours does.
    fn shape_at(&self, client: &Client, shape: AnswerShape) -> AnswerShape {
        let (FollowedRequest::Operation(call)
        | FollowedRequest::Keyed { call, .. }
        | FollowedRequest::Upload { call, .. }) = self
        else {
            return shape;
        };
        match call.name() {
            Some(OperationName::DeployComponent) if client.is_harper() => AnswerShape::MESSAGE,
            // A tree of files.
            Some(OperationName::GetComponents) if client.is_harper() => AnswerShape::Json,
            _ => shape,
        }
    }

    fn options(&self, session: &Session) -> FollowOptions {
        let (subject, repeat, shape, id) = match self {
            FollowedRequest::Operation(call) => {
                let (subject, repeat) = match call.name() {
                    Some(name) if name.deploys() => (Subject::Deployment, Repeat::Unsent),
                    Some(name) if name.reads() => (Subject::Reading, Repeat::Reading),
                    _ => (Subject::Operation, Repeat::Unsent),
                };
                (subject, repeat, Some(call.shape()), None)
            }
            FollowedRequest::Keyed { call, .. } => (
                Subject::Deployment,
                Repeat::Freely,
                Some(call.shape()),
                None,
            ),
            FollowedRequest::Probe(call) => {
                (Subject::Reading, Repeat::Freely, Some(call.shape()), None)
            }
            FollowedRequest::Prepare { call, .. } => {
                (Subject::Reading, Repeat::Unsent, Some(call.shape()), None)
            }
            FollowedRequest::Upload { call, .. } => (
                Subject::Deployment,
                Repeat::Upload,
                Some(call.shape()),
                None,
            ),
            FollowedRequest::Lines { first, again } => {
                let repeat = match again {
                    Some(_) => Repeat::Events,
                    None => Repeat::Reading,
                };
                (Subject::Reading, repeat, Some(first.shape()), None)
            }
            FollowedRequest::Watch(which) => {
                let id = match which {
                    DeploymentRef::Deployment(id) => Some(id.to_string()),
                    DeploymentRef::Latest(_) | DeploymentRef::Next(..) => None,
                };
                (Subject::Watching, Repeat::Events, None, id)
            }
        };
        let shape = shape.map(|shape| self.shape_at(session.client, shape));
        // Whoever asks for that asks again before its next try.
        let once = matches!(self, FollowedRequest::Prepare { .. });
        FollowOptions {
            subject,
            repeat,
            shape,
            id,
            retry_for: session.retry_for.filter(|_| !once),
            reached: session.reached,
            sought: session.sought(self),
        }
    }
}

impl Session<'_> {
    /// The answer to an operation.
    pub(crate) fn call(&mut self, call: &OperationCall) -> Result<Value, CommandError> {
        let call = self.fit(call)?;
        let result = self.follow(FollowedRequest::Operation(&call));
        result.map_err(|error| self.named(error))
    }

    /// Follows a request to its end, and shows its events.
    pub(crate) fn follow(&mut self, request: FollowedRequest) -> Result<Value, CommandError> {
        self.follow_with(request, &mut |screen, shown| {
            if let Shown::Record(record) = shown {
                screen.record(record.id.as_deref(), &record.event, &record.data);
            }
            true
        })
    }

    /// As [`Session::follow`], with its events shown by somebody else.
    pub(crate) fn follow_with(
        &mut self,
        request: FollowedRequest,
        show: Show<'_>,
    ) -> Result<Value, CommandError> {
        let mut follower = AnswerFollower::new(self.client, request.options(self));
        let mut following = Following {
            session: self,
            request,
            show,
            packing: None,
            speed: None,
            sending: false,
            begun: false,
            unwanted: false,
        };
        let result = follower.follow(&mut following);
        let (packing, unwanted) = (following.packing.take(), following.unwanted);
        (self.status, self.date) = (follower.status(), follower.date());
        self.reached |= follower.reached();
        if unwanted {
            return Ok(Value::Null);
        }
        result.map_err(|mut error| {
            // The packing knows its failure better than the request that read it.
            let own = error.failed.exit == Exit::Usage;
            let packing = packing.filter(|_| own);
            if let Some(failure) = packing.and_then(PackingThread::failure) {
                error.failed.message = failure.to_string();
            }
            CommandError::from(error)
        })
    }
}

/// A request while it is followed.
struct Following<'f, 'a, 'r> {
    session: &'f mut Session<'a>,
    request: FollowedRequest<'r>,
    show: Show<'f>,
    packing: Option<PackingThread>,
    /// What is remembered of the link, for an upload.
    speed: Option<LinkSpeed>,
    /// The payload is being sent, and nothing was answered.
    sending: bool,
    /// Lines have come, so that they go on.
    begun: bool,
    /// Nobody wants to see more.
    unwanted: bool,
}

impl Following<'_, '_, '_> {
    fn upload(&mut self) -> Result<InFlight, Error> {
        let FollowedRequest::Upload {
            call,
            source,
            delta,
            key,
        } = self.request.clone()
        else {
            return Err(Error::new("sending", "there is nothing to send"));
        };
        let client = self.session.client;
        let missing = match delta {
            Some(delta) => self.session.missing(call, key, delta)?,
            None => None,
        };
        self.sending = true;
        self.speed = LinkSpeed::of(client);
        let link = PackLink {
            local: client.is_local(),
            known: self.speed.as_ref().and_then(LinkSpeed::known),
            lz4: delta.is_some_and(DeltaUpload::takes_lz4),
        };
        let Some(missing) = missing else {
            let (packing, payload) = pack::start(source, link)?;
            self.packing = Some(packing);
            return client.upload(call, payload, key);
        };
        let mut fields = call.fields().clone();
        if let Some(base) = &missing.head.base {
            fields.insert("base".into(), base.as_str().into());
        }
        let call = OperationCall::new(OperationName::DeployComponent.word(), fields);
        let (packing, payload) = pack::start_delta(missing, source.level(), link)?;
        self.packing = Some(packing);
        client.upload(&call, payload, key)
    }
}

impl FollowHost for Following<'_, '_, '_> {
    fn begin(&mut self) -> Result<InFlight, Error> {
        let client = self.session.client;
        match &self.request {
            FollowedRequest::Operation(call) => client.call(call, call.is_long()),
            FollowedRequest::Keyed { call, key } => client.call_once(call, key),
            FollowedRequest::Probe(call) => match self.session.asked.take() {
                Some(asked) => Ok(asked),
                None => client.call_briefly(call),
            },
            FollowedRequest::Lines { first, again } => {
                let call = match (self.begun, again) {
                    (true, Some(again)) => {
                        self.unwanted |= !(self.show)(self.session.screen, Shown::Again);
                        again
                    }
                    _ => first,
                };
                client.call(call, true)
            }
            FollowedRequest::Watch(which) => client.events(which, 0),
            FollowedRequest::Prepare { call, list, key } => {
                client.prepare(call, list.map(Spool::shared), key)
            }
            FollowedRequest::Upload { .. } => self.upload(),
        }
    }

    fn next(&mut self, running: &InFlight) -> NextNotice {
        if self.unwanted {
            return NextNotice::Stop;
        }
        let next = self.session.next(running);
        if let (Some(packing), true, NextNotice::Tick) = (&self.packing, self.sending, &next) {
            let (bytes, total) = packing.progress();
            self.session.screen.upload(bytes, total);
        }
        next
    }

    fn pause(&mut self, time: Duration) -> bool {
        self.session.pause(time)
    }

    fn news(&mut self, news: FollowNews<'_>) {
        let screen = &mut *self.session.screen;
        match news {
            FollowNews::Sent => {
                self.sending = false;
                if let Some(packing) = &self.packing {
                    if let (Some(speed), Some(link)) = (&self.speed, packing.link()) {
                        speed.keep(link);
                    }
                    match packing.reused() {
                        Some((sent, reused)) => screen.uploaded_some(sent, reused),
                        None => screen.uploaded(packing.progress().0),
                    }
                }
            }
            FollowNews::Head { status, early } => {
                self.sending = false;
                let harper = self.session.client.is_harper();
                if early && !harper && (200..300).contains(&status) {
                    // It answers by the idempotency key alone.
                    screen.remark("the server has this upload already");
                }
            }
            // Of what came at once, nothing is shown any longer once nobody wants more.
            FollowNews::Record { .. } if self.unwanted => {}
            FollowNews::Record { record, .. } => {
                self.begun = true;
                self.unwanted |= !(self.show)(screen, Shown::Record(record));
            }
            FollowNews::Lost(remark) => {
                screen.remark(&remark);
                screen.flush();
            }
            FollowNews::Reconnected => screen.remark("reconnected"),
        }
    }
}
