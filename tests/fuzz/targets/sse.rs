//! Event streams: however a stream is cut, the same records come out, and a second reader, which does what the WHATWG says
//! without any care for memory, finds the same. What is written is read back as it was.
#![no_main]

use gangplank::formats::sse::{Parser, SseRecord, frame};
use gangplank_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// The most events that are written for one input: a run of separators makes tens of thousands, all alike.
const EVENTS: u64 = 500;

fuzz_target!(|bytes: &[u8]| {
    let input = Input::new(bytes);
    let expected = by_the_book(&input.text);
    assert_eq!(records(&[&input.text]), expected);
    assert_eq!(records(&input.pieces(&input.text)), expected);
    written(&input);
});

fn records(pieces: &[&[u8]]) -> Vec<SseRecord> {
    let mut parser = Parser::new();
    let mut records = Vec::new();
    for piece in pieces {
        parser.push(piece);
        records.extend(
            parser
                .by_ref()
                .map(|record| record.expect("below the limit")),
        );
        assert!(parser.next().is_none(), "nothing comes of nothing");
    }
    records
}

/// Section 9.2.6 of the HTML standard, over a stream that is there as a whole.
fn by_the_book(stream: &[u8]) -> Vec<SseRecord> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What no line end follows is no line yet.
    lines.pop();
    let (mut id, mut event, mut data) = (String::new(), String::new(), String::new());
    let mut records = Vec::new();
    for line in lines {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                let event = if event.is_empty() { "message" } else { &event };
                records.push(SseRecord {
                    id: Some(id.clone()).filter(|id| !id.is_empty()),
                    event: event.to_owned(),
                    data: data.to_owned(),
                });
            }
            data.clear();
            event.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event),
            "data" => {
                data += value;
                data += "\n";
            }
            "id" if !value.contains('\0') => value.clone_into(&mut id),
            _ => {}
        }
    }
    records
}

/// Writes the text as events, parted by 0x1e and each by 0x1f into a name and its data, and reads them back.
fn written(input: &Input) {
    let text = String::from_utf8_lossy(&input.text);
    let (mut stream, mut expected) = (gangplank::formats::sse::OPEN.to_vec(), Vec::new());
    let mut last = None;
    for (number, event) in (0..EVENTS).zip(text.split('\x1e')) {
        let (event, data) = event.split_once('\x1f').unwrap_or(("", event));
        // An event without an id keeps the one before.
        let id = (data.len() % 3 != 0).then_some(number);
        last = id.map(|id| id.to_string()).or(last);
        frame(&mut stream, id, event, data);
        stream.extend_from_slice(gangplank::formats::sse::HEARTBEAT);
        let event = event.replace(['\r', '\n'], " ");
        expected.push(SseRecord {
            id: last.clone(),
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data: data.replace("\r\n", "\n").replace('\r', "\n"),
        });
    }
    assert_eq!(records(&[&stream]), expected);
    assert_eq!(records(&input.pieces(&stream)), expected);
}
