//! CBOR (RFC 8949), as far as requests have it: one map of texts to simple values, taken apart as it arrives.
//!
//! [`MapReader`] gives the members in their order. The bytes of the one member that is named `payload` are not kept: they are
//! read through [`Read`], however many they are. Lengths are not believed: memory grows with what has come.

pub mod write;

use std::io::{self, BufRead, BufReader, Read};

use serde_json::Value;

use crate::api::error::{Code, Refusal};

/// The name of the member whose bytes are a payload.
const PAYLOAD: &str = "payload";
/// More members than any operation has; as many as a form may have.
const MEMBERS_MAX: usize = 64;
/// The longest name; no operation has one of a tenth of it.
const NAME_LEN_MAX: usize = 1 << 10;
/// The longest text; as long as in a form.
const TEXT_LEN_MAX: usize = 1 << 20;
/// How much of a list, a map or bytes that no operation wants is passed over.
const PASSED_ITEMS_MAX: usize = 64 << 10;
/// The deepest list or map that is passed over.
const DEPTH_MAX: usize = 16;
/// Tags before one value: one says what the value means, and more are nobody's.
const TAGS_MAX: usize = 4;
/// What is read at once.
const BUFFER_LEN: usize = 64 << 10;

/// A member of the map.
#[derive(Debug, PartialEq)]
pub enum MapMember {
    /// One that was read to its end. What is neither null, a truth value, a number nor a text is an empty list.
    Field {
        /// Its name.
        name: String,
        /// Its value.
        value: Value,
    },
    /// The payload begins: read its bytes from the [`MapReader`] itself.
    Payload {
        /// How many there are, if that was said beforehand.
        len: Option<u64>,
    },
}

/// What the first bytes of an item say.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ItemHead {
    major: u8,
    /// The additional information: how the argument was written.
    info: u8,
    argument: u64,
}

impl ItemHead {
    /// The length, or none if it goes on until a break.
    fn len(self) -> Option<u64> {
        (self.info != INDEFINITE).then_some(self.argument)
    }

    fn is_break(self) -> bool {
        self.major == SIMPLE && self.info == INDEFINITE
    }
}

/// The kinds of items, in the upper three bits of an item's first byte.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
/// The additional information of a length that is not known beforehand, and of the break at its end.
const INDEFINITE: u8 = 31;

/// How far a string has been read.
#[derive(Debug, Clone, Copy)]
struct StringPlace {
    major: u8,
    /// What is left of this piece.
    left: u64,
    /// It comes in pieces, until a break.
    in_pieces: bool,
}

/// Takes a body apart.
pub struct MapReader<R> {
    source: BufReader<R>,
    /// How many members are left, or none if they go on until a break.
    left: Option<u64>,
    members: usize,
    payload: Option<StringPlace>,
    has_payload: bool,
    ended: bool,
}

impl<R: Read> MapReader<R> {
    /// A reader of a body, which is one map.
    ///
    /// # Errors
    /// As [`MapReader::next`].
    pub fn new(source: R) -> Result<MapReader<R>, Refusal> {
        let mut reader = MapReader {
            source: BufReader::with_capacity(BUFFER_LEN, source),
            left: None,
            members: 0,
            payload: None,
            has_payload: false,
            ended: false,
        };
        let head = reader.head()?;
        if head.major != MAP {
            return Err(bad("the body is not a map"));
        }
        reader.left = head.len();
        Ok(reader)
    }

