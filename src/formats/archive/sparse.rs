//! Writing a file that keeps its holes: long runs of zeros are passed over, so that they take no room on the disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use crate::api::error::Refusal;

/// The shortest hole, and what its ends are aligned to. Shorter ones are not worth their calls: most programs have pages of
/// zeros. Each upload has a buffer of this size, too, for what comes in parts.
pub(super) const HOLE: usize = 32 << 10;

/// How many holes of a file are counted: its size is to be told, not all of its map.
const EXTENTS_MAX: usize = 10_000;

/// What blocks are compared with, a page at a time: a whole block of zeros would be 32 KiB of the program.
static ZEROS: [u8; 4 << 10] = [0; 4 << 10];

/// A new, empty file that is written from its beginning.
pub(super) struct SparseFile {
    file: File,
    /// The hole that the next write comes after.
    hole: u64,
    len: u64,
}

impl SparseFile {
    pub(super) fn new(file: File) -> SparseFile {
        SparseFile {
            file,
            hole: 0,
            len: 0,
        }
    }

    /// Writes the next bytes. But for the last ones, they must come in multiples of [`HOLE`]. `take` is asked for the room of
    /// what is really written.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(u64) -> Result<(), Refusal>,
        failed: &dyn Fn(io::Error) -> Refusal,
    ) -> Result<(), Refusal> {
        self.len += bytes.len() as u64;
        let mut at = 0;
        while at < bytes.len() {
            let mut goes_on = self.hole > 0;
            let zeros = run(&bytes[at..], |block| {
                goes_on = is_hole(block, goes_on);
                goes_on
            });
            self.hole += zeros as u64;
            at += zeros;
            let data = run(&bytes[at..], |block| !is_hole(block, false));
            if data == 0 {
                continue;
            }
            if self.hole > 0 {
                let hole = i64::try_from(self.hole).map_err(|_| failed(too_long()))?;
                self.file.seek(SeekFrom::Current(hole)).map_err(failed)?;
                self.hole = 0;
            }
            take(data as u64)?;
            self.file.write_all(&bytes[at..at + data]).map_err(failed)?;
            at += data;
        }
        Ok(())
    }

    /// Makes a hole at the end part of the file.
    pub(super) fn end(self) -> io::Result<File> {
        if self.hole > 0 {
            self.file.set_len(self.len)?;
        }
        Ok(self.file)
    }
}

/// The bytes of a file that are in holes; 0 where the file system does not say.
pub(super) fn holes(file: &File, len: u64) -> u64 {
    let (mut holes, mut at) = (0, 0);
    for _ in 0..EXTENTS_MAX {
        let Ok(hole) = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(at)) else {
            break;
        };
        // Behind a file's end there is one more.
        if hole >= len {
            break;
        }
        // No data comes after the last one.
        at = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(hole)).unwrap_or(len);
        holes += at.min(len).saturating_sub(hole);
        if at >= len {
            break;
        }
    }
    holes
}

fn too_long() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

/// The last block may be a short one: it belongs to a hole that comes before it.
fn is_hole(block: &[u8], goes_on: bool) -> bool {
    let is_zero = |page: &[u8]| *page == ZEROS[..page.len()];
    (block.len() == HOLE || goes_on) && block.chunks(ZEROS.len()).all(is_zero)
}

/// How many bytes at the start are in blocks that are so.
fn run(bytes: &[u8], mut is_so: impl FnMut(&[u8]) -> bool) -> usize {
    let blocks = bytes.chunks(HOLE).take_while(|block| is_so(block));
    blocks.map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_are_kept_and_the_content_is_the_same() {
        let path = std::env::temp_dir().join(format!("gangplank-sparse-{}", std::process::id()));
        let data = vec![b'x'; HOLE];
        let zeros = vec![0; HOLE];
        let torn = [&zeros[1..], b"x"].concat();
        // The pieces, and how many blocks of them are data.
        let table: Vec<(Vec<&[u8]>, u64)> = vec![
            (vec![], 0),
            (vec![b"x"], 1),
            (vec![b"\0"], 1),
            (vec![&zeros], 0),
            (vec![&zeros, b"\0"], 0),
            (vec![&zeros, b"x"], 1),
            (vec![&zeros, &zeros, &data, &zeros], 1),
            (vec![&data, &zeros, b"\0\0"], 1),
            (vec![&data, b"\0\0"], 2),
            (vec![&torn, &zeros, &torn, b"\0"], 3),
        ];
        for (pieces, blocks) in table {
            let whole = pieces.concat();
            for step in [HOLE, 4 * HOLE] {
                let mut file = SparseFile::new(File::create(&path).unwrap());
                let mut taken = 0;
                for piece in whole.chunks(step) {
                    let mut take = |bytes: u64| {
                        taken += bytes.div_ceil(HOLE as u64);
                        Ok(())
                    };
                    let failed = |error: io::Error| panic!("{error}");
                    file.write(piece, &mut take, &failed).unwrap();
                }
                let file = file.end().unwrap();
                assert!(fs::read(&path).unwrap() == whole);
                assert_eq!(taken, blocks, "{} bytes by {step}", whole.len());
                let on_disk = file.metadata().unwrap().blocks() * 512;
                assert!(on_disk <= blocks * HOLE as u64 + 8192, "{on_disk}");
            }
        }
        fs::remove_file(&path).unwrap();
    }
}
