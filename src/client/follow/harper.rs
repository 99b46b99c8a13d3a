//! Following a deployment at a Harper server. It names no deployment before its end, numbers no event, sends no heartbeat,
//! and knows no key by which an upload could be sent again. So what is lost is looked for among its records and followed
//! from there, and after a long silence it is asked whether there is anything to wait for.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::error::{Error, Exit};
use crate::api::json;
use crate::api::operation::{Operation, OperationCall};
use crate::client::follow::{
    AnswerFollower, Asked, FailedTry, FollowError, FollowHost, FollowNews, FollowStep, LossKind,
    NextNotice, Subject, is_foreign,
};
use crate::client::harper::find::{PayloadHash, Sought, result_of};
use crate::client::harper::replay::SeenEvents;
use crate::client::{InFlight, NoResult, Notice, PlainAnswer, answer};
use crate::formats::sse::SseRecord;

/// After so long without a word it is asked; an installation may be silent for an hour.
const QUESTION_AFTER: Duration = Duration::from_secs(45);

/// A record is there from the first byte of the payload on, and its end is written within moments: what is not there after
/// so many looks is not there at all.
const LOOKS: u32 = 4;

/// What is known of a deployment at a Harper server.
#[derive(Debug)]
pub(super) struct HarperState {
    /// By what it is found.
    pub(super) sought: Option<Sought>,
    /// The payload's, once it was sent.
    hash: Option<PayloadHash>,
    seen: SeenEvents,
    /// How the server said that it ended, before it said what came of it.
    finished: Option<bool>,
    /// How often a record was looked for or at, and said nothing.
    looked: u32,
    /// When something came last.
    heard: Instant,
    pub(super) question_after: Duration,
}

impl HarperState {
    pub(super) fn new(sought: Option<Sought>) -> HarperState {
        HarperState {
            sought,
            hash: None,
            seen: SeenEvents::default(),
            finished: None,
            looked: 0,
            heard: Instant::now(),
            question_after: QUESTION_AFTER,
        }
    }

    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }
}

/// How a record stands.
enum RowOutcome {
    Success,
    Failed,
    /// It runs, or was left so by a server that was killed.
    Open,
}

fn outcome_of(row: &Value) -> RowOutcome {
    match row.get("status").and_then(Value::as_str) {
        Some("success" | "staged") => RowOutcome::Success,
        Some("failed" | "rolled_back") => RowOutcome::Failed,
        _ => RowOutcome::Open,
    }
}

/// Why a deployment failed, by its record.
fn failure_of(row: &Value) -> NoResult {
    let part = |key: &str| row.pointer(&format!("/error/{key}"));
    let text = |key: &str| part(key).and_then(Value::as_str);
    let message =
        text("message").unwrap_or("the deployment failed, and its record does not say why");
    let code = match part("code") {
        Some(Value::String(code)) => Some(code.clone()),
        Some(Value::Number(code)) => Some(code.to_string()),
        _ => None,
    };
    // What ended while it was stored is an upload that broke.
    let broken = text("phase") == Some("pending") && message == "aborted";
    let exit = if broken {
        Exit::Unreachable
    } else {
        Exit::Refused
    };
    NoResult {
        code,
        deployment_id: id_of(row),
        ..NoResult::new(exit, message)
    }
}

fn id_of(row: &Value) -> Option<String> {
    row.get("deployment_id")?.as_str().map(str::to_owned)
}