    /// The next member; none behind the last one. What was not read of a payload is passed over.
    ///
    /// # Errors
    /// A refusal that says what is wrong: `upload_broken` where the body ended early or could not be read, `too_large` for
    /// too many or too large members, `bad_request` for whatever is malformed.
    // It is not an iterator: it lends its payload.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<MapMember>, Refusal> {
        if let Some(mut place) = self.payload.take() {
            while self.piece(&mut place, |bytes| bytes.len())? > 0 {}
        }
        if self.ended {
            return Ok(None);
        }
        let name = match self.left {
            Some(0) => return self.end(),
            Some(left) => {
                self.left = Some(left - 1);
                self.head()?
            }
            None => match self.head()? {
                end if end.is_break() => return self.end(),
                name => name,
            },
        };
        self.members += 1;
        if self.members > MEMBERS_MAX {
            let why = format!("reading the CBOR body: more than {MEMBERS_MAX} members");
            return Err(Refusal::new(Code::TooLarge, why));
        }
        if name.major != TEXT {
            return Err(bad("the name of a member is not a text"));
        }
        let name = self.text(name, NAME_LEN_MAX, "the name of a member")?;
        let head = self.head()?;
        if head.major == BYTES && name == PAYLOAD {
            if self.has_payload {
                return Err(bad("it has a second payload"));
            }
            self.has_payload = true;
            self.payload = Some(StringPlace::at(head));
            return Ok(Some(MapMember::Payload { len: head.len() }));
        }
        let value = self.value(head, &name)?;
        Ok(Some(MapMember::Field { name, value }))
    }

    /// Makes sure that nothing follows the map.
    fn end(&mut self) -> Result<Option<MapMember>, Refusal> {
        self.ended = true;
        match self.filled()? {
            [] => Ok(None),
            _ => Err(bad("something follows the map")),
        }
    }

    /// What has been read and not been taken; nothing at the body's end.
    fn filled(&mut self) -> Result<&[u8], Refusal> {
        loop {
            match self.source.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unread(&error)),
            }
        }
        Ok(self.source.buffer())
    }

    fn value(&mut self, head: ItemHead, name: &str) -> Result<Value, Refusal> {
        let simple = |value| match value {
            20 => Ok(Value::Bool(false)),
            21 => Ok(Value::Bool(true)),
            // Null, and what JavaScript calls undefined.
            22 | 23 => Ok(Value::Null),
            other => Err(bad(&format!("{other} is not a simple value"))),
        };
        match (head.major, head.info) {
            (UNSIGNED, _) => Ok(Value::from(head.argument)),
            (NEGATIVE, _) => Ok(i64::try_from(head.argument)
                .map_or_else(|_| Value::from(vec![0; 0]), |n| Value::from(-1 - n))),
            (TEXT, _) => {
                let what = format!("the member '{}'", name.escape_debug());
                self.text(head, TEXT_LEN_MAX, &what).map(Value::from)
            }
            (SIMPLE, 26) => Ok(number(f64::from(f32::from_bits(head.argument as u32)))),
            (SIMPLE, 27) => Ok(number(f64::from_bits(head.argument))),
            (SIMPLE, 0..=24) => simple(head.argument),
            (SIMPLE, _) => Err(bad(
                "a number of half the precision, or a break out of its place",
            )),
            _ => {
                self.pass(head)?;
                Ok(Value::from(vec![0; 0]))
            }
        }
    }

    /// Passes over something that no operation wants.
    fn pass(&mut self, first: ItemHead) -> Result<(), Refusal> {
        // How many items are left at each level; none: until a break.
        let mut levels: Vec<Option<u64>> = Vec::new();
        let mut next = Some(first);
        for _ in 0..PASSED_ITEMS_MAX {
            let head = match next.take() {
                Some(head) => head,
                None => self.head()?,
            };
            match head.major {
                BYTES | TEXT => {
                    let (mut place, mut len) = (StringPlace::at(head), 0);
                    loop {
                        match self.piece(&mut place, |bytes| bytes.len())? {
                            0 => break,
                            more if len + more > TEXT_LEN_MAX => {
                                return Err(too_long("what no operation has", TEXT_LEN_MAX));
                            }
                            more => len += more,
                        }
                    }
                }
                LIST | MAP => {
                    let each = if head.major == MAP { 2 } else { 1 };
                    levels.push(head.len().map(|len| len.saturating_mul(each)));
                    if levels.len() > DEPTH_MAX {
                        return Err(bad(&format!("it has more than {DEPTH_MAX} levels")));
                    }
                    // An empty one has ended already.
                    if levels.last() != Some(&Some(0)) {
                        continue;
                    }
                    levels.pop();
                }
                _ if head.is_break() => match levels.pop() {
                    Some(None) => {}
                    _ => return Err(bad("a break is out of its place")),
                },
                _ => {}
            }
            loop {
                match levels.last_mut() {
                    None => return Ok(()),
                    Some(None) => break,
                    Some(Some(left)) => {
                        *left = left.saturating_sub(1);
                        if *left > 0 {
                            break;
                        }
                        levels.pop();
                    }
                }
            }
        }
        Err(too_long("what no operation has", PASSED_ITEMS_MAX))
    }

    fn text(&mut self, head: ItemHead, most: usize, what: &str) -> Result<String, Refusal> {
        let mut place = StringPlace::at(head);
        let mut text = Vec::new();
        loop {
            let len = self.piece(&mut place, |bytes| {
                text.extend_from_slice(bytes);
                bytes.len()
            })?;
            if len == 0 {
                break;
            }
            if text.len() > most {
                return Err(too_long(what, most));
            }
        }
        String::from_utf8(text).map_err(|_| bad(&format!("{what} is not UTF-8")))
    }

    /// Shows `take` the next bytes of a string, and goes on by as many as it took. Gives 0 at the string's end.
    fn piece(
        &mut self,
        place: &mut StringPlace,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, Refusal> {
        // Pieces may be empty, and each has a head: so there are no more of them than bytes.
        while place.left == 0 {
            if !place.in_pieces {
                return Ok(0);
            }
            let head = self.head()?;
            if head.is_break() {
                place.in_pieces = false;
                return Ok(0);
            }
            match head.len() {
                Some(len) if head.major == place.major => place.left = len,
                _ => return Err(bad("a piece of a string is not a string of its kind")),
            }
        }
        let bytes = self.filled()?;
        if bytes.is_empty() {
            return Err(early());
        }
        let len = usize::try_from(place.left).unwrap_or(usize::MAX);
        let taken = take(&bytes[..len.min(bytes.len())]);
        self.source.consume(taken);
        place.left -= taken as u64;
        Ok(taken)
    }

    /// The head of the next item, behind its tags.
    fn head(&mut self) -> Result<ItemHead, Refusal> {
        for _ in 0..=TAGS_MAX {
            let [first] = self.bytes()?;
            let (major, info) = (first >> 5, first & 31);
            let argument = match info {
                24 => u64::from(u8::from_be_bytes(self.bytes()?)),
                25 => u64::from(u16::from_be_bytes(self.bytes()?)),
                26 => u64::from(u32::from_be_bytes(self.bytes()?)),
                27 => u64::from_be_bytes(self.bytes()?),
                28..=30 => return Err(bad("the head of an item is malformed")),
                INDEFINITE if [UNSIGNED, NEGATIVE, TAG].contains(&major) => {
                    return Err(bad("the head of an item is malformed"));
                }
                small => u64::from(small),
            };
            if major != TAG {
                return Ok(ItemHead {
                    major,
                    info,
                    argument,
                });
            }
        }
        Err(bad(&format!("a value has more than {TAGS_MAX} tags")))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut bytes = [0; N];
        match self.source.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(early()),
            Err(error) => Err(unread(&error)),
        }
    }
}

