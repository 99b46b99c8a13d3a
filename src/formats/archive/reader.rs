//! Reading tar: one entry after the other, with what the headers before it say of it.
//!
//! The tar crate reads a header's fields; which header belongs to which entry is decided here, and so are PAX records: each
//! ends where its length says, whatever bytes its value holds. The crate splits them at newlines, so that a value with a
//! newline (an access list, an attribute of a file system) would be refused, or obeyed as a record of its own. Values that
//! nobody asks for pass by without being kept.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use tar::{EntryType, Header};

/// A tar header, and what contents are padded to.
pub(super) const TAR_BLOCK: usize = 512;

/// What GNU's header for a long name may hold. It is kept in memory, and a bomb of such compresses 1000:1.
const LONG_NAME_MAX: u64 = 64 << 10;

/// What a PAX header may hold. It passes by, but somebody has to wait for that: the attributes of a file have some KiB, and
/// some MiB where bsdtar puts the resource fork of a Mac's file among them.
const PAX_MAX: u64 = 16 << 20;

/// How much of a value is kept: longer than every name that is taken, and no number has more digits.
const VALUE_MAX: u64 = 2048;

/// How much of a key is kept: longer than every one that is known.
const KEY_MAX: usize = 64;

/// An entry, without its content.
pub(super) struct TarEntry {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: u64,
    /// None if the field is not a number.
    pub(super) mode: Option<u32>,
    /// A header before its own one speaks of it.
    pub(super) described: bool,
    pub(super) pax: PaxRecords,
}

/// What a PAX header says of the entry that follows.
#[derive(Default)]
pub(super) struct PaxRecords {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    /// The content is a map of what there is.
    pub(super) sparse: bool,
    /// The name of such a file; its entry has a made-up one.
    pub(super) sparse_name: Option<Vec<u8>>,
    /// The records do not fit each other, or say nonsense.
    pub(super) unreadable: bool,
}

/// What arrived is not tar: its first bytes.
#[derive(Debug)]
pub(super) struct NotTar {
    pub(super) start: Vec<u8>,
    why: &'static str,
}

impl fmt::Display for NotTar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

impl std::error::Error for NotTar {}

/// Why a header that is not one cannot be read.
const WRONG_SUM: &str = "the sum of a header is wrong";

/// Reads a tar archive. Between two entries it reads the content of the first one.
pub(super) struct TarReader<R> {
    inner: R,
    /// Of the current entry's content.
    left: u64,
    /// What follows its content.
    padding: u64,
    begun: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(inner: R) -> TarReader<R> {
        TarReader {
            inner,
            left: 0,
            padding: 0,
            begun: false,
        }
    }

