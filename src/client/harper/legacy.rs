//! The request that a Harper server before 5.1 takes: one map of CBOR, with the payload as its last member. The length stands
//! before the payload, so that it is packed into a file first.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use crate::api::operation::Fields;
use crate::formats::cbor::write::map_before_bytes;
use crate::system::files;

/// The body. The payload is packed when it is first read.
pub(crate) struct LegacyBody<R> {
    fields: Fields,
    payload: Option<R>,
    packed: Option<io::Chain<Cursor<Vec<u8>>, File>>,
}

impl<R: Read> LegacyBody<R> {
    pub(crate) fn new(fields: Fields, payload: R) -> LegacyBody<R> {
        LegacyBody {
            fields,
            payload: Some(payload),
            packed: None,
        }
    }
}

impl<R: Read> Read for LegacyBody<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(mut payload) = self.payload.take() {
            let mut file = nameless_file()?;
            let length = io::copy(&mut payload, &mut file)?;
            file.seek(SeekFrom::Start(0))?;
            let head = map_before_bytes(&self.fields, "payload", length);
            self.packed = Some(Cursor::new(head).chain(file));
        }
        match &mut self.packed {
            Some(packed) => packed.read(buffer),
            // The payload could not be packed, which was told.
            None => Err(io::Error::other("the payload is not there")),
        }
    }
}

/// A file that only this process can reach, and that is gone with it.
fn nameless_file() -> io::Result<File> {
    let dir = std::env::temp_dir();
    files::nameless(&dir).map_err(|error| {
        let what = format!("making a temporary file in {} (TMPDIR)", dir.display());
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_fails_never_looks_whole() {
        let payload = (&b"half"[..]).chain(Broken);
        let mut body = LegacyBody::new(Fields::new(), payload);
        for _ in 0..2 {
            assert!(body.read(&mut [0; 64]).is_err());
        }
        let mut body = LegacyBody::new(Fields::new(), &b"whole"[..]);
        let mut read = Vec::new();
        body.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"\xa1\x67payload\x45whole");
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
}
