//! Bodies of CBOR: however a body is cut, the same members come out, and it ends the same way. With `-malloc_limit_mb=12`:
//! lengths are not believed, and nothing is kept of the payload.
#![no_main]

use std::io::{self, Read};

use gangplank::api::error::{Code, Refusal};
use gangplank::formats::cbor::{MapMember, MapReader};
use gangplank_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let input = Input::new(bytes);
    let (whole, result) = read(&input.text[..], &[]);
    let pieces = Pieces(input.pieces(&input.text));
    let (cut, in_pieces) = read(pieces, input.steps());
    assert_eq!(in_pieces, result);
    assert_eq!(cut, whole);
    if let Err(refusal) = result {
        let known = [Code::BadRequest, Code::UploadBroken, Code::TooLarge];
        assert!(known.contains(&refusal.code), "{refusal}");
        assert!(!refusal.message.contains(char::is_control), "{refusal}");
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

/// All that comes out: the members as far as they came, the payload's bytes as text, and how it ended.
fn read(body: impl Read, steps: &[usize]) -> (Vec<String>, Result<(), Refusal>) {
    let mut members = Vec::new();
    let mut steps = steps.iter().map(|step| step + 1).chain([1 << 16]).cycle();
    let mut buffer = vec![0; 1 << 16];
    let mut reader = match MapReader::new(body) {
        Ok(reader) => reader,
        Err(refusal) => return (members, Err(refusal)),
    };
    loop {
        match reader.next() {
            Ok(None) => return (members, Ok(())),
            Ok(Some(MapMember::Payload { .. })) => {
                let mut payload = Vec::new();
                loop {
                    let step = steps.next().unwrap_or(1).min(buffer.len());
                    match reader.read(&mut buffer[..step]) {
                        Ok(0) => break,
                        Ok(len) => payload.extend_from_slice(&buffer[..len]),
                        Err(error) => {
                            members.push(format!("{payload:?}"));
                            return (members, Err(Refusal::of_reading("", &error)));
                        }
                    }
                }
                members.push(format!("{payload:?}"));
            }
            Ok(Some(field)) => members.push(format!("{field:?}")),
            Err(refusal) => return (members, Err(refusal)),
        }
    }
}
