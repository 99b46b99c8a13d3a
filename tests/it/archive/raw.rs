//! Tars made byte by byte, which may say what no library would write.

/// What one header says. It is the text of a GNU tar's, unless a test changes it.
pub(super) struct Raw<'a> {
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) mode: u32,
    /// The size that it declares; what follows may be another one.
    pub(super) size: u64,
    pub(super) content: &'a [u8],
}

impl Raw<'_> {
    /// The header with its checksum, and the content, padded.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut header = self.header();
        seal(&mut header);
        let mut bytes = header;
        bytes.extend_from_slice(self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut header = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(self.name.len() <= 100 && self.target.len() <= 100);
        put(0, self.name);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        if self.size < 1 << 33 {
            put(124, format!("{:011o}", self.size).as_bytes());
        } else {
            put(124, &[0x80]);
            put(128, &self.size.to_be_bytes());
        }
        put(136, b"00000000000");
        put(156, &[self.kind]);
        put(157, self.target);
        put(257, b"ustar  ");
        header
    }
}

/// Makes a header's checksum right again.
pub(super) fn seal(header: &mut [u8]) {
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An entry of any kind.
pub(super) fn entry(kind: u8, name: &str, target: &str, content: &[u8]) -> Vec<u8> {
    moded(kind, name, target, 0o644, content)
}

pub(super) fn moded(kind: u8, name: &str, target: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let raw = Raw {
        kind,
        name: name.as_bytes(),
        target: target.as_bytes(),
        mode,
        size: content.len() as u64,
        content,
    };
    raw.bytes()
}

/// An entry that declares another size than it has.
pub(super) fn sized(kind: u8, name: &str, size: u64, content: &[u8]) -> Vec<u8> {
    let raw = Raw {
        kind,
        name: name.as_bytes(),
        target: b"",
        mode: 0o644,
        size,
        content,
    };
    raw.bytes()
}

pub(super) fn file(name: &str, content: &str) -> Vec<u8> {
    entry(b'0', name, "", content.as_bytes())
}

pub(super) fn dir(name: &str) -> Vec<u8> {
    moded(b'5', name, "", 0o755, b"")
}

pub(super) fn link(name: &str, target: &str) -> Vec<u8> {
    entry(b'2', name, target, b"")
}

pub(super) fn hard(name: &str, target: &str) -> Vec<u8> {
    entry(b'1', name, target, b"")
}

/// GNU's header for a name (`L`) or a target (`K`) that its entry's own has no room for.
pub(super) fn long(kind: u8, name: &[u8]) -> Vec<u8> {
    entry(kind, "././@LongLink", "", &[name, b"\0"].concat())
}

/// A PAX header for the next entry.
pub(super) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits);
        content.extend_from_slice(format!("{} {key}=", rest + digits.unwrap()).as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    entry(b'x', "./PaxHeaders/x", "", &content)
}

/// GNU's own kind of sparse file: a terabyte that ends with a byte.
pub(super) fn sparse(name: &str) -> Vec<u8> {
    let mut bytes = sized(b'S', name, 1, b"x");
    let last = (1_u64 << 40) - 1;
    for (at, number) in [(386, last), (398, 1), (483, last + 1)] {
        bytes[at] = 0x80;
        bytes[at + 4..at + 12].copy_from_slice(&number.to_be_bytes());
    }
    seal(&mut bytes);
    bytes
}

/// The entries with an end marker and nothing else.
pub(super) fn bare(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// The entries with one for the root before them, so that nothing is flattened.
pub(super) fn rooted(entries: &[Vec<u8>]) -> Vec<u8> {
    [dir("./"), bare(entries)].concat()
}
