//! The head of a request: found within its limits, parsed strictly, and written anew for the server behind.
//!
//! Whatever could be understood in two ways is refused: nothing that the server reads as a head or as a frame has gone
//! through unread.

use crate::server::gate::headers;
use crate::server::gate::refused::Refused;
use crate::server::gate::{FIELDS_MAX, HEAD_MAX, LINE_MAX};

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A head that is understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    method: String,
    target: String,
    /// The version is HTTP/1.0 or HTTP/1.1: this digit.
    pub(crate) minor: u8,
    /// What goes on to the server.
    fields: Vec<(String, String)>,
    pub(crate) framing: Framing,
    /// The length that was declared, zero included.
    pub(crate) declared: Option<u64>,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects: bool,
}

/// Looks for the end of a head in a buffer that grows.
#[derive(Default)]
pub(crate) struct Search {
    seen: usize,
    line: usize,
    /// The request line, once it is there, begins here.
    start: Option<usize>,
}

impl Search {
    /// Where the head begins and ends, once all of it is there.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Result<Option<(usize, usize)>, Refused> {
        while let Some(&byte) = bytes.get(self.seen) {
            let at = self.seen;
            self.seen += 1;
            if self.start.is_none() && self.seen - self.line > LINE_MAX {
                let why = format!("the request line is longer than {LINE_MAX} bytes");
                return Err(Refused::new(414, why));
            }
            match byte {
                b'\n' if at > self.line && bytes[at - 1] == b'\r' => {
                    let empty = at - 1 == self.line;
                    let begun = self.line;
                    self.line = at + 1;
                    match self.start {
                        Some(start) if empty => return Ok(Some((start, at + 1))),
                        Some(_) => {}
                        // Empty lines before a request are to be passed over, says RFC 9112; the limit counts them.
                        None if empty => {}
                        None => self.start = Some(begun),
                    }
                }
                b'\n' => return Err(bad("a line ends with a bare line feed")),
                b'\r' | b'\t' => {}
                0x16 if at == 0 => return Err(bad("this listener speaks HTTP, not TLS")),
                0..=0x1f | 0x7f => return Err(bad("it has a control character")),
                _ => {}
            }
            if self.seen >= HEAD_MAX {
                let why = format!("the head of the request is longer than {HEAD_MAX} bytes");
                return Err(Refused::new(431, why));
            }
        }
        Ok(None)
    }
}

impl RequestHead {
    /// Understands a head, from the request line to the empty line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<RequestHead, Refused> {
        let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut space);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Ok(_) => return Err(bad("it ends early")),
            Err(httparse::Error::TooManyHeaders) => {
                let why = format!("the head of the request has more than {FIELDS_MAX} fields");
                return Err(Refused::new(431, why));
            }
            Err(httparse::Error::Version) if is_other_version(bytes) => {
                return Err(Refused::new(
                    505,
                    "this server speaks HTTP/1.1 and HTTP/1.0 only",
                ));
            }
            Err(error) => return Err(bad(&error.to_string())),
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(bad("it ends early"));
        };
        if !target.is_ascii() {
            return Err(bad("its target is not ASCII"));
        }
        let mut fields = Vec::with_capacity(request.headers.len());
        for field in request.headers {
            match std::str::from_utf8(field.value) {
                Ok(value) if value.is_ascii() => fields.push((field.name, value)),
                _ => return Err(bad(&format!("the field {} is not ASCII", field.name))),
            }
        }
        if values(&fields, "Host").count() > 1 {
            return Err(bad("it has more than one Host"));
        }
        let (framing, declared) = framing(method, minor, &fields)?;
        // HTTP/1.0 does not know expectations, and without a body there is nothing to wait for.
        let expects = expects(&fields)? && minor == 1 && framing != Framing::Empty;
        let named = named_by_connection(&fields);
        let goes_on = |name: &str| {
            !is_ours(name)
                && !named
                    .iter()
                    .any(|dropped| dropped.eq_ignore_ascii_case(name))
        };
        Ok(RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            minor,
            fields: fields
                .iter()
                .filter(|(name, _)| goes_on(name))
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            framing,
            declared,
            expects,
        })
    }

    /// The head as the server behind gets it: alone, without a body, and the only one of its connection.
    pub(crate) fn forward(&self, connection: u64) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.{}\r\n", self.method, self.target, self.minor);
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        for (name, value) in &self.fields {
            field(name, value);
        }
        field("Connection", "close");
        field(headers::CONNECTION, &connection.to_string());
        head.push_str("\r\n");
        head.into_bytes()
    }
}

type FieldList<'a> = [(&'a str, &'a str)];

