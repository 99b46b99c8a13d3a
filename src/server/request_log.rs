//! The one line of log for each request, written when its answer has ended, wherever that is.

use std::time::Instant;

use crate::server::http::Exchange;
use crate::system::log;

/// What the line will say.
pub(super) struct RequestLog {
    asked: String,
    begun: Instant,
}

impl RequestLog {
    pub(super) fn begin(exchange: &Exchange) -> RequestLog {
        let (client, method) = (exchange.client(), exchange.method());
        RequestLog {
            asked: format!("{client} {method} {}", exchange.path()),
            begun: Instant::now(),
        }
    }

    /// Who asked for what.
    pub(super) fn asked(&self) -> &str {
        &self.asked
    }

    /// Adds which operation it was, if it was one.
    pub(super) fn names(&mut self, operation: &str) {
        if !operation.is_empty() {
            self.asked.push(' ');
            self.asked.push_str(operation);
        }
    }

    /// Writes the line.
    pub(super) fn end(self, status: u16, arrived: bool) {
        let ms = self.begun.elapsed().as_millis();
        let gone = if arrived { "" } else { ", the client had gone" };
        log::info(&format!("{} {status} {ms} ms{gone}", self.asked));
    }
}