impl AnswerFollower<'_> {
    /// Asks a Harper server for what is missing.
    pub(super) fn harper_begin(
        &mut self,
        asked: Asked,
        host: &mut dyn FollowHost,
    ) -> Result<InFlight, Error> {
        let running = match asked {
            Asked::Request => {
                let running = host.begin()?;
                self.harper.hash = running.payload_hash();
                running
            }
            Asked::Find => {
                let sought = self.harper.sought.clone().unwrap_or_default();
                self.client.call_briefly(&sought.call())?
            }
            Asked::Events(id) => {
                self.harper.seen.begin_again();
                let call = OperationCall::from(Operation::GetDeployment(id));
                self.client.call(&call, true)?
            }
            Asked::End(id) => {
                let call = OperationCall::from(Operation::GetDeployment(id));
                self.client.call_briefly(&call)?
            }
        };
        self.harper.heard();
        Ok(running)
    }

    pub(super) fn harper_record(
        &mut self,
        record: &SseRecord,
        host: &mut dyn FollowHost,
    ) -> FollowStep {
        self.proven = true;
        if self.attempt.resumes() && record.event == "done" {
            // It carries the record as it was when it was asked for.
            let row = answer::done(&record.data);
            return match (outcome_of(&row), self.known()) {
                (RowOutcome::Open, Some(id)) => FollowStep::Next(Asked::End(id)),
                _ => self.judged(&row),
            };
        }
        if !self.harper.seen.is_new(record) {
            return FollowStep::On;
        }
        self.window.news();
        self.harper.looked = 0;
        if std::mem::take(&mut self.said) && self.attempt.resumes() {
            host.news(FollowNews::Reconnected);
        }
        if record.event == "_recorder_finished" {
            let data = json::from_text::<Value>(&record.data).unwrap_or_default();
            self.harper.finished = Some(data.get("status") == Some(&Value::from("success")));
        }
        host.news(FollowNews::Record {
            record,
            numbered: false,
        });
        self.step_of(record)
    }

    /// What was answered to a question for what is missing.
    pub(super) fn harper_answer(&mut self, answer: &PlainAnswer) -> FollowStep {
        let sought = self.harper.sought.clone().unwrap_or_default();
        let asked = match self.attempt.asked {
            Asked::Find => sought.call(),
            Asked::Events(id) | Asked::End(id) => Operation::GetDeployment(id).into(),
            // Not a question.
            Asked::Request => return FollowStep::On,
        };
        let value = match answer.judge(Some(asked.shape())) {
            Ok(value) => value,
            Err(failed) if is_foreign(&failed) || answer.status >= 500 => {
                return self.broke(LossKind::Broken, failed.into());
            }
            Err(failed) if self.options.subject == Subject::Watching => {
                return FollowStep::End(Err(failed.into()));
            }
            Err(failed) => {
                // Some roles may deploy and not look at what came of it.
                let mut trouble = self.refused(failed);
                trouble.failed.exit = Exit::Unknown;
                return FollowStep::End(Err(trouble));
            }
        };
        if self.attempt.asked != Asked::Find {
            return self.judged(&value);
        }
        let row = sought.choose(&value, self.hash());
        match row.and_then(id_of) {
            Some(id) => {
                self.options.id = Some(id);
                self.harper.looked = 0;
                match self.known() {
                    Some(id) => FollowStep::Next(Asked::Events(id)),
                    None => self.looked("its id is not one"),
                }
            }
            None if sought.newest => {
                let project = sought.project.unwrap_or_default();
                let message = format!("no deployment of {project} is known");
                FollowStep::End(Err(NoResult::new(Exit::Refused, message).into()))
            }
            None => self.looked("Harper has no record that must be of this deployment"),
        }
    }

    fn hash(&self) -> Option<&str> {
        let hash = self.harper.hash.as_ref()?.get()?;
        Some(hash.as_str())
    }

    /// By a record, as it is now.
    fn judged(&mut self, row: &Value) -> FollowStep {
        match outcome_of(row) {
            RowOutcome::Success => FollowStep::End(Ok(result_of(row))),
            RowOutcome::Failed => {
                let mut error = FollowError::from(failure_of(row));
                error.watch = false;
                FollowStep::End(Err(error))
            }
            RowOutcome::Open => self.looked(
                "its record says that it is pending, which a server that was killed leaves so for ever",
            ),
        }
    }

    /// A look at the records has said nothing. There is another one after a while, but for the last.
    fn looked(&mut self, why: &str) -> FollowStep {
        self.harper.looked += 1;
        let trouble = self.lost(why);
        if self.harper.looked < LOOKS {
            return FollowStep::Lost(FailedTry {
                kind: LossKind::Broken,
                trouble,
            });
        }
        FollowStep::End(Err(trouble))
    }

    /// What is asked next of a Harper server when a try came to nothing, and not the request again.
    ///
    /// # Errors
    /// When there is nothing to ask for, or no more time.
    pub(super) fn harper_again(
        &mut self,
        asked: Asked,
        mut loss: FailedTry,
        host: &mut dyn FollowHost,
    ) -> Result<Asked, FollowError> {
        let next = match (asked, self.known()) {
            (Asked::Request, _) if self.uploads() && !self.attempt.sent => {
                // What came in part is never deployed.
                loss.trouble.failed.exit = Exit::Unreachable;
                loss.trouble.watch = false;
                let message = &mut loss.trouble.failed.message;
                *message = format!("the upload broke: {message}; nothing was deployed");
                return Err(loss.trouble);
            }
            (Asked::Request, Some(id)) => Asked::Events(id),
            (Asked::Request, None) if self.harper.sought.is_none() => {
                if loss.trouble.failed.exit == Exit::Unknown {
                    loss.trouble.watch = false;
                    let message = &mut loss.trouble.failed.message;
                    message.push_str(
                        "; a deployment may go on, and this server keeps no record of it",
                    );
                }
                return Err(loss.trouble);
            }
            (Asked::Request, None) => Asked::Find,
            (asked, _) => asked,
        };
        self.unknown = true;
        let Some(wait) = self.window.lost(Instant::now()) else {
            return Err(self.given_up(loss));
        };
        let reason = &loss.trouble.failed.message;
        if !std::mem::replace(&mut self.said, true) {
            host.news(FollowNews::Lost(match next {
                Asked::Find => format!("answer lost ({reason}); looking for the deployment"),
                _ => format!("connection lost ({reason}); reconnecting"),
            }));
        }
        match host.pause(wait) {
            true => Ok(next),
            false => Err(self.interrupted()),
        }
    }

    /// Asks what has become of a deployment of which nothing was heard for long.
    pub(super) fn harper_silence(&mut self, host: &mut dyn FollowHost) -> FollowStep {
        let uploading = self.uploads() && !self.attempt.sent;
        let follows = matches!(self.attempt.asked, Asked::Request | Asked::Events(_));
        let silent = self.harper.heard.elapsed() >= self.harper.question_after;
        if uploading || !follows || !self.follows() || !silent || self.harper.sought.is_none() {
            return FollowStep::On;
        }
        match self.side_question(host) {
            Ok(Some(row)) if !matches!(outcome_of(&row), RowOutcome::Open) => self.judged(&row),
            // Who is not answered, or not told, goes on waiting.
            Ok(_) => {
                self.harper.heard();
                FollowStep::On
            }
            Err(step) => step,
        }
    }

    /// The deployment's record, asked for beside what runs; none if it is not among those that are told.
    fn side_question(&mut self, host: &mut dyn FollowHost) -> Result<Option<Value>, FollowStep> {
        let asked = self.known().map_or(Asked::Find, Asked::End);
        let sought = self.harper.sought.clone().unwrap_or_default();
        let call = match asked {
            Asked::End(id) => OperationCall::from(Operation::GetDeployment(id)),
            _ => sought.call(),
        };
        let side = match self.client.call_briefly(&call) {
            Ok(side) => side,
            Err(_) => return Ok(None),
        };
        let answer = loop {
            match host.next(&side) {
                NextNotice::Notice(Notice::Answer(answer)) => break answer,
                NextNotice::Notice(Notice::Broken(_, error)) => {
                    let trouble = self.lost(&error.to_string());
                    return Err(self.broke(LossKind::Unanswered, trouble));
                }
                NextNotice::Notice(_) | NextNotice::Tick => {}
                NextNotice::Gone => return Ok(None),
                NextNotice::Stop => return Err(FollowStep::End(Err(self.interrupted()))),
            }
        };
        let value = answer.judge(Some(call.shape())).ok();
        Ok(match asked {
            Asked::End(_) => value,
            _ => value.and_then(|value| sought.choose(&value, self.hash()).cloned()),
        })
    }

    /// The server has said that it ended well, and its answer was lost: all that is missing is the id.
    pub(super) fn harper_finished(&mut self, host: &mut dyn FollowHost) -> Option<Value> {
        if self.harper.finished != Some(true) {
            return None;
        }
        let row = match self.side_question(host) {
            Ok(Some(row)) => row,
            _ => {
                let sought = self.harper.sought.clone().unwrap_or_default();
                serde_json::json!({ "project": sought.project })
            }
        };
        Some(result_of(&row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use crate::client::follow::{FollowOptions, Repeat};
    use crate::client::kind::ServerKind;
    use crate::client::{Client, Target};

    struct QuietHost<'a>(&'a Client);

    impl FollowHost for QuietHost<'_> {
        fn begin(&mut self) -> Result<InFlight, Error> {
            let call = OperationCall::new("deploy_component", Default::default());
            self.0.upload(&call, &b"PAYLOAD"[..], "key")
        }

        fn next(&mut self, running: &InFlight) -> NextNotice {
            match running.notices().recv_timeout(Duration::from_millis(5)) {
                Ok(notice) => NextNotice::Notice(notice),
                Err(error) if error.is_timeout() => NextNotice::Tick,
                Err(_) => NextNotice::Gone,
            }
        }

        fn pause(&mut self, _: Duration) -> bool {
            true
        }

        fn news(&mut self, _: FollowNews<'_>) {}
    }

    /// Reads a request to its end.
    fn read(stream: &mut TcpStream) -> String {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"0\r\n\r\n") && !request.ends_with(b"}") {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0);
            request.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&request).into_owned()
    }

    /// A server whose stream is silent from its beginning, and what it says of the deployment, question by question.
    fn silent(rows: Vec<&'static str>) -> (Result<Value, FollowError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut upload = listener.accept().unwrap().0;
            read(&mut upload);
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: stream open\n\n";
            upload.write_all(head.as_bytes()).unwrap();
            let mut asked = 0;
            for row in rows {
                let mut stream = listener.accept().unwrap().0;
                let request = read(&mut stream);
                assert!(request.contains("list_deployments"), "{request}");
                asked += 1;
                let body = format!("{{\"deployments\":[{row}]}}");
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
            // The upload's own connection lives so long.
            drop(upload);
            asked
        });
        let client = Client::new(Target::parse(&url).unwrap()).unwrap();
        client.know(ServerKind::of(None));
        let options = FollowOptions {
            subject: Subject::Deployment,
            repeat: Repeat::Upload,
            shape: None,
            id: None,
            retry_for: Some(Duration::ZERO),
            reached: true,
            sought: Some(Sought::default()),
        };
        let mut follower = AnswerFollower::new(&client, options);
        follower.harper.question_after = Duration::from_millis(30);
        let result = follower.follow(&mut QuietHost(&client));
        (result, server.join().unwrap())
    }

    const ID: &str = "2f1c1e9a-7d0a-4f55-9d8e-000000000001";

    #[test]
    fn a_server_that_is_silent_is_asked_what_became_of_the_deployment() {
        let pending =
            r#"{"deployment_id":"x","project":"p","status":"pending","payload_hash":null}"#;
        let success = r#"{"deployment_id":"2f1c1e9a-7d0a-4f55-9d8e-000000000001","project":"p","status":"success","payload_hash":null}"#;
        let failed = r#"{"deployment_id":"x","project":"p","status":"failed","payload_hash":null,"error":{"message":"m","code":422}}"#;
        let (result, asked) = silent(vec![pending, "", pending, success]);
        assert_eq!(result.unwrap()["deployment_id"], ID);
        assert_eq!(asked, 4);
        let (result, _) = silent(vec![pending, failed]);
        let failed = result.unwrap_err().failed;
        assert_eq!((failed.message.as_str(), failed.exit), ("m", Exit::Refused));
        assert_eq!(failed.code.as_deref(), Some("422"));
    }

    #[test]
    fn a_silent_server_that_is_gone_is_not_waited_for() {
        let pending =
            r#"{"deployment_id":"x","project":"p","status":"pending","payload_hash":null}"#;
        let (result, _) = silent(vec![pending]);
        assert_eq!(result.unwrap_err().failed.exit, Exit::Unknown);
    }
}
