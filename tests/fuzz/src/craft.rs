//! Archives out of bytes: a small language of entries, whose headers have correct checksums unless one asks for a wrong one.
//!
//! Names are made of few components, so that entries meet: links lead to files, files come twice, directories are gone
//! through that are none.

use std::io::Write;

use arbitrary::{Arbitrary, Result, Unstructured};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// An archive.
#[derive(Debug, Arbitrary)]
pub struct Archive {
    entries: Vec<Entry>,
    ending: Ending,
    wrapping: Wrapping,
    /// Bytes that are changed at the very end: a place and a difference.
    changes: Vec<(u16, u8)>,
    /// How many bytes arrive at once, in each of two runs.
    pub steps: (u16, u16),
}

#[derive(Debug, Arbitrary)]
enum Entry {
    File(Path, u16, Data),
    Directory(Path, u16),
    Symlink(Path, Target),
    Hardlink(Path, Path),
    /// GNU's header for the name, or for the target, of the next entry.
    Long(bool, Path),
    /// PAX records for the next entry, or for all.
    Pax(bool, Vec<(Key, Value)>),
    /// Any kind, whatever it claims.
    Odd {
        kind: u8,
        path: Path,
        target: Target,
        mode: u16,
        data: Data,
        size: Size,
        layout: Layout,
        wrong_sum: bool,
    },
    /// A sparse file: a claimed length, and where its one byte is.
    Sparse(Path, u32, u32),
    /// Blocks of zeros, a part of an end marker or all of it.
    Zeros(u8),
    Raw(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Layout {
    Gnu,
    Ustar(Path),
    Old,
}

/// What a header says of the length of its content.
#[derive(Debug, Arbitrary)]
enum Size {
    True,
    Less(u8),
    More(u16),
    /// In base 256, up to what no disk holds.
    Huge(u64),
    Text([u8; 12]),
}

#[derive(Debug, Arbitrary)]
enum Ending {
    Whole,
    Padded(u8),
    OneBlock,
    Missing,
    Followed(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Wrapping {
    Plain,
    Gzip,
    Members(u16),
    Cut(u16),
    GzipCut(u16),
    GzipFollowed(Vec<u8>),
    /// Blocks that end there and at the end; and gzip from there on.
    Lz4(u16),
    Lz4Cut(u16),
    Lz4Gzip(u16),
}

#[derive(Debug, Arbitrary)]
enum Key {
    Path,
    Linkpath,
    Size,
    Mode,
    Sparse,
    Other(Short),
}

#[derive(Debug, Arbitrary)]
enum Value {
    Path(Path),
    Number(u64),
    Bytes(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Data {
    Little(Vec<u8>),
    Run(u8, u16),
}

/// Some bytes that are no name yet.
#[derive(Debug, Arbitrary)]
struct Short([u8; 3]);

/// A name: components, perhaps absolute, perhaps with a slash at the end. Most are good ones, or hardly an archive of many
/// entries would be.
#[derive(Debug)]
struct Path(Vec<u8>);

/// Where a link leads: as often up as down.
#[derive(Debug)]
struct Target(Path);

const DOWN: [&[u8]; 13] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"a/b",
    b".",
    b"",
    b"A",
    b".flatten",
    b"release",
    b"canary",
    b".probe",
    b"\xff",
];
const UP: [&[u8]; 3] = [b"..", b"../..", b"a/../.."];

impl<'a> Arbitrary<'a> for Path {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Path> {
        path(u, 232)
    }
}

impl<'a> Arbitrary<'a> for Target {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Target> {
        path(u, 120).map(Target)
    }
}

/// A path of components, of which those are good whose choice is below `good`.
fn path(u: &mut Unstructured<'_>, good: u8) -> Result<Path> {
    let shape: u8 = u.arbitrary()?;
    let mut path = Vec::new();
    if shape & 0xf0 == 0xf0 {
        path.push(b'/');
    }
    let parts = if shape & 0x0c == 0x0c { 7 } else { 3 };
    for part in 0..=shape & parts {
        if part > 0 {
            path.push(b'/');
        }
        match u.arbitrary::<u8>()? {
            choice if choice < good => {
                path.extend_from_slice(DOWN[usize::from(choice) % DOWN.len()])
            }
            choice @ 0..240 => path.extend_from_slice(UP[usize::from(choice) % UP.len()]),
            240..250 => path.extend(u.arbitrary::<[u8; 2]>()?),
            // Lengths around the limits: of a component, of a name, of a path.
            choice => path.resize(path.len() + 252 + usize::from(choice - 250), b'x'),
        }
    }
    if shape & 0x30 == 0x30 {
        path.push(b'/');
    }
    Ok(Path(path))
}

impl Data {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Data::Little(bytes) => bytes.clone(),
            Data::Run(byte, len) => vec![*byte; usize::from(*len) * 2],
        }
    }
}

impl Archive {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        for entry in &self.entries {
            entry.write(&mut plain);
        }
        match &self.ending {
            Ending::Whole => zeros(&mut plain, 2),
            Ending::Padded(blocks) => zeros(&mut plain, 2 + usize::from(*blocks)),
            Ending::OneBlock => zeros(&mut plain, 1),
            Ending::Missing => {}
            Ending::Followed(bytes) => {
                zeros(&mut plain, 2);
                plain.extend_from_slice(bytes);
            }
        }
        let mut bytes = match &self.wrapping {
            Wrapping::Plain => plain,
            Wrapping::Gzip => gzip(&plain),
            Wrapping::Members(at) => {
                let (first, second) = plain.split_at(plain.len().min(usize::from(*at)));
                [gzip(first), gzip(second)].concat()
            }
            Wrapping::Cut(by) => cut(plain, *by),
            Wrapping::GzipCut(by) => cut(gzip(&plain), *by),
            Wrapping::GzipFollowed(more) => [&gzip(&plain), &more[..]].concat(),
            Wrapping::Lz4(at) => {
                let (first, second) = plain.split_at(plain.len().min(usize::from(*at)));
                lz4(&[first, second])
            }
            Wrapping::Lz4Cut(by) => cut(lz4(&[&plain]), *by),
            Wrapping::Lz4Gzip(at) => {
                let (first, second) = plain.split_at(plain.len().min(usize::from(*at)));
                [lz4(&[first]), gzip(second)].concat()
            }
        };
        for (at, by) in &self.changes {
            if let Some(byte) = bytes.get_mut(usize::from(*at)) {
                *byte = byte.wrapping_add(*by);
            }
        }
        bytes
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Entry::File(path, mode, data) => entry(out, b'0', &path.0, &[], *mode, &data.bytes()),
            Entry::Directory(path, mode) => entry(out, b'5', &path.0, &[], *mode, &[]),
            Entry::Symlink(path, target) => entry(out, b'2', &path.0, &target.0.0, 0o777, &[]),
            Entry::Hardlink(path, target) => entry(out, b'1', &path.0, &target.0, 0o644, &[]),
            Entry::Long(target, path) => long(out, if *target { b'K' } else { b'L' }, &path.0),
            Entry::Pax(all, records) => {
                let records: Vec<u8> = records.iter().flat_map(record).collect();
                entry(
                    out,
                    if *all { b'g' } else { b'x' },
                    b"pax",
                    &[],
                    0o644,
                    &records,
                );
            }
            Entry::Odd {
                kind,
                path,
                target,
                mode,
                data,
                size,
                layout,
                wrong_sum,
            } => {
                let data = data.bytes();
                let mut header = header(*kind, &path.0, &target.0.0, *mode, layout);
                size.write(&mut header, data.len() as u64);
                header.set_cksum();
                if *wrong_sum {
                    header.as_mut_bytes()[150] ^= 1;
                }
                append(out, &header, &data);
            }
            Entry::Sparse(path, real, at) => {
                let mut header = header(b'S', &path.0, &[], 0o644, &Layout::Gnu);
                header.set_size(1);
                if let Some(gnu) = header.as_gnu_mut() {
                    gnu.set_real_size(u64::from(*real));
                    gnu.sparse[0].set_offset(u64::from(*at));
                    gnu.sparse[0].set_length(1);
                }
                header.set_cksum();
                append(out, &header, b"x");
            }
            Entry::Zeros(blocks) => zeros(out, usize::from(*blocks % 4)),
            Entry::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl Size {
    fn write(&self, header: &mut Header, len: u64) {
        match self {
            Size::True => header.set_size(len),
            Size::Less(by) => header.set_size(len.saturating_sub(u64::from(*by))),
            Size::More(by) => header.set_size(len + u64::from(*by)),
            Size::Huge(size) => header.set_size(*size),
            Size::Text(text) => header.as_old_mut().size = *text,
        }
    }
}

fn zeros(out: &mut Vec<u8>, blocks: usize) {
    out.resize(out.len() + blocks * BLOCK, 0);
}

fn append(out: &mut Vec<u8>, header: &Header, data: &[u8]) {
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// An entry as a good archiver writes it, long names included.
fn entry(out: &mut Vec<u8>, kind: u8, path: &[u8], target: &[u8], mode: u16, data: &[u8]) {
    for (kind, name) in [(b'L', path), (b'K', target)] {
        if name.len() > 100 {
            long(out, kind, name);
        }
    }
    let mut header = header(kind, path, target, mode, &Layout::Gnu);
    header.set_size(data.len() as u64);
    header.set_cksum();
    append(out, &header, data);
}

fn long(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    entry(
        out,
        kind,
        b"././@LongLink",
        &[],
        0o644,
        &[name, b"\0"].concat(),
    );
}

fn header(kind: u8, path: &[u8], target: &[u8], mode: u16, layout: &Layout) -> Header {
    let mut header = match layout {
        Layout::Gnu => Header::new_gnu(),
        Layout::Ustar(_) => Header::new_ustar(),
        Layout::Old => Header::new_old(),
    };
    header.set_mode(u32::from(mode));
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::new(kind));
    let old = header.as_old_mut();
    fill(&mut old.name, path);
    fill(&mut old.linkname, target);
    old.linkflag = [kind];
    if let (Layout::Ustar(prefix), Some(ustar)) = (layout, header.as_ustar_mut()) {
        fill(&mut ustar.prefix, &prefix.0);
    }
    header
}

fn fill(field: &mut [u8], bytes: &[u8]) {
    let len = field.len().min(bytes.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

/// A PAX record: its length, which counts itself, a key and a value.
fn record((key, value): &(Key, Value)) -> Vec<u8> {
    let key = match key {
        Key::Path => b"path".to_vec(),
        Key::Linkpath => b"linkpath".to_vec(),
        Key::Size => b"size".to_vec(),
        Key::Mode => b"mode".to_vec(),
        Key::Sparse => b"GNU.sparse.major".to_vec(),
        Key::Other(bytes) => bytes.0.to_vec(),
    };
    let value = match value {
        Value::Path(path) => path.0.clone(),
        Value::Number(number) => number.to_string().into_bytes(),
        Value::Bytes(bytes) => bytes.clone(),
    };
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", &key, b"=", &value, b"\n"].concat()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory cannot fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

/// A frame of lz4 with these blocks, of 4 MiB at most.
fn lz4(blocks: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73];
    for block in blocks {
        let packed = lz4_flex::block::compress(block);
        frame.extend((packed.len() as u32).to_le_bytes());
        frame.extend(packed);
    }
    frame.extend([0; 4]);
    frame
}

fn cut(mut bytes: Vec<u8>, by: u16) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(usize::from(by)));
    bytes
}
