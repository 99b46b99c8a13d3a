//! What an archive is called that was stored as it came, and one format for what came in two.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use crate::formats::archive::decoded::decoded;
use crate::formats::archive::gzip::Gzip;
use crate::formats::archive::magic::Compressed;
use crate::formats::archive::reader::fill;
use crate::formats::archive::unlz4::skip_frame;
use crate::system::memory::Pages;

/// What is read and compressed at once.
const PIECE: usize = 256 << 10;

/// How an archive ends that is gzip, or of a format that is unknown here.
const GZIP_EXTENSION: &str = "tar.gz";

/// What a name of an archive ends with, by its first bytes. None if it is of two formats, one behind the other, which no other
/// program reads.
///
/// # Errors
/// When it cannot be read.
pub fn extension(mut archive: &File) -> io::Result<Option<&'static str>> {
    archive.rewind()?;
    let mut start = [0; 512];
    let len = fill(&mut archive, &mut start)?;
    archive.rewind()?;
    match Compressed::of(&start[..len]) {
        Compressed::Gzip => Ok(Some(GZIP_EXTENSION)),
        Compressed::No => Ok(Some("tar")),
        Compressed::Lz4 => {
            let mut bytes = BufReader::new(archive);
            while Compressed::of(&start) == Compressed::Lz4 {
                start.fill(0);
                if skip_frame(&mut bytes).is_err() {
                    // It is damaged, and given as it is.
                    break;
                }
                let len = fill(&mut bytes, &mut start[..4])?;
                bytes.seek_relative(-(len as i64))?;
            }
            archive.rewind()?;
            let is_mixed = Compressed::of(&start) != Compressed::No;
            Ok((!is_mixed).then_some("tar.lz4"))
        }
    }
}

/// Writes an archive as one gzip member.
///
/// # Errors
/// When it cannot be read, or `out` does not take it.
pub fn as_gzip(mut archive: &File, out: impl Write, level: u32) -> io::Result<()> {
    archive.seek(SeekFrom::Start(0))?;
    let mut plain = decoded(BufReader::new(archive))?;
    let mut gzip = Gzip::new(out, level);
    let mut piece = Pages::new(PIECE);
    loop {
        let len = plain.read(&mut piece)?;
        if len == 0 {
            gzip.finish()?;
            return Ok(());
        }
        gzip.choose(level, &piece[..len], false)?;
        gzip.write_all(&piece[..len])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::formats::archive::testing::{Temporary, file, gz, lz4, tar, text};

    #[test]
    fn an_archive_is_called_what_it_is_and_one_of_two_formats_becomes_one() {
        let at = Temporary::new();
        let path = at.0.join("archive");
        let content = String::from_utf8(text(600_000)).unwrap();
        let plain = tar(&[file("a", &content)]);
        let (start, end) = plain.split_at(300_000);
        let table = [
            (plain.clone(), Some("tar")),
            (gz(&plain), Some("tar.gz")),
            (lz4(&plain), Some("tar.lz4")),
            ([lz4(start), lz4(end)].concat(), Some("tar.lz4")),
            ([lz4(&plain), vec![0; 99]].concat(), Some("tar.lz4")),
            ([lz4(start), gz(end)].concat(), None),
            ([lz4(&start[..9]), lz4(&start[9..]), gz(end)].concat(), None),
        ];
        for (n, (bytes, expected)) in table.into_iter().enumerate() {
            fs::write(&path, &bytes).unwrap();
            let archive = File::open(&path).unwrap();
            assert_eq!(extension(&archive).unwrap(), expected, "{n}");
            let mut read = Vec::new();
            (&archive).read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{n}: it is read from its beginning");
            let mut gzip = Vec::new();
            as_gzip(&archive, &mut gzip, 1).unwrap();
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&gzip[..]);
            decoder.read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == plain, "{n}");
        }
    }
}
