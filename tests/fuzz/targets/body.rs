//! The body of a request: however it is cut, its data is the same and it ends in the same place, exactly if the client ended
//! it; and a second, simpler reader of the client's chunks is of the same opinion.
#![no_main]

use gangplank::server::gate::fuzz::{self, Body};
use gangplank_fuzz::{Input, find};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else {
        return;
    };
    let input = Input::new(bytes);
    let text = &input.text[..];
    // `c` is for chunks, a digit or anything else for a length.
    let length = match choice {
        b'c' => None,
        b'0'..=b'9' => Some(u64::from(choice - b'0')),
        0xff => Some(u64::MAX),
        other => Some(u64::from(other) * 16),
    };
    let at_once = fuzz::body(length, &[text]);
    let in_pieces = fuzz::body(length, &input.pieces(text));
    let (whole, cut) = match (at_once, in_pieces) {
        (Ok(whole), Ok(cut)) => (whole, cut),
        (Err((whole, before)), Err((cut, _))) => {
            assert_eq!(whole, cut);
            assert_eq!((whole.0, length, before.len()), (400, None, 0));
            assert_eq!(chunked(text), None);
            return;
        }
        (whole, cut) => panic!("{whole:?} at once, {cut:?} in pieces"),
    };
    assert_eq!(whole, cut);
    judged(length, text, &whole);
});

fn judged(length: Option<u64>, text: &[u8], body: &Body) {
    match length {
        Some(length) => {
            let fits = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(text.len());
            assert_eq!((&body.data[..], body.taken), (&text[..fits], fits));
            assert_eq!(body.done, fits as u64 == length);
        }
        None if body.done => assert_eq!(chunked(text), Some((body.data.clone(), body.taken))),
        None => {
            assert_eq!(body.taken, text.len());
            assert_eq!(chunked(text), None);
        }
    }
}

/// The data and the length of a whole chunked body, by the grammar of RFC 9112 and the limits of the gate.
fn chunked(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let plain = |bytes: &[u8]| {
        bytes
            .iter()
            .all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
    };
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = &text[at..at + find(&text[at..], b"\r\n")?];
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let behind = &line[digits..];
        if line.len() > 255 || !(behind.is_empty() || behind[0] == b';') || !plain(behind) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        data.extend_from_slice(text.get(at..end)?);
        at = text[end..].starts_with(b"\r\n").then_some(end + 2)?;
    }
    let trailers = at;
    loop {
        let line = &text[at..at + find(&text[at..], b"\r\n")?];
        at += line.len() + 2;
        if at - trailers > (8 << 10) + 1 {
            return None;
        }
        match line.first() {
            None => return Some((data, at)),
            Some(b'\t' | b' ' | b':') => return None,
            Some(_) if !plain(line) => return None,
            Some(_) => {}
        }
    }
}
