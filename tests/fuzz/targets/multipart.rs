//! Multipart bodies: the first line of an input is the Content-Type, the rest the body. However the body is cut, the same
//! parts come out, and they stand in the body as they came out. With `-malloc_limit_mb=12`: nothing is kept of the file.
#![no_main]

use std::io::{self, Read};

use gangplank::api::error::{Code, Refusal};
use gangplank::formats::multipart::{Form, Part, Reader, boundary};
use gangplank_fuzz::{Input, find};
use libfuzzer_sys::fuzz_target;

/// More than a reader may keep of anything, and than it may have read before it refuses a field.
const ENDLESS: usize = 16 << 20;

#[derive(Debug, Default, PartialEq)]
struct Parts {
    fields: Vec<(String, String)>,
    file: Option<Vec<u8>>,
}

fuzz_target!(|bytes: &[u8]| {
    let input = Input::new(bytes);
    let end = input.text.iter().position(|&byte| byte == b'\n');
    let (content_type, body) = input.text.split_at(end.map_or(0, |end| end + 1));
    let Ok(boundary) = boundary(String::from_utf8_lossy(content_type).trim_end()) else {
        return;
    };
    assert!((1..=70).contains(&boundary.len()));
    assert!(boundary.bytes().all(|byte| matches!(byte, b' '..=b'~')));

    let (whole, result) = read(Reader::new(body, &boundary), &[]);
    let pieces = Pieces(input.pieces(body));
    let (cut, in_pieces) = read(Reader::new(pieces, &boundary), input.steps());
    assert_eq!(in_pieces, result);
    assert_eq!(cut, whole);
    match result {
        Ok(()) => stands_in(body, &boundary, &whole),
        Err(refusal) => {
            let known = [Code::BadRequest, Code::UploadBroken, Code::TooLarge];
            assert!(known.contains(&refusal.code), "{refusal}");
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
    }
    round(body);
    if input.steps().first() == Some(&0) && !body.is_empty() {
        endless(body, &boundary);
    }
});

/// Gives its pieces one by one.
struct Pieces<'a>(Vec<&'a [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // A piece of nothing would be the end.
        self.0.retain(|piece| !piece.is_empty());
        let Some(piece) = self.0.first_mut() else {
            return Ok(0);
        };
        piece.read(out)
    }
}

/// All that comes out: the parts as far as they came, and how it ended.
fn read<R: Read>(mut reader: Reader<R>, steps: &[usize]) -> (Parts, Result<(), Refusal>) {
    let mut parts = Parts::default();
    let mut steps = steps.iter().map(|step| step + 1).chain([1 << 16]).cycle();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.next() {
            Ok(Part::Field { name, value }) => parts.fields.push((name, value)),
            Ok(Part::End) => {
                assert_eq!(reader.next(), Ok(Part::End));
                return (parts, Ok(()));
            }
            Ok(Part::File { name }) => {
                assert_eq!((name.as_str(), parts.file.is_some()), ("payload", false));
                let file = parts.file.insert(Vec::new());
                loop {
                    let step = steps.next().unwrap_or(1).min(buffer.len());
                    match reader.read(&mut buffer[..step]) {
                        Ok(0) => break,
                        Ok(len) => file.extend_from_slice(&buffer[..len]),
                        // The next call tells why.
                        Err(_) => break,
                    }
                }
            }
            Err(refusal) => {
                assert_eq!(reader.next(), Err(refusal.clone()), "it is for good");
                return (parts, Err(refusal));
            }
        }
    }
}

/// What came out of a complete body stands in it, between an empty line and a delimiter, in this order.
fn stands_in(body: &[u8], boundary: &str, parts: &Parts) {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let values = parts.fields.iter().map(|(_, value)| value.as_bytes());
    let mut rest = body;
    for value in values.chain(parts.file.as_deref()) {
        assert_eq!(find(value, &delimiter), None, "a delimiter went through");
        let mut part = b"\r\n\r\n".to_vec();
        part.extend_from_slice(value);
        part.extend_from_slice(&delimiter);
        let at = find(rest, &part).expect("it stands in the body");
        // The delimiter's line end may begin the next head's empty line.
        rest = &rest[at + part.len() - delimiter.len()..];
    }
}

/// What our own client writes is read back as it was.
fn round(text: &[u8]) {
    let (value, file) = text.split_at(text.len() / 2);
    let value = String::from_utf8_lossy(value).into_owned();
    let Ok(mut form) = Form::new() else { return };
    form.field("value", &value);
    let boundary = boundary(&form.content_type()).expect("a boundary of ours");
    let (parts, result) = read(Reader::new(form.file("payload", "a", file), &boundary), &[]);
    assert_eq!(result, Ok(()));
    assert_eq!(parts.fields, [("value".to_owned(), value)]);
    assert_eq!(parts.file.as_deref(), Some(file));
}

/// A body that goes on and on: either it is refused in time, or it is a file, of which nothing is kept.
fn endless(body: &[u8], boundary: &str) {
    struct Again<'a> {
        body: &'a [u8],
        at: usize,
        given: usize,
    }
    impl Read for Again<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.given >= ENDLESS {
                return Ok(0);
            }
            let rest = &self.body[self.at..];
            let len = rest.len().min(out.len());
            out[..len].copy_from_slice(&rest[..len]);
            self.at = (self.at + len) % self.body.len();
            self.given += len;
            Ok(len)
        }
    }
    // A short one is repeated beforehand: reads of some bytes each would take seconds.
    let body = body.repeat((1 << 12) / body.len() + 1);
    let source = Again {
        body: &body,
        at: 0,
        given: 0,
    };
    let mut reader = Reader::new(source, boundary);
    // More parts than are taken; it ends long before.
    for _ in 0..100 {
        match reader.next() {
            Ok(Part::End) | Err(_) => return,
            Ok(_) => {}
        }
    }
    panic!("no end of parts");
}