impl StringPlace {
    fn at(head: ItemHead) -> StringPlace {
        StringPlace {
            major: head.major,
            left: head.len().unwrap_or(0),
            in_pieces: head.len().is_none(),
        }
    }
}

impl<R: Read> Read for MapReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut place) = self.payload else {
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.piece(&mut place, |bytes| {
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            len
        });
        self.payload = (!matches!(read, Ok(0))).then_some(place);
        read.map_err(io::Error::other)
    }
}

/// A whole number where it is one: JavaScript writes large ones as floating-point numbers.
fn number(value: f64) -> Value {
    // Up to here each whole number has a floating-point number of its own.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

fn bad(what: &str) -> Refusal {
    Refusal::new(Code::BadRequest, format!("reading the CBOR body: {what}"))
}

fn too_long(what: &str, most: usize) -> Refusal {
    let why = format!("reading the CBOR body: {what} is longer than {most} bytes");
    Refusal::new(Code::TooLarge, why)
}

fn early() -> Refusal {
    let why = "reading the CBOR body: it ended before its map did";
    Refusal::new(Code::UploadBroken, why)
}

fn unread(error: &io::Error) -> Refusal {
    Refusal::of_reading("reading the CBOR body: receiving it", error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// All members of a body that comes in pieces of this size; the payload as its bytes in a list.
    fn members(body: &[u8], size: usize) -> Result<Vec<(String, Value)>, Refusal> {
        struct InPieces<'a>(&'a [u8], usize);

        impl Read for InPieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = self.1.min(self.0.len()).min(buffer.len());
                buffer[..len].copy_from_slice(&self.0[..len]);
                self.0 = &self.0[len..];
                Ok(len)
            }
        }

        let mut reader = MapReader::new(InPieces(body, size))?;
        let mut members = Vec::new();
        while let Some(member) = reader.next()? {
            members.push(match member {
                MapMember::Field { name, value } => (name, value),
                MapMember::Payload { len } => {
                    let mut bytes = Vec::new();
                    let read = reader.read_to_end(&mut bytes);
                    read.map_err(|error| unread(&error))?;
                    assert!(len.is_none_or(|len| len == bytes.len() as u64));
                    (PAYLOAD.into(), Value::from(bytes))
                }
            });
        }
        assert_eq!(reader.next().unwrap(), None);
        Ok(members)
    }

    /// Bytes that are written in hex.
    fn bytes(hex: &str) -> Vec<u8> {
        let digits: String = hex.split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn a_map_is_read_in_pieces_of_any_size() {
        let table = [
            ("a0", json!([])),
            ("bf ff", json!([])),
            // As JavaScript's clients write it: a map of a length in two bytes, a truth value behind the payload.
            (
                "b9 0003 6161 f5 67 7061796c6f6164 43 010203 6a 63626f72456e636f6465 f5",
                json!([["a", true], ["payload", [1, 2, 3]], ["cborEncode", true]]),
            ),
            (
                "bf 61 61 7f 61 78 62 797a 60 ff 67 7061796c6f6164 5f 40 42 0102 41 03 ff ff",
                json!([["a", "xyz"], ["payload", [1, 2, 3]]]),
            ),
            (
                "a7 6161 00 6162 18 ff 6163 20 6164 1b 0000000100000000 6165 f4 6166 f6 6167 f7",
                json!([
                    ["a", 0],
                    ["b", 255],
                    ["c", -1],
                    ["d", 4_294_967_296_u64],
                    ["e", false],
                    ["f", null],
                    ["g", null]
                ]),
            ),
            (
                "a3 6161 fb 4279ab697e800000 6162 fb 3ff8000000000000 6163 fa 42280000",
                json!([["a", 1_764_000_000_000_u64], ["b", 1.5], ["c", 42]]),
            ),
            // Lists, maps and bytes that are not the payload; a tag before bytes.
            (
                "a4 6161 82 01 a1 6162 80 6163 9f 01 bf 6164 5f 41 00 ff ff ff 6165 41 00 67 7061796c6f6164 d840 41 07",
                json!([["a", []], ["c", []], ["e", []], ["payload", [7]]]),
            ),
            ("a1 67 7061796c6f6164 40", json!([["payload", []]])),
            ("a1 67 7061796c6f6164 61 78", json!([["payload", "x"]])),
        ];
        for (hex, expected) in table {
            let body = bytes(hex);
            for size in 1..=body.len() {
                let found = members(&body, size).unwrap_or_else(|why| panic!("{hex}: {why:?}"));
                assert_eq!(json!(found), expected, "{hex} in pieces of {size}");
            }
            for end in 0..body.len() {
                let refusal = members(&body[..end], 3).expect_err(hex);
                assert_eq!(refusal.code, Code::UploadBroken, "{hex} cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused() {
        let many = [&b"\xb8\x41"[..], &b"\x61a\xf5".repeat(65)].concat();
        let deep = [&b"\xa1\x61a"[..], &[0x81; 17], b"\x00"].concat();
        let long = [&b"\xa1\x61a\x7a\x00\x20\x00\x00"[..], &vec![b'x'; 2 << 20]].concat();
        let name = [&b"\xa1\x79\x08\x00"[..], &vec![b'x'; 2048], b"\xf5"].concat();
        let wide = [&b"\xa1\x61a\x9a\x00\x02\x00\x00"[..], &vec![0; 0x2_0000]].concat();
        let table = [
            (bytes("80"), Code::BadRequest, "is not a map"),
            (bytes("7b"), Code::UploadBroken, "ended before"),
            (bytes("a1 01 02"), Code::BadRequest, "is not a text"),
            (bytes("a1 61 ff f5"), Code::BadRequest, "is not UTF-8"),
            (bytes("a1 6161 61 ff"), Code::BadRequest, "'a' is not UTF-8"),
            (bytes("a1 6161 1c"), Code::BadRequest, "malformed"),
            (bytes("a1 6161 1f"), Code::BadRequest, "malformed"),
            (
                bytes("a1 6161 ff"),
                Code::BadRequest,
                "break out of its place",
            ),
            (
                bytes("a1 6161 81 ff"),
                Code::BadRequest,
                "break is out of its place",
            ),
            (bytes("a1 6161 f8 20"), Code::BadRequest, "simple value"),
            (bytes("a1 6161 7f 41 00 ff"), Code::BadRequest, "a piece"),
            (bytes("a1 6161 7f 7f ff ff"), Code::BadRequest, "a piece"),
            (bytes("a0 00"), Code::BadRequest, "follows the map"),
            (bytes("bf ff ff"), Code::BadRequest, "follows the map"),
            (
                bytes("a2 67 7061796c6f6164 40 67 7061796c6f6164 40"),
                Code::BadRequest,
                "second payload",
            ),
            (bytes("a1 6161 c0c0c0c0c0 00"), Code::BadRequest, "tags"),
            (
                // Lengths that are not there are not believed.
                bytes("a1 6161 7b ffffffffffffffff 00"),
                Code::UploadBroken,
                "ended before",
            ),
            (
                bytes("bb ffffffffffffffff 6161 f5"),
                Code::UploadBroken,
                "ended before",
            ),
            (many, Code::TooLarge, "64 members"),
            (deep, Code::BadRequest, "16 levels"),
            (long, Code::TooLarge, "'a' is longer"),
            (name, Code::TooLarge, "the name of a member"),
            (wide, Code::TooLarge, "no operation"),
        ];
        for (body, code, part) in table {
            let start = &body[..body.len().min(20)];
            let refusal = members(&body, 4096).expect_err(part);
            assert_eq!(refusal.code, code, "{start:x?}: {}", refusal.message);
            assert!(
                refusal.message.contains(part),
                "{start:x?}: {}",
                refusal.message
            );
        }
    }
}