fn bad(why: &str) -> Refused {
    Refused::new(400, format!("the head of the request: {why}"))
}

fn values<'a>(fields: &'a FieldList, name: &'static str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| *value)
}

/// Exactly one length of digits, or exactly `chunked`, or nothing.
fn framing(method: &str, minor: u8, fields: &FieldList) -> Result<(Framing, Option<u64>), Refused> {
    let lengths: Vec<&str> = values(fields, "Content-Length").collect();
    let codings: Vec<&str> = values(fields, "Transfer-Encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if minor == 0 && matches!(method, "POST" | "PUT" | "PATCH") => Err(Refused::new(
            411,
            "an HTTP/1.0 request with a body needs a Content-Length",
        )),
        ([], []) => Ok((Framing::Empty, None)),
        ([length], []) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            match length.parse() {
                Ok(0) if digits => Ok((Framing::Empty, Some(0))),
                Ok(length) if digits => Ok((Framing::Length(length), Some(length))),
                _ => Err(bad("its Content-Length is not a length")),
            }
        }
        ([], [_]) if minor == 0 => Err(bad("HTTP/1.0 does not know Transfer-Encoding")),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok((Framing::Chunked, None)),
        ([], [_]) => Err(Refused::new(
            501,
            "the only Transfer-Encoding of this server is chunked",
        )),
        ([], _) => Err(bad("it has more than one Transfer-Encoding")),
        (_, []) => Err(bad("it has more than one Content-Length")),
        _ => Err(bad("it has both Content-Length and Transfer-Encoding")),
    }
}

fn expects(fields: &FieldList) -> Result<bool, Refused> {
    let mut expects = false;
    for value in values(fields, "Expect") {
        if !value.eq_ignore_ascii_case("100-continue") {
            return Err(Refused::new(
                417,
                "the only expectation that this server meets is 100-continue",
            ));
        }
        expects = true;
    }
    Ok(expects)
}

/// The fields that a client's `Connection` declares to be for this connection only.
fn named_by_connection<'a>(fields: &'a FieldList) -> Vec<&'a str> {
    values(fields, "Connection")
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}

/// What is said anew to the server, or is for the client's own connection only.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 11] = [
        "Connection",
        "Content-Length",
        "Expect",
        "HTTP2-Settings",
        "Keep-Alive",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ];
    headers::is_private(name) || OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