    /// What comes behind the first block of zeros, or nothing if the bytes ended without one.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry. `None` at a block of zeros and at the end of the bytes.
    pub(super) fn next(&mut self) -> io::Result<Option<TarEntry>> {
        self.skip_content()?;
        let (mut path, mut target, mut pax) = (None, None, None);
        loop {
            let described = path.is_some() || target.is_some() || pax.is_some();
            let Some(header) = self.header()? else {
                return match described {
                    true => Err(broken("a header describes an entry that does not come")),
                    false => Ok(None),
                };
            };
            let kind = header.entry_type();
            self.begin_content(header.entry_size()?);
            let again = match kind {
                EntryType::GNULongName => path.replace(self.long_name()?).is_some(),
                EntryType::GNULongLink => target.replace(self.long_name()?).is_some(),
                EntryType::XHeader => pax.replace(self.records()?).is_some(),
                _ => {
                    let pax = pax.unwrap_or_default();
                    return self.entry(&header, described, path, target, pax).map(Some);
                }
            };
            if again {
                return Err(broken("two headers of one kind describe the same entry"));
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        described: bool,
        path: Option<Vec<u8>>,
        target: Option<Vec<u8>>,
        mut pax: PaxRecords,
    ) -> io::Result<TarEntry> {
        let kind = header.entry_type();
        if kind == EntryType::XGlobalHeader && self.left > PAX_MAX {
            return Err(too_large());
        }
        // GNU's own names come first, as GNU tar has it.
        let path = path.or_else(|| pax.path.take());
        let target = target.or_else(|| pax.target.take());
        if let Some(size) = pax.size {
            self.begin_content(size);
        }
        Ok(TarEntry {
            kind,
            path: path.unwrap_or_else(|| header.path_bytes().into_owned()),
            target: target.or_else(|| Some(header.link_name_bytes()?.into_owned())),
            size: self.left,
            mode: header.mode().ok(),
            described,
            pax,
        })
    }

    fn begin_content(&mut self, size: u64) {
        self.left = size;
        let block = TAR_BLOCK as u64;
        self.padding = (block - size % block) % block;
    }

    /// The next header; `None` at a block of zeros and at the end of the bytes.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; TAR_BLOCK];
        let len = fill(&mut self.inner, &mut block)?;
        let begun = std::mem::replace(&mut self.begun, true);
        let not_tar = |why| {
            let start = block[..len].to_vec();
            io::Error::new(io::ErrorKind::InvalidData, NotTar { start, why })
        };
        if len == 0 || (len == TAR_BLOCK && block.iter().all(|&byte| byte == 0)) {
            return Ok(None);
        }
        if len < TAR_BLOCK {
            return Err(match begun {
                true => io::ErrorKind::UnexpectedEof.into(),
                false => not_tar("it is truncated"),
            });
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum_of = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let spaces = 8 * u32::from(b' ');
        let sum = sum_of(&block[..148]) + sum_of(&block[156..]) + spaces;
        match header.cksum() {
            Ok(told) if told == sum => Ok(Some(header)),
            _ if begun => Err(broken(WRONG_SUM)),
            _ => Err(not_tar(WRONG_SUM)),
        }
    }

    /// The content of GNU's header for a long name, without the NUL that ends it.
    fn long_name(&mut self) -> io::Result<Vec<u8>> {
        if self.left > LONG_NAME_MAX {
            return Err(too_large());
        }
        let mut name = Vec::new();
        let size = self.left;
        self.read_to_end(&mut name)?;
        if (name.len() as u64) < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.skip_content()?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn records(&mut self) -> io::Result<PaxRecords> {
        if self.left > PAX_MAX {
            return Err(too_large());
        }
        let mut found = PaxRecords::default();
        let mut left = self.left;
        let mut data = BufReader::with_capacity(TAR_BLOCK, &mut *self);
        while left > 0 && !found.unreadable {
            match found.read(&mut data, left)? {
                Some(len) => left -= len,
                None => found.unreadable = true,
            }
        }
        self.skip_content()?;
        Ok(found)
    }

    /// Goes behind the current entry's content.
    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        skip(&mut self.inner, rest)
    }
}

/// The current entry's content.
impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let ready = self.inner.fill_buf()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&ready[..most.min(ready.len())])
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.left -= amount as u64;
    }
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(into.len());
        let read = self.inner.read(&mut into[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl PaxRecords {
    /// Reads one record, `LENGTH KEY=VALUE\n`, where the length counts all of it. Its length; `None` if it is not one.
    fn read(&mut self, data: &mut impl BufRead, most: u64) -> io::Result<Option<u64>> {
        let mut digits = Vec::new();
        // A length of more digits is longer than what there is.
        let mut left = most.min(20);
        if !until(data, b' ', &mut left, &mut digits, KEY_MAX)? {
            return Ok(None);
        }
        let Some(len) = number(&digits).filter(|len| *len <= most) else {
            return Ok(None);
        };
        let Some(mut left) = len.checked_sub(digits.len() as u64 + 1) else {
            return Ok(None);
        };
        let mut key = Vec::new();
        if !until(data, b'=', &mut left, &mut key, KEY_MAX)? || left == 0 {
            return Ok(None);
        }
        let mut value = Vec::new();
        let known = matches!(
            &key[..],
            b"path" | b"linkpath" | b"size" | b"GNU.sparse.name"
        );
        let kept = if known { left - 1 } else { 0 }.min(VALUE_MAX);
        data.take(kept).read_to_end(&mut value)?;
        skip(data, left - 1 - kept)?;
        let mut end = [0];
        data.read_exact(&mut end)?;
        Ok((end == *b"\n" && self.set(&key, value)).then_some(len))
    }

    /// Takes a record; of several with one key the last counts. An empty value says that the header's own field holds.
    fn set(&mut self, key: &[u8], value: Vec<u8>) -> bool {
        self.sparse |= key.starts_with(b"GNU.sparse.");
        let told = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = told,
            b"linkpath" => self.target = told,
            b"GNU.sparse.name" => self.sparse_name = told,
            b"size" => {
                self.size = told.as_deref().and_then(number);
                return told.is_none() || self.size.is_some();
            }
            _ => {}
        }
        true
    }
}

/// A decimal number and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads up to and with a byte, at most `left` bytes, and keeps what comes before it, at most `most` bytes. False if it did not
/// come.
fn until(
    data: &mut impl BufRead,
    end: u8,
    left: &mut u64,
    kept: &mut Vec<u8>,
    most: usize,
) -> io::Result<bool> {
    while *left > 0 {
        let mut byte = [0];
        data.read_exact(&mut byte)?;
        *left -= 1;
        if byte[0] == end {
            return Ok(true);
        }
        if kept.len() < most {
            kept.push(byte[0]);
        }
    }
    Ok(false)
}

/// Fills the buffer as far as there are bytes.
pub(super) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn skip(from: &mut impl Read, len: u64) -> io::Result<()> {
    match io::copy(&mut from.take(len), &mut io::sink())? {
        skipped if skipped < len => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn too_large() -> io::Error {
    broken("its headers are too large")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::archive::testing::{entry, pax, tar};

    /// Reads the data of a PAX header that stands before a file `f` of five bytes.
    fn told(data: &[u8]) -> io::Result<TarEntry> {
        let bytes = tar(&[
            entry(b'x', b"pax", 0o644, b"", data),
            entry(b'0', b"f", 0o644, b"", b"12345"),
        ]);
        Ok(TarReader::new(&bytes[..]).next()?.unwrap())
    }

    #[test]
    fn a_record_ends_where_its_length_says() {
        /// The records, and the path and the size that they leave.
        type PaxCase<'a> = (&'a [(&'a str, &'a [u8])], &'a str, u64);
        let table: &[PaxCase] = &[
            (&[], "f", 5),
            (&[("path", b"a")], "a", 5),
            (&[("path", b"a"), ("path", b"b")], "b", 5),
            // Nothing said is not a name.
            (&[("path", b"a"), ("path", b"")], "f", 5),
            (&[("size", b"3")], "f", 3),
            (&[("acl", b"a\nb\n"), ("path", b"a")], "a", 5),
            // The value looks like a record, and is none.
            (&[("comment", b"A\n16 path=../evil")], "f", 5),
            (&[("c", b"A\n11 path=no\n"), ("path", b"a")], "a", 5),
            (&[("a\nb", b"=\0"), ("", b"\n\n"), ("path", b"a")], "a", 5),
        ];
        for (records, path, size) in table {
            let bytes = tar(&[pax(b'x', records), entry(b'0', b"f", 0o644, b"", b"12345")]);
            let entry = TarReader::new(&bytes[..]).next().unwrap().unwrap();
            assert!(!entry.pax.unreadable, "{records:?}");
            assert_eq!(entry.path, path.as_bytes(), "{records:?}");
            assert_eq!(entry.size, *size, "{records:?}");
            assert!(entry.described);
        }
    }

    #[test]
    fn records_that_are_none_are_told() {
        let table: &[&[u8]] = &[
            b"x",
            b"9",
            b"9 ",
            b" path=a\n",
            b"99 path=a\n",
            b"8 path=a\n",
            b"11 path=a\n9 path=b\n",
            b"7 path\n",
            b"+9 path=a\n",
            b"0 path=a\n",
            b"1 path=a\n",
            b"2 path=a\n",
            b"99999999999999999999999 path=a\n",
            b"10 size=x\n",
            b"9 path=a\n\0\0",
            b"30 size=18446744073709551616\n",
        ];
        for data in table {
            assert!(
                told(data).unwrap().pax.unreadable,
                "{}",
                data.escape_ascii()
            );
        }
    }

    #[test]
    fn what_nobody_asks_for_takes_no_memory_and_what_is_too_much_no_time() {
        let attribute = vec![b'\n'; 1 << 20];
        let records = pax(b'x', &[("LIBARCHIVE.xattr.x", &attribute), ("path", b"a")]);
        let bytes = tar(&[records, entry(b'0', b"f", 0o644, b"", b"1")]);
        let entry = TarReader::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!(entry.path, b"a");
        let long = vec![b'y'; 5000];
        let mut found = PaxRecords::default();
        let record = [&b"5011 path="[..], &long, b"\n"].concat();
        assert_eq!(found.read(&mut &record[..], 9000).unwrap(), Some(5011));
        assert_eq!(found.path.map(|path| path.len() as u64), Some(VALUE_MAX));
    }

    #[test]
    fn cut_records_are_an_end_and_no_nonsense() {
        let bytes = entry(b'x', b"pax", 0o644, b"", b"9 path=a\n9 path=b\n");
        for len in [512, 513, 515, 520, 530] {
            let error = TarReader::new(&bytes[..len]).next().err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }
}
