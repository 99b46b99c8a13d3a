//! The payload that brings what a tree lacks: a head, the list of the tree if the server does not have it yet, and the
//! objects, each by itself. A record describes itself, so that what has arrived of a payload that was cut can be used.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | the magic |
//! | 4 | the length of the head, most significant byte first, as all numbers here |
//! | | the head as JSON: `base`, `tree`, the length of the list that follows, `list`, and whether it is a `difference` |
//! | | the list, or what it has that the base's has not, as gzip |
//! | 1 + 4 + 4 + 32, then the bytes | an object: 0 stored or 1 deflated, its length here and at last, its SHA-256 |
//! | 1 + 4 | the end: 2, and how many objects came |

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use serde::{Deserialize, Serialize};

use crate::api::error::{Code, Refusal};
use crate::formats::delta::chunk::CUT_FROM;
use crate::formats::delta::hash::{ContentHash, HASH_LEN};
use crate::system::memory::Room;

/// What a payload begins with that is a delta: no archive, and no text.
pub const MAGIC: [u8; 8] = *b"\x89GPD1\r\n\x1a";

/// A record begins with the number of its kind, which is at most this. No archive begins so.
pub const LAST_KIND: u8 = 2;

/// Room for any object, deflated: the quickest level takes at most nine bits for a byte. zlib-rs 0.6 panics later on if a compressor
/// is reset while some of what it made is pending.
const ROOM: usize = OBJECT_MAX + OBJECT_MAX / 8 + 64;

/// The longest head.
const HEAD_MAX: u32 = 4096;
/// No object is larger: a file from there on has chunks.
pub const OBJECT_MAX: usize = CUT_FROM as usize;
/// The head of an object's record.
const RECORD_HEAD: usize = 1 + 4 + 4 + HASH_LEN;

/// What a delta begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaHead {
    /// The tree whose content is used again; none if there is no such tree.
    pub base: Option<String>,
    /// The tree that is to be.
    pub tree: String,
    /// How many bytes of its list follow, as gzip; 0 if the server has it already.
    pub list: u64,
    /// What follows is what the list has that the base's has not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub difference: bool,
}

impl DeltaHead {
    /// # Errors
    /// `out`'s own.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let head = serde_json::to_vec(self).map_err(io::Error::other)?;
        out.write_all(&MAGIC)?;
        out.write_all(&(head.len() as u32).to_be_bytes())?;
        out.write_all(&head)
    }

    /// Reads what follows the magic.
    ///
    /// # Errors
    /// The source's own, or a refusal of what is not a head.
    pub fn read(source: &mut dyn Read) -> io::Result<DeltaHead> {
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > HEAD_MAX {
            return Err(io::Error::other(bad("its head is too long")));
        }
        let mut head = vec![0; length as usize];
        source.read_exact(&mut head)?;
        serde_json::from_slice(&head)
            .map_err(|error| io::Error::other(bad(format!("its head: {error}"))))
    }
}

/// The refusal of a delta.
pub fn bad(why: impl AsRef<str>) -> Refusal {
    let why = format!("the delta is damaged: {}", why.as_ref());
    Refusal::new(Code::BadArchive, why)
}

/// Writes the objects behind the head.
pub struct RecordWriter<W: Write> {
    out: W,
    deflate: Option<Compress>,
    /// What was deflated last.
    buffer: Room,
    count: u32,
}

impl<W: Write> RecordWriter<W> {
    /// `level` 0 deflates nothing.
    pub fn new(out: W, level: u32) -> RecordWriter<W> {
        RecordWriter {
            out,
            deflate: (level > 0).then(|| Compress::new(Compression::new(level), false)),
            buffer: Room::default(),
            count: 0,
        }
    }

    /// # Errors
    /// `out`'s own.
    pub fn object(&mut self, hash: ContentHash, content: &[u8]) -> io::Result<()> {
        let deflated = self.deflated(content);
        let bytes: &[u8] = if deflated { &self.buffer } else { content };
        let mut head = [0; RECORD_HEAD];
        head[0] = u8::from(deflated);
        // Both are below 1 MiB.
        head[1..5].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        head[5..9].copy_from_slice(&(content.len() as u32).to_be_bytes());
        head[9..].copy_from_slice(&hash.0);
        self.count += 1;
        self.out.write_all(&head)?;
        self.out.write_all(bytes)
    }

