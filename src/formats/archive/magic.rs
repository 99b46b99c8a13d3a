//! What something is compressed with, by its first bytes.

/// Of a gzip member.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Of a frame of lz4.
pub(super) const LZ4: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// What a part of a payload is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compressed {
    No,
    Gzip,
    Lz4,
}

impl Compressed {
    /// By its first bytes.
    pub(super) fn of(start: &[u8]) -> Compressed {
        if start.starts_with(&GZIP) {
            Compressed::Gzip
        } else if start.starts_with(&LZ4) {
            Compressed::Lz4
        } else {
            Compressed::No
        }
    }

    /// What an archive in it is called.
    pub(super) fn archive(self) -> &'static str {
        match self {
            Compressed::Lz4 => "tar.lz4",
            Compressed::No | Compressed::Gzip => "tar or tar.gz",
        }
    }

    /// Where something is that it holds.
    pub(super) fn inside(self) -> &'static str {
        match self {
            Compressed::No => "",
            Compressed::Gzip => " in gzip",
            Compressed::Lz4 => " in lz4",
        }
    }
}
