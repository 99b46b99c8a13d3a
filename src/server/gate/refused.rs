//! What the gate answers in the server's place: one whole HTTP answer, the same shape as the server's own refusals.

use serde_json::{Map, Value};

use crate::api::error::{self, Code};

/// A request, or a connection, that does not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) code: Code,
    pub(crate) why: String,
}

impl Refused {
    /// Not a request that the gate understands, or not in time. `status` is one of those of `bad_http`.
    pub(crate) fn new(status: u16, why: impl Into<String>) -> Refused {
        Refused {
            status,
            code: Code::BadHttp,
            why: why.into(),
        }
    }

    /// No place for it now.
    pub(crate) fn full(why: impl Into<String>) -> Refused {
        Refused {
            status: Code::Full.status(),
            code: Code::Full,
            why: why.into(),
        }
    }

    /// Nobody answered, although somebody should have.
    pub(crate) fn internal() -> Refused {
        Refused {
            status: Code::Internal.status(),
            code: Code::Internal,
            why: "the server failed to answer this request".to_owned(),
        }
    }

    /// The answer's bytes, with a length, so that a client of HTTP/1.0 reads it too.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let body = Value::Object(error::body(&self.why, self.code.word(), Map::new()));
        let retry = match self.code.retry_after() {
            Some(after) => format!("Retry-After: {}\r\n", after.as_secs()),
            None => String::new(),
        };
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{retry}Connection: close\r\n\r\n\
             {body}\n",
            self.status,
            reason(self.status),
            body.to_string().len() + 1,
        )
        .into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        411 => "Length Required",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole() {
        let table = [
            (
                Refused::new(408, "too \"slow\""),
                "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\
                 Connection: close\r\n\r\n{\"error\":\"too \\\"slow\\\"\",\"code\":\"bad_http\"}\n",
            ),
            (
                Refused::full("no"),
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\
                 Retry-After: 5\r\nConnection: close\r\n\r\n{\"error\":\"no\",\"code\":\"full\"}\n",
            ),
        ];
        for (refused, expected) in table {
            assert_eq!(String::from_utf8(refused.answer()).unwrap(), expected);
        }
    }
}
