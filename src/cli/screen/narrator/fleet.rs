//! What is told of a rollout: a line for each change of a host, and a bar of how many are live.

use serde_json::Value;

use crate::cli::screen::lines;
use crate::cli::screen::narrator::Narrator;
use crate::cli::screen::page::{LineKind, Page};

/// How wide the bar is: of ten hosts each is seen, of a thousand a change.
const BAR_LEN: u64 = 20;

impl Narrator {
    /// How a host of a fleet stands.
    pub(super) fn fleet_host(&mut self, value: &Value, page: &mut dyn Page) {
        let part = |key: &str| value.get(key).and_then(Value::as_str);
        let (Some(host), Some(state)) = (part("host"), part("state")) else {
            return;
        };
        let mut text = format!("{}: {}", lines::visible(host), lines::visible(state));
        if let Some(why) = part("message") {
            text += &format!(": {}", lines::message(why).join(" "));
        }
        let kind = match state {
            "failed" | "rolled_back" | "held" => LineKind::Failed,
            "live" => LineKind::Done,
            _ => LineKind::Fact,
        };
        self.say(kind, &text, page);
    }

    /// How far a rollout is.
    pub(super) fn rollout(&mut self, value: &Value, page: &mut dyn Page) {
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        let part = |key: &str| value.get(key).and_then(Value::as_str);
        let (live, expected) = (number("live"), number("expected"));
        let mut text = format!("{} {live} of {expected} hosts live", bar(live, expected));
        if let Some(state) = part("rollout") {
            text += &format!(", {}", lines::visible(state));
        }
        if let Some(why) = part("reason") {
            text += &format!(": {}", lines::message(why).join(" "));
        }
        self.say(LineKind::Fact, &text, page);
    }
}

/// A bar of how much of a whole is done; it is full only when all is.
fn bar(done: u64, all: u64) -> String {
    let full = (done.min(all) * BAR_LEN)
        .checked_div(all)
        .unwrap_or(BAR_LEN);
    let signs = (0..BAR_LEN).map(|at| if at < full { '#' } else { '-' });
    format!("[{}]", signs.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::page::RelayStyle;

    #[derive(Default)]
    struct RolloutLines(Vec<String>);

    impl Page for RolloutLines {
        fn line(&mut self, _: LineKind, _: Option<&str>, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    #[test]
    fn a_rollout_is_told_in_lines() {
        let style = RelayStyle {
            raw: false,
            utf8: false,
        };
        let (mut narrator, mut page) = (Narrator::new(style), RolloutLines::default());
        let now = std::time::Instant::now();
        for (event, data) in [
            (
                "host",
                r#"{"host":"one","state":"building","message":null}"#,
            ),
            (
                "host",
                r#"{"host":"two","state":"failed","message":"no\nroom\u001b[2J"}"#,
            ),
            ("host", r#"{"state":"live"}"#),
            (
                "rollout",
                r#"{"rollout":"canary","live":3,"expected":4,"reason":null}"#,
            ),
            (
                "rollout",
                r#"{"rollout":"stopped","live":0,"expected":0,"reason":"1 host failed"}"#,
            ),
        ] {
            narrator.record(event, data, now, &mut page);
        }
        let expected = [
            "one: building",
            "two: failed: no room^[[2J",
            "[###############-----] 3 of 4 hosts live, canary",
            "[####################] 0 of 0 hosts live, stopped: 1 host failed",
        ];
        assert_eq!(page.0, expected);
    }
}