    /// Deflates into the buffer; false if that is not shorter.
    fn deflated(&mut self, content: &[u8]) -> bool {
        let Some(deflate) = &mut self.deflate else {
            return false;
        };
        let room = self.buffer.resize(ROOM);
        deflate.reset();
        let done = deflate.compress(content, room, FlushCompress::Finish);
        // No more is made than there is room for.
        let made = deflate.total_out() as usize;
        self.buffer.resize(made);
        // What does not fit in less than it has is not worth it.
        let most = content.len().saturating_sub(content.len() / 32 + 1);
        matches!(done, Ok(Status::StreamEnd)) && made <= most
    }

    /// # Errors
    /// `out`'s own.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// # Errors
    /// `out`'s own.
    pub fn end(mut self) -> io::Result<W> {
        self.out.write_all(&[LAST_KIND])?;
        self.out.write_all(&self.count.to_be_bytes())?;
        Ok(self.out)
    }
}

/// Where an object is in a file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredObject {
    pub hash: ContentHash,
    /// Where its bytes begin.
    pub at: u64,
    /// How many bytes it has there.
    pub stored: u32,
    /// How many it has.
    pub len: u32,
    pub deflated: bool,
}

/// Finds the objects in bytes that come piece by piece.
#[derive(Debug)]
pub struct RecordScanner {
    head: Vec<u8>,
    /// The object whose bytes are passing, and how many of them are to come.
    passing: Option<(StoredObject, u64)>,
    /// Where the next byte is in the file.
    at: u64,
    /// Where the last whole record ends.
    pub whole: u64,
    count: u32,
    ended: bool,
}

impl RecordScanner {
    /// The first byte that comes is this one of the file.
    pub fn at(at: u64) -> RecordScanner {
        RecordScanner {
            head: Vec::with_capacity(RECORD_HEAD),
            passing: None,
            at,
            whole: at,
            count: 0,
            ended: false,
        }
    }

    /// Takes the next bytes, and gives the objects that are whole by now.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        found: &mut dyn FnMut(StoredObject),
    ) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(bad("something follows its end"));
            }
            if let Some((object, left)) = &mut self.passing {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                (bytes, *left, self.at) = (
                    &bytes[taken..],
                    *left - taken as u64,
                    self.at + taken as u64,
                );
                if *left == 0 {
                    found(*object);
                    (self.passing, self.whole) = (None, self.at);
                }
                continue;
            }
            let wanted = match self.head.first().or(bytes.first()) {
                Some(0 | 1) => RECORD_HEAD,
                Some(&LAST_KIND) => 5,
                _ => return Err(bad("a record is of no known kind")),
            };
            let taken = bytes.len().min(wanted - self.head.len());
            self.head.extend_from_slice(&bytes[..taken]);
            (bytes, self.at) = (&bytes[taken..], self.at + taken as u64);
            if self.head.len() == wanted {
                self.record()?;
                self.head.clear();
            }
        }
        Ok(())
    }

    /// A record's head is whole.
    fn record(&mut self) -> Result<(), Refusal> {
        let number = |at: usize| {
            let bytes = self.head[at..at + 4].try_into().unwrap_or_default();
            u32::from_be_bytes(bytes)
        };
        if self.head[0] == LAST_KIND {
            self.ended = true;
            return match number(1) == self.count {
                true => Ok(()),
                false => Err(bad("it has not as many objects as its end says")),
            };
        }
        let (stored, len) = (number(1), number(5));
        let deflated = self.head[0] == 1;
        let fits = (1..=OBJECT_MAX as u32).contains(&len)
            && (1..=OBJECT_MAX as u32).contains(&stored)
            && (deflated || stored == len);
        let Ok(hash) = self.head[9..].try_into() else {
            return Err(bad("an object has no hash"));
        };
        if !fits {
            return Err(bad("an object is too large, or empty"));
        }
        self.count = self.count.saturating_add(1);
        let object = StoredObject {
            hash: ContentHash(hash),
            at: self.at,
            stored,
            len,
            deflated,
        };
        self.passing = Some((object, u64::from(stored)));
        Ok(())
    }

    /// Whether the end came.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// Gets an object's content out of the bytes that are stored of it. False if it is not what its hash says.
