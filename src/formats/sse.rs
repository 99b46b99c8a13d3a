//! Event streams: [`frame`] writes records, [`Parser`] reads them, by the rules of the WHATWG to the letter.
//!
//! The parser takes bytes as they come, cut anywhere, a line end or a character included, and gives the same records for
//! every way of cutting. Its memory is bounded: a record above [`Parser::LIMIT`] is an error, and so is all that follows,
//! because nobody can say where the next record would begin.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::Write as _;

use memchr::memchr2;

/// The comment that begins a stream, so that a proxy and a waiting reader see that it has begun.
pub const OPEN: &[u8] = b": stream open\n\n";

/// The comment that keeps a silent stream alive, and that tells the writer when its reader is gone.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// One record of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseRecord {
    /// The last event id as of this record; none if none was ever set, or if it was set empty.
    pub id: Option<String>,
    /// The event's name, `message` if the record has none.
    pub event: String,
    /// The data lines, joined with line feeds.
    pub data: String,
}

/// A record was longer than [`Parser::LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = Parser::LIMIT >> 20;
        write!(f, "a record of the event stream is over {mebibytes} MiB")
    }
}

impl StdError for TooLong {}

/// Reads an event stream: [`Parser::push`] bytes, then take records from it as from an iterator, which is at its end
/// when it needs more bytes, not when the stream is. An unfinished last record is never given.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes that came; those before `start` are used up.
    buffer: Vec<u8>,
    start: usize,
    /// Before this place there is no line end, so that a long line that comes in many pieces is searched once.
    searched: usize,
    /// The last line ended with a CR, so that a LF right behind it is still the same line end.
    after_cr: bool,
    /// The place where a byte order mark may stand is behind us.
    begun: bool,
    /// A record was too long.
    broken: bool,
    id: String,
    event: String,
    data: String,
    /// Bytes in lines of the record so far; what was kept of them cannot be more than three times as much.
    size: usize,
}

/// What decides where a stream begins: UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The buffer's used-up front is cut off when it is longer than this, so that moving the rest is paid for by many records.
const FRONT: usize = 64 * 1024;

impl Parser {
    /// The longest record. A server's own records are far below: an `error` with its output is at most some 100 KiB; a
    /// result with many deployments in it may be some MiB.
    pub const LIMIT: usize = 16 << 20;

    /// A parser at the beginning of a stream.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Adds bytes. Take all records that are complete before pushing more, or the buffer grows.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.searched -= self.start;
            self.start = 0;
        } else if self.start > FRONT {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Steps over a byte order mark at the very beginning. False while too few bytes are there to tell.
    fn begin(&mut self) -> bool {
        if !self.begun {
            if self.buffer.starts_with(MARK) {
                self.start = MARK.len();
                self.searched = self.start;
            } else if MARK.starts_with(&self.buffer) {
                return false;
            }
            self.begun = true;
        }
        true
    }

    /// The next complete line as a range of the buffer.
    fn line(&mut self) -> Option<(usize, usize)> {
        if self.after_cr && self.start < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.start] == b'\n' {
                self.start += 1;
                self.searched = self.start;
            }
        }
        let Some(found) = memchr2(b'\r', b'\n', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let (from, to) = (self.start, self.searched + found);
        self.after_cr = self.buffer[to] == b'\r';
        self.start = to + 1;
        self.searched = self.start;
        Some((from, to))
    }

    /// Takes one line that is not empty into the record.
    fn field(&mut self, from: usize, to: usize) {
        let line = &self.buffer[from..to];
        let (name, value) = match memchr::memchr(b':', line) {
            Some(0) => return,
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &line[line.len()..]),
        };
        match name {
            b"data" => {
                self.data.reserve(value.len() + 1);
                self.data.push_str(&text(value));
                self.data.push('\n');
            }
            b"event" => {
                self.event.clear();
                self.event.push_str(&text(value));
            }
            b"id" if !value.contains(&0) => {
                self.id.clear();
                self.id.push_str(&text(value));
            }
            // `retry` too: how long to wait is the client's own affair.
            _ => {}
        }
    }

    /// Ends a record. Without data it counts for nothing, but for its id.
    fn dispatch(&mut self) -> Option<SseRecord> {
        self.size = 0;
        let mut data = std::mem::take(&mut self.data);
        let event = std::mem::take(&mut self.event);
        data.pop()?;
        Some(SseRecord {
            id: (!self.id.is_empty()).then(|| self.id.clone()),
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data,
        })
    }

    fn give_up(&mut self) -> Option<Result<SseRecord, TooLong>> {
        *self = Parser {
            broken: true,
            ..Parser::default()
        };
        Some(Err(TooLong))
    }
}

impl Iterator for Parser {
    type Item = Result<SseRecord, TooLong>;