/// Whether the request line ends like one of HTTP, of a version that is not spoken here.
fn is_other_version(bytes: &[u8]) -> bool {
    let line = bytes
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    match line.rsplit(|byte| *byte == b' ').next() {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RequestHead, Refused> {
        let bytes = text.as_bytes();
        // Byte by byte and at once must be the same.
        let mut search = Search::default();
        let at_once = Search::default().find(bytes);
        let mut by_bytes = Ok(None);
        for end in 0..=bytes.len() {
            by_bytes = search.find(&bytes[..end]);
            if by_bytes != Ok(None) {
                break;
            }
        }
        assert_eq!(at_once, by_bytes, "{text:?}");
        let (start, end) = at_once?.unwrap_or_else(|| panic!("no end in {text:?}"));
        RequestHead::parse(&bytes[start..end])
    }

    fn status(text: &str) -> u16 {
        match read(text) {
            Ok(_) => panic!("{:?} went through", &text[..text.len().min(100)]),
            Err(refused) => {
                assert_eq!(refused.code.word(), "bad_http");
                refused.status
            }
        }
    }

    #[test]
    fn refusals() {
        let table = [
            // Versions.
            ("GET / HTTP/2.0", 505),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/3.0", 505),
            ("GET / HTTP/1.2", 505),
            ("GET / HTTP/0.9", 505),
            ("GET /", 400),
            ("GET / HTTP/1.1 more", 400),
            ("GET / HTTP/1.10", 400),
            ("GET / HTTPS/1.1", 400),
            ("GET / http/1.1", 400),
            ("GET  / HTTP/1.1", 400),
            (" GET / HTTP/1.1", 400),
            ("G(T / HTTP/1.1", 400),
            ("/ HTTP/1.1", 400),
            ("GET /\u{e4} HTTP/1.1", 400),
            // Framing.
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 6",
                400,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 5, 5", 400),
            ("POST / HTTP/1.1\r\nContent-Length: +5", 400),
            ("POST / HTTP/1.1\r\nContent-Length: -1", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 0x5", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 5 5", 400),
            ("POST / HTTP/1.1\r\nContent-Length:", 400),
            (
                "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                400,
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 501),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity",
                501,
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: identity", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding:", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
            ("POST / HTTP/1.0", 411),
            // Lines.
            ("POST / HTTP/1.1\r\n Content-Length: 5", 400),
            ("POST / HTTP/1.1\r\nX: a\r\n b", 400),
            ("POST / HTTP/1.1\r\nX: a\r\n\tb", 400),
            ("POST / HTTP/1.1\nX: a", 400),
            ("POST / HTTP/1.1\r\nX: a\nContent-Length: 5", 400),
            ("POST / HTTP/1.1\r\nX: a\n\r\nContent-Length: 5", 400),
            ("\nGET / HTTP/1.1", 400),
            ("GET / HTTP/1.1\r\nX: a\rb", 400),
            ("GET / HTTP/1.1\r\nX: a\0b", 400),
            ("GET /\0 HTTP/1.1", 400),
            ("GET / HTTP/1.1\r\nX\0: a", 400),
            ("GET / HTTP/1.1\r\nX: a\x7f", 400),
            ("GET / HTTP/1.1\r\n: a", 400),
            ("GET / HTTP/1.1\r\nContent-Length : 5", 400),
            ("GET / HTTP/1.1\r\nContent Length: 5", 400),
            ("GET / HTTP/1.1\r\nno colon", 400),
            ("GET / HTTP/1.1\r\nX: \u{e4}", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
            ("\x16\x03\x01 GET / HTTP/1.1", 400),
            // Expectations.
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 200-ok",
                417,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\nExpect: x",
                417,
            ),
        ];
        for (text, expected) in table {
            assert_eq!(status(&format!("{text}\r\n\r\n")), expected, "{text:?}");
        }
    }

    #[test]
    fn limits() {
        let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(read(&fields(FIELDS_MAX)).is_ok());
        assert_eq!(status(&fields(FIELDS_MAX + 1)), 431);

        let long =
            |bytes: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(bytes - 23));
        assert_eq!(long(HEAD_MAX).len(), HEAD_MAX);
        assert!(read(&long(HEAD_MAX)).is_ok());
        assert_eq!(status(&long(HEAD_MAX + 1)), 431);
        // Without any line end, too.
        assert_eq!(
            status(&format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(HEAD_MAX))),
            431
        );
        assert_eq!(status(&"\r\n".repeat(HEAD_MAX)), 431);

        let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(bytes - 16));
        assert!(read(&target(LINE_MAX)).is_ok());
        assert_eq!(status(&target(LINE_MAX + 1)), 414);
        assert_eq!(status(&"y".repeat(LINE_MAX + 1)), 414);
    }

    #[test]
    fn framings() {
        let table = [
            ("GET / HTTP/1.1", Framing::Empty, None),
            ("POST / HTTP/1.1", Framing::Empty, None),
            ("GET / HTTP/1.0", Framing::Empty, None),
            (
                "POST / HTTP/1.1\r\nContent-Length: 0",
                Framing::Empty,
                Some(0),
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length:  007 ",
                Framing::Length(7),
                Some(7),
            ),
            (
                "POST / HTTP/1.0\r\nContent-Length: 5",
                Framing::Length(5),
                Some(5),
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615",
                Framing::Length(u64::MAX),
                Some(u64::MAX),
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: Chunked",
                Framing::Chunked,
                None,
            ),
        ];
        for (text, framing, declared) in table {
            let head = read(&format!("\r\n{text}\r\n\r\n")).unwrap();
            assert_eq!(
                (head.framing, head.declared),
                (framing, declared),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_goes_on() {
        let ours = "Connection: close\r\nGangplank-Gate-Connection: 7\r\n";
        let table = [
            (
                "GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Mine\r\nx-mine: 1\r\nUpgrade: h2c\r\nTE: trailers",
                format!("GET /a?b HTTP/1.1\r\nHost: h\r\n{ours}\r\n"),
            ),
            // Of a body nothing is said.
            (
                "POST / HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-Continue\r\nGANGPLANK-GATE-CONNECTION: 1\r\nA: b",
                format!("POST / HTTP/1.1\r\nA: b\r\n{ours}\r\n"),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 1",
                format!("POST / HTTP/1.1\r\n{ours}\r\n"),
            ),
            (
                "POST / HTTP/1.0\r\nContent-Length: 9\r\nExpect: 100-continue",
                format!("POST / HTTP/1.0\r\n{ours}\r\n"),
            ),
            (
                "GET / HTTP/1.1\r\nExpect: 100-continue\r\nEmpty:",
                format!("GET / HTTP/1.1\r\nEmpty: \r\n{ours}\r\n"),
            ),
        ];
        for (text, expected) in table {
            let head = read(&format!("{text}\r\n\r\n")).unwrap();
            assert_eq!(
                String::from_utf8(head.forward(7)).unwrap(),
                expected,
                "{text:?}"
            );
        }
    }
}
