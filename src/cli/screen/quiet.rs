//! Errors only.

use std::time::Instant;

use crate::api::event::Event;
use crate::cli::screen::lines;
use crate::cli::screen::lines::sentence;
use crate::cli::screen::sink::Sink;
use crate::cli::screen::{Remark, Renderer};

/// A screen that says nothing as long as all goes well.
pub(crate) struct Quiet {
    sink: Sink,
}

impl Quiet {
    pub(crate) fn new(sink: Sink) -> Quiet {
        Quiet { sink }
    }

    fn error(&mut self, message: &str, code: Option<&str>) {
        let text = format!("error: {}", sentence(message, code).replace('\n', "\n  "));
        for line in text.split('\n') {
            self.sink.push(&lines::defused(line));
            self.sink.push("\n");
        }
        self.sink.flush();
    }
}

impl Renderer for Quiet {
    fn upload(&mut self, _bytes: u64, _total: u64, _now: Instant) {}

    fn uploaded(&mut self, _bytes: u64, _now: Instant) {}

    fn record(&mut self, _id: Option<&str>, event: &str, data: &str, _now: Instant) {
        if event != "error" {
            return;
        }
        match Event::parse(event, data) {
            Event::Error(failure) => {
                let code = Some(failure.code.as_str()).filter(|code| !code.is_empty());
                self.error(&failure.message, code);
            }
            // An error that we cannot read is an error nevertheless.
            _ => self.error(data, None),
        }
    }

    fn say(&mut self, said: Remark<'_>, message: &str, _now: Instant) {
        if let Remark::Error(code) = said {
            self.error(message, code);
        }
    }

    fn tick(&mut self, _now: Instant) {}

    fn flush(&mut self, _now: Instant) {}

    fn finish(&mut self, _now: Instant) {}
}