    /// The next complete record, or none until more bytes are pushed.
    fn next(&mut self) -> Option<Result<SseRecord, TooLong>> {
        if self.broken {
            return Some(Err(TooLong));
        }
        if !self.begin() {
            return None;
        }
        while let Some((from, to)) = self.line() {
            if from == to {
                if let Some(record) = self.dispatch() {
                    return Some(Ok(record));
                }
                continue;
            }
            // Comments are not kept, and a server may send nothing else for days.
            if self.buffer[from] != b':' {
                self.size += to - from;
            }
            if self.size > Parser::LIMIT {
                return self.give_up();
            }
            self.field(from, to);
        }
        if self.size + (self.buffer.len() - self.start) > Parser::LIMIT {
            return self.give_up();
        }
        None
    }
}

/// A line end is never part of a character, so that decoding line by line is decoding the stream.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    // Looking whether it is text is several times as quick as looking for what is not, and nearly all is.
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// Writes one record. A line end of any kind in `data` begins a new `data:` line, and is a LF for the reader; one in
/// `event` would let the name forge fields, and becomes a space.
pub fn frame(out: &mut Vec<u8>, id: Option<u64>, event: &str, data: &str) {
    if let Some(id) = id {
        // Writing into memory cannot fail.
        let _ = writeln!(out, "id: {id}");
    }
    out.extend_from_slice(b"event: ");
    match memchr2(b'\r', b'\n', event.as_bytes()) {
        None => out.extend_from_slice(event.as_bytes()),
        Some(_) => out.extend(event.bytes().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            other => other,
        })),
    }
    out.push(b'\n');
    let mut rest = data.as_bytes();
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr2(b'\r', b'\n', rest) else {
            out.extend_from_slice(rest);
            break;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let pair = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(pair)..];
    }
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Short = (Option<&'static str>, &'static str, &'static str);

    /// Streams and their records as (id, event, data).
    const STREAMS: &[(&[u8], &[Short])] = &[
        (b"", &[]),
        (b"data: a\n\n", &[(None, "message", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n", &[(None, "message", "a")]),
        // A second mark is part of a field's name, and so is one further on.
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", &[]),
        (
            b"data: a\n\n\xef\xbb\xbfdata: b\n\n",
            &[(None, "message", "a")],
        ),
        // Broken beginnings of a mark are not a mark.
        (b"\xef\xbbdata: a\n\ndata: b\n\n", &[(None, "message", "b")]),
        (
            b"data: a\r\n\r\ndata: b\r\r",
            &[(None, "message", "a"), (None, "message", "b")],
        ),
        (b"data: a\r\ndata: b\r\n\r\n", &[(None, "message", "a\nb")]),
        (b"data: a\rdata: b\n\r", &[(None, "message", "a\nb")]),
        (
            b"data: a\n\rdata: b\n\n",
            &[(None, "message", "a"), (None, "message", "b")],
        ),
        (
            b": stream open\n\n:\n\n: x\ndata: a\n: y\n\n",
            &[(None, "message", "a")],
        ),
        (
            b"data:a\ndata: b\ndata:  c\n\n",
            &[(None, "message", "a\nb\n c")],
        ),
        (
            b"data\n\ndata\ndata\n\ndata:\n",
            &[(None, "message", ""), (None, "message", "\n")],
        ),
        (
            b"data:test\n\ndata: test\n\n",
            &[(None, "message", "test"), (None, "message", "test")],
        ),
        (
            b"event: phase\ndata: {}\n\ndata: x\n\n",
            &[(None, "phase", "{}"), (None, "message", "x")],
        ),
        // No data: no record, and the name is forgotten.
        (b"event: phase\n\ndata: x\n\n", &[(None, "message", "x")]),
        (
            b"event: a\nevent: b\nevent\ndata: x\n\n",
            &[(None, "message", "x")],
        ),
        (
            b"id: 1\nevent: a\ndata: x\n\ndata: y\n\nid: 2\n\ndata: z\n\nid\ndata: e\n\n",
            &[
                (Some("1"), "a", "x"),
                (Some("1"), "message", "y"),
                (Some("2"), "message", "z"),
                (None, "message", "e"),
            ],
        ),
        (
            b"id: 1\n\nid: 2\x003\ndata: x\n\n",
            &[(Some("1"), "message", "x")],
        ),
        (
            b"retry: 1\nfoo: bar\nDATA: x\ndata : x\n data: x\ndata: y\n\n",
            &[(None, "message", "y")],
        ),
        (b"data: a:b: c\n\n", &[(None, "message", "a:b: c")]),
        (b"data: a\n\ndata: unfinished\n", &[(None, "message", "a")]),
        (
            "data: gr\u{fc}n \u{20ac} \u{1f600}\n\n".as_bytes(),
            &[(None, "message", "gr\u{fc}n \u{20ac} \u{1f600}")],
        ),
        (
            b"data: \xff \xe2\x82\n\n",
            &[(None, "message", "\u{fffd} \u{fffd}")],
        ),
        (
            b"data: \xe2\x82\ndata: \xac\n\n",
            &[(None, "message", "\u{fffd}\n\u{fffd}")],
        ),
        (b"data: \x00\x1b\n\n", &[(None, "message", "\0\x1b")]),
        (b"\r\n\r\n\n\ndata: x\n\n", &[(None, "message", "x")]),
    ];

    fn parse(pieces: &[&[u8]]) -> Vec<(Option<String>, String, String)> {
        let mut parser = Parser::new();
        let mut records = Vec::new();
        for piece in pieces {
            parser.push(piece);
            for record in parser.by_ref() {
                let record = record.unwrap();
                records.push((record.id, record.event, record.data));
            }
        }
        records
    }

    #[test]
    fn records_do_not_depend_on_where_the_stream_is_cut() {
        for (stream, expected) in STREAMS {
            let expected: Vec<_> = expected
                .iter()
                .map(|(id, event, data)| {
                    (
                        id.map(str::to_owned),
                        (*event).to_owned(),
                        (*data).to_owned(),
                    )
                })
                .collect();
            let shown = String::from_utf8_lossy(stream);
            assert_eq!(parse(&[stream]), expected, "{shown:?}");
            for cut in 0..=stream.len() {
                let (left, right) = stream.split_at(cut);
                assert_eq!(parse(&[left, right]), expected, "{shown:?} cut at {cut}");
                assert_eq!(
                    parse(&[left, b"", right]),
                    expected,
                    "{shown:?} cut at {cut}"
                );
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(parse(&bytes), expected, "{shown:?} by bytes");
        }
    }

    #[test]
    fn a_record_is_given_as_soon_as_its_end_is_seen() {
        let mut parser = Parser::new();
        parser.push(b"data: a\r\r");
        assert!(parser.next().is_some());
        parser.push(b"\ndata: b\n");
        assert!(parser.next().is_none());
        parser.push(b"\n");
        assert_eq!(parser.next().unwrap().unwrap().data, "b");
    }

    #[test]
    fn a_record_that_is_too_long_is_an_error_for_ever() {
        let piece = vec![b'x'; 1 << 20];
        let lines = [&b"data: "[..], &piece, b"\n"].concat();
        for unit in [&piece, &lines] {
            let mut parser = Parser::new();
            let mut pushed = 0;
            let found = loop {
                parser.push(unit);
                pushed += unit.len();
                match parser.next() {
                    Some(found) => break found,
                    None => assert!(pushed <= Parser::LIMIT + 2 * unit.len()),
                }
            };
            assert_eq!(found, Err(TooLong));
            assert!(pushed > Parser::LIMIT);
            parser.push(b"\n\ndata: x\n\n");
            assert_eq!(parser.next(), Some(Err(TooLong)));
            assert!(parser.buffer.capacity() == 0);
        }
        // A complete line does not get around it.
        let mut parser = Parser::new();
        parser.push(&[&b"data: "[..], &vec![b'x'; Parser::LIMIT], b"\n\n"].concat());
        assert_eq!(parser.next(), Some(Err(TooLong)));
        // Many records together may be longer.
        let mut parser = Parser::new();
        for _ in 0..20 {
            parser.push(&lines);
            parser.push(b"\n");
            assert_eq!(parser.next().unwrap().unwrap().data.len(), piece.len());
            assert!(parser.next().is_none());
        }
        assert!(parser.buffer.capacity() < 4 << 20);
    }

    #[test]
    fn frames_read_back() {
        let table = [
            (Some(7), "phase", "{\"a\":1}", "phase", "{\"a\":1}"),
            (None, "upload", "", "upload", ""),
            (None, "a", " leading", "a", " leading"),
            (
                None,
                "a",
                "one\ntwo\r\nthree\rfour\n",
                "a",
                "one\ntwo\nthree\nfour\n",
            ),
            (None, "a\ndata: forged\r\n", "x", "a data: forged  ", "x"),
            (None, "a", "x\n\nid: 9\n", "a", "x\n\nid: 9\n"),
            (None, "gr\u{fc}n", "\u{1f600}", "gr\u{fc}n", "\u{1f600}"),
        ];
        for (id, event, data, read_event, read_data) in table {
            let mut out = OPEN.to_vec();
            frame(&mut out, id, event, data);
            out.extend_from_slice(HEARTBEAT);
            let expected = (
                id.map(|id: u64| id.to_string()),
                read_event.to_owned(),
                read_data.to_owned(),
            );
            assert_eq!(parse(&[&out]), [expected], "{data:?}");
        }
        let mut out = Vec::new();
        frame(&mut out, Some(1), "phase", "{}");
        assert_eq!(out, b"id: 1\nevent: phase\ndata: {}\n\n");
    }

    /// `cargo test --release --lib sse -- --ignored --nocapture` prints the speed.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn speed() {
        const COUNT: u64 = 2_000_000;
        let mut stream = Vec::new();
        for id in 0..COUNT {
            frame(
                &mut stream,
                Some(id),
                "install",
                r#"{"manager":"npm","stream":"stdout","line":"added 42 packages"}"#,
            );
        }
        let begun = std::time::Instant::now();
        let mut parser = Parser::new();
        let mut count = 0;
        for piece in stream.chunks(64 * 1024) {
            parser.push(piece);
            for record in parser.by_ref() {
                count += u64::from(!record.unwrap().data.is_empty());
            }
        }
        assert_eq!(count, COUNT);
        println!(
            "{:.2} M records/s",
            count as f64 / begun.elapsed().as_secs_f64() / 1e6
        );
    }
}
