//! What is told of events that are not quite ours: those of newer servers, and of Harper's.

use serde_json::Value;

use crate::api::event::Stream;
use crate::api::json;
use crate::cli::screen::lines;
use crate::cli::screen::narrator::Narrator;
use crate::cli::screen::page::{LineKind, Page};

impl Narrator {
    /// What matters of events that are not quite ours, or not of a deployment: its id, the reason of a failure, a line.
    pub(super) fn unknown(&mut self, name: &str, data: &str, page: &mut dyn Page) {
        let value: Value = match name {
            "deployment" | "error" | "warning" | "done" | "peer" | "output" | "host"
            | "rollout" => json::from_text(data).unwrap_or_else(|_| data.into()),
            _ => return,
        };
        let part = |key| value.get(key).and_then(Value::as_str);
        match name {
            "deployment" => {
                self.begin();
                self.name(part("deployment_id"), page);
            }
            "done" => self.end(page),
            "peer" => self.harper_peer(&value, page),
            "host" => self.fleet_host(&value, page),
            "rollout" => self.rollout(&value, page),
            "output" => {
                let stream = match part("stream") {
                    Some("stderr") => Stream::Stderr,
                    _ => Stream::Stdout,
                };
                self.log_line(stream, part("line").unwrap_or(data), page);
            }
            "warning" => self.message(
                LineKind::Warning,
                part("message").unwrap_or(data),
                None,
                page,
            ),
            _ => {
                self.end(page);
                self.message(
                    LineKind::Error,
                    part("message").unwrap_or(data),
                    part("code"),
                    page,
                );
            }
        }
    }

    /// The id of a deployment, if nobody has told it: a Harper server does so with the end.
    pub(super) fn name(&mut self, id: Option<&str>, page: &mut dyn Page) {
        if let Some(id) = id.filter(|_| !std::mem::replace(&mut self.named, true)) {
            let text = format!("deployment {}", lines::visible(id));
            self.say(LineKind::Fact, &text, page);
        }
    }

    /// What became of a Harper server's peer.
    fn harper_peer(&self, value: &Value, page: &mut dyn Page) {
        let part = |key: &str| value.get(key).and_then(Value::as_str);
        let Some(node) = part("node") else { return };
        let mut text = format!("peer {}", lines::visible(node));
        let error = value.pointer("/error/message").and_then(Value::as_str);
        let parts = [part("status"), part("reason").or(error)];
        for part in parts.into_iter().flatten() {
            text += &format!(": {}", lines::message(part).join(" "));
        }
        self.say(LineKind::Fact, &text, page);
    }
}