pub fn content(object: &StoredObject, stored: &[u8], content: &mut Room) -> bool {
    let len = object.len as usize;
    if object.deflated {
        // One byte more shows one that is longer.
        let (room, mut inflate) = (content.resize(len + 1), Decompress::new(false));
        let done = inflate.decompress(stored, room, FlushDecompress::Finish);
        if !matches!(done, Ok(Status::StreamEnd)) || inflate.total_out() != len as u64 {
            return false;
        }
    } else if stored.len() == len {
        content.resize(len).copy_from_slice(stored);
    } else {
        return false;
    }
    ContentHash::of(content.resize(len)) == object.hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(level: u32, objects: &[&[u8]]) -> Vec<u8> {
        let mut writer = RecordWriter::new(Vec::new(), level);
        for object in objects {
            writer.object(ContentHash::of(object), object).unwrap();
        }
        writer.end().unwrap()
    }

    /// So many bytes that do not shrink.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn scanned(bytes: &[u8], step: usize) -> Result<(Vec<StoredObject>, RecordScanner), Refusal> {
        let (mut found, mut scanner) = (Vec::new(), RecordScanner::at(100));
        for piece in bytes.chunks(step) {
            scanner.push(piece, &mut |object| found.push(object))?;
        }
        Ok((found, scanner))
    }

    #[test]
    fn what_does_not_shrink_is_stored_and_the_next_one_is_as_good() {
        for len in [1, 300, 70_000, OBJECT_MAX - 1, OBJECT_MAX] {
            let noise = noise(len);
            let text = vec![b'x'; len];
            for level in 1..=9 {
                let bytes = written(level, &[&noise, &noise, &text, &noise, &text]);
                let (found, scanner) = scanned(&bytes, usize::MAX).unwrap();
                assert!(scanner.ended());
                let stored: Vec<bool> = found.iter().map(|object| !object.deflated).collect();
                let is_short = len == 1;
                assert_eq!(
                    stored,
                    [true, true, is_short, true, is_short],
                    "{len} {level}"
                );
            }
        }
    }

    #[test]
    fn objects_are_found_however_they_come() {
        let noise = noise(9000);
        let text = vec![b'x'; OBJECT_MAX];
        let objects: [&[u8]; 4] = [b"a", &noise, &text, b"bb"];
        for level in [0, 1, 9] {
            let bytes = written(level, &objects);
            assert!(level == 0 || bytes.len() < 20_000, "{}", bytes.len());
            for step in [1, 7, 4096, usize::MAX] {
                let (found, scanner) = scanned(&bytes, step.min(bytes.len())).unwrap();
                assert!(scanner.ended() && found.len() == objects.len());
                for (object, expected) in found.iter().zip(objects) {
                    let at = (object.at - 100) as usize;
                    let stored = &bytes[at..at + object.stored as usize];
                    let mut room = Room::default();
                    assert!(content(object, stored, &mut room) && *room == *expected);
                    let lie = StoredObject {
                        hash: ContentHash::of(b"other"),
                        ..*object
                    };
                    assert!(!content(&lie, stored, &mut room));
                    let short = StoredObject {
                        len: object.len - 1,
                        ..*object
                    };
                    assert!(!content(&short, stored, &mut room));
                }
            }
            // Cut anywhere, what came whole is known.
            let (all, _) = scanned(&bytes, bytes.len()).unwrap();
            for cut in [0, 1, 42, 43, 9000, bytes.len() - 1] {
                let (found, scanner) = scanned(&bytes[..cut.min(bytes.len() - 1)], 100).unwrap();
                assert!(!scanner.ended() && all.starts_with(&found));
                let end = found
                    .last()
                    .map_or(100, |last| last.at + u64::from(last.stored));
                assert_eq!(scanner.whole, end);
            }
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = written(0, &[b"abc"]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let mut longer = good.clone();
        longer.push(0);
        let table = [
            (with(0, 3), "kind"),
            (with(1, 0xff), "too large"),
            (with(5, 0xff), "too large"),
            (with(8, 0), "too large"),
            (with(4, 4), "too large"),
            (with(good.len() - 1, 2), "as its end says"),
            (longer, "follows"),
        ];
        for (bytes, part) in table {
            let refused = scanned(&bytes, 5).map(drop).unwrap_err().message;
            assert!(refused.contains(part), "{part} in {refused}");
        }
        assert!(scanned(&good, 5).is_ok());
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = DeltaHead {
            base: None,
            tree: "t".into(),
            list: 7,
            difference: true,
        };
        let mut bytes = Vec::new();
        head.write(&mut bytes).unwrap();
        let mut rest = bytes.strip_prefix(&MAGIC).unwrap();
        assert_eq!(DeltaHead::read(&mut rest).unwrap(), head);
        for bad in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{]", b"\0\0\0\x09{}"] {
            assert!(DeltaHead::read(&mut &*bad).is_err());
        }
    }
}
