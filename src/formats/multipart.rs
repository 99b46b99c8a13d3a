//! Multipart forms: read as a stream, and written as one.
//!
//! [`Reader`] takes a body apart as it arrives: first the fields, then at most one file part, whose bytes are read
//! through [`Read`]. Its memory does not depend on the file's size, a boundary may be split across reads anywhere, and a
//! body that ends before its closing boundary is an error at every point, never a shorter file. [`Form`] is the other
//! direction: fields and a file as one [`Read`], which passes on an error of the file instead of ending.

mod form;
mod head;

use std::io::{self, Read};

use memchr::memmem;

use crate::api::error::{Code, Refusal};
pub use crate::formats::multipart::form::Form;
pub use crate::formats::multipart::head::boundary;
use crate::formats::multipart::head::{PartHead, shown};
use crate::system::memory::Pages;

/// The name of the one file part.
const FILE_NAME: &str = "payload";
/// The name that it has if it is the list of a tree.
const LIST_NAME: &str = "manifest";
/// More fields than any operation has, few enough to keep.
const FIELDS_MAX: usize = 64;
/// The longest value of a field: room for a long command, far from what would hurt the memory.
const FIELD_LEN_MAX: usize = 1 << 20;
/// Why a field may be what it should not: it was meant to be a file.
const NO_FILE: &str = "a file needs a file name, as 'curl -F NAME=@FILE' gives it";
/// The longest head of a part, and the longest preamble: ten times what clients send.
const HEAD_LEN_MAX: usize = 8 << 10;
/// The length of all that may stand before the file, in a form with as many and as long fields as may be: with one head
/// more, the file's own, and a preamble.
pub const FIELDS_LEN_MAX: u64 =
    ((FIELDS_MAX + 2) * (FIELD_LEN_MAX + HEAD_LEN_MAX + 2 * head::BOUNDARY_LEN_MAX)) as u64;
/// What is read at once. It holds a whole head, and stays in a processor's second cache.
const BUFFER_LEN: usize = 64 << 10;

/// What [`Reader::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A part without a filename, read to its end.
    Field {
        /// Its name.
        name: String,
        /// Its value, as it stands.
        value: String,
    },
    /// The file part begins: read its bytes from the [`Reader`] itself.
    File {
        /// Its name: `payload`, or `manifest` for the list of a tree.
        name: String,
    },
    /// The closing boundary.
    End,
}

/// Where a reader stands between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the first boundary.
    Preamble,
    /// Right behind a field's closing delimiter.
    Delimiter,
    /// In the file part.
    File,
    /// Right behind the file part's closing delimiter.
    AfterFile,
    /// Behind the closing boundary.
    End,
}

/// Takes a multipart body apart.
pub struct Reader<R> {
    source: R,
    delimiter: memmem::Finder<'static>,
    buffer: Pages,
    /// What has been read and not been given out: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// How much was read from the source.
    read: u64,
    /// No delimiter begins before this place in the buffer, so nothing is searched twice.
    searched: usize,
    /// Where the next delimiter begins in the buffer, once it was found.
    found: Option<usize>,
    place: Position,
    fields: usize,
    /// A refusal is for good: whoever asks again gets it again.
    refused: Option<Refusal>,
}

impl<R: Read> Reader<R> {
    /// A reader of a body with this [`boundary`].
    pub fn new(source: R, boundary: &str) -> Reader<R> {
        let delimiter = format!("\r\n--{boundary}");
        let mut buffer = Pages::new(BUFFER_LEN);
        // A line end that is not there makes the first boundary look like all others.
        buffer[..2].copy_from_slice(b"\r\n");
        Reader {
            source,
            delimiter: memmem::Finder::new(delimiter.as_bytes()).into_owned(),
            buffer,
            start: 0,
            end: 2,
            read: 0,
            searched: 0,
            found: None,
            place: Position::Preamble,
            fields: 0,
            refused: None,
        }
    }

    /// The next part. What was not read of a file part is skipped.
    ///
    /// # Errors
    /// A refusal that names the thing: `upload_broken` where the body ended early or could not be read, `too_large` for too
    /// many or too large fields, `bad_request` for whatever is malformed.
    // It is not an iterator: its end is a value of its own, and it lends its file part.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Part, Refusal> {
        if let Some(refusal) = &self.refused {
            return Err(refusal.clone());
        }
        let part = self.part();
        self.refused = part.as_ref().err().cloned();
        part
    }

    /// How much of the body lies before the place where the reader stands.
    pub fn position(&self) -> u64 {
        // What is there before anything was read is the line end that we put there.
        self.read.saturating_sub((self.end - self.start) as u64)
    }

    fn part(&mut self) -> Result<Part, Refusal> {
        match self.place {
            Position::Preamble => {
                self.skip_preamble()?;
                self.place = Position::Delimiter;
            }
            Position::File => {
                while self.advance(|bytes| bytes.len())? > 0 {}
                self.place = Position::AfterFile;
            }
            Position::Delimiter | Position::AfterFile => {}
            Position::End => return Ok(Part::End),
        }
        if self.closing()? {
            if self.place == Position::Delimiter && self.fields == 0 {
                return Err(bad("reading the form: it has no parts"));
            }
            self.place = Position::End;
            return Ok(Part::End);
        }
        let PartHead { name, is_file } = self.head()?;
        match (self.place, is_file) {
            (Position::AfterFile, true) => Err(bad(format!(
                "reading the form: a second file, {}, follows the payload",
                shown(&name)
            ))),
            (Position::AfterFile, false) => Err(bad(format!(
                "reading the form: the field {} follows the file, but the file comes last",
                shown(&name)
            ))),
            (_, true) if [FILE_NAME, LIST_NAME].contains(&&*name) => {
                self.place = Position::File;
                Ok(Part::File { name })
            }
            (_, true) => Err(bad(format!(
                "reading the form: unexpected file field {}, the file's name must be \"{FILE_NAME}\"",
                shown(&name)
            ))),
            (_, false) => self.field(name),
        }
    }

    fn skip_preamble(&mut self) -> Result<(), Refusal> {
        let mut skipped = 0;
        loop {
            match self.advance(|bytes| bytes.len())? {
                0 => return Ok(()),
                len => skipped += len,
            }
            if skipped > HEAD_LEN_MAX {
                return Err(bad(
                    "reading the form: it does not begin with the boundary that the Content-Type names",
                ));
            }
        }
    }

    fn field(&mut self, name: String) -> Result<Part, Refusal> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "reading the form: more than {FIELDS_MAX} fields, the first too many is {}",
                    shown(&name)
                ),
            ));
        }
        let mut value = Vec::new();
        loop {
            let len = self.advance(|bytes| {
                value.extend_from_slice(bytes);
                bytes.len()
            })?;
            if len == 0 {
                break;
            }
            if value.len() > FIELD_LEN_MAX {
                return Err(Refusal::new(
                    Code::TooLarge,
                    format!(
                        "reading the form: the field {} is longer than {FIELD_LEN_MAX} bytes; {NO_FILE}",
                        shown(&name)
                    ),
                ));
            }
        }
        match String::from_utf8(value) {
            Ok(value) => Ok(Part::Field { name, value }),
            Err(_) => Err(bad(format!(
                "reading the form: the field {} is not UTF-8; {NO_FILE}",
                shown(&name)
            ))),
        }
    }

    /// Shows `take` the next bytes before the delimiter, and goes on by as many as it took. At the delimiter, steps
    /// behind it and gives 0.
    fn advance(&mut self, take: impl FnOnce(&[u8]) -> usize) -> Result<usize, Refusal> {
        let delimiter_len = self.delimiter.needle().len();
        let until = loop {
            if self.found.is_none() {
                let begin = self.searched.max(self.start);
                self.found = self
                    .delimiter
                    .find(&self.buffer[begin..self.end])
                    .map(|at| begin + at);
                // The last bytes may be the beginning of a delimiter.
                self.searched = begin.max(self.end.saturating_sub(delimiter_len - 1));
            }
            match self.found {
                Some(at) => break at,
                None if self.searched > self.start => break self.searched,
                None => self.fill()?,
            }
        };
        if until == self.start {
            self.start += delimiter_len;
            self.searched = self.start;
            self.found = None;
            return Ok(0);
        }
        let taken = take(&self.buffer[self.start..until]);
        self.start += taken;
        Ok(taken)
    }

    /// Whether the delimiter just passed is the closing one; if not, steps behind the padding of its line, to the line end.
    fn closing(&mut self) -> Result<bool, Refusal> {
        self.need(2)?;
        if self.buffer[self.start..].starts_with(b"--") {
            // What follows is the epilogue, and nobody's business.
            self.start += 2;
            return Ok(true);
        }
        for _ in 0..HEAD_LEN_MAX {
            self.need(2)?;
            match self.buffer[self.start..self.end] {
                [b' ' | b'\t', ..] => self.start += 1,
                [b'\r', b'\n', ..] => return Ok(false),
                _ => break,
            }
        }
        Err(bad(
            "reading the form: a boundary is followed by neither a line end nor \"--\"",
        ))
    }

    /// Reads the head of a part, from the end of the delimiter's line to behind the empty line.
    fn head(&mut self) -> Result<PartHead, Refusal> {
        let mut looked_at = 0;
        let len = loop {
            let bytes = &self.buffer[self.start..self.end];
            match memmem::find(&bytes[looked_at..], b"\r\n\r\n") {
                Some(at) if looked_at + at <= HEAD_LEN_MAX => break looked_at + at,
                None if bytes.len() <= HEAD_LEN_MAX => {
                    looked_at = bytes.len().saturating_sub(3);
                    self.fill()?;
                }
                _ => {
                    return Err(bad(format!(
                        "reading the form: the head of a part is longer than {HEAD_LEN_MAX} bytes"
                    )));
                }
            }
        };
        let head = PartHead::parse(&self.buffer[self.start..self.start + len])?;
        self.start += len + 4;
        self.searched = self.start;
        Ok(head)
    }

    fn need(&mut self, len: usize) -> Result<(), Refusal> {
        while self.end - self.start < len {
            self.fill()?;
        }
        Ok(())
    }

    /// Reads once from the source, behind what is there. The end of the source is always too early.
    fn fill(&mut self) -> Result<(), Refusal> {
        if self.end == self.buffer.len() {
            // Nobody holds back more than a head, so this makes room.
            self.buffer.copy_within(self.start..self.end, 0);
            self.searched = self.searched.saturating_sub(self.start);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    let within = match self.place {
                        Position::Preamble => "before its first boundary",
                        Position::File => "within the file",
                        _ => "before its closing boundary",
                    };
                    return Err(Refusal::new(
                        Code::UploadBroken,
                        format!("reading the form: the body ended {within}"),
                    ));
                }
                Ok(len) => {
                    self.end += len;
                    self.read += len as u64;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let what = "reading the form: receiving the body";
                    return Err(Refusal::of_reading(what, &error));
                }
            }
        }
    }
}

/// The bytes of the file part; nothing before it and nothing behind it. A refusal is inside the [`io::Error`].
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(refusal) = &self.refused {
            return Err(io::Error::other(refusal.clone()));
        }
        if self.place != Position::File || out.is_empty() {
            return Ok(0);
        }
        let given = self.advance(|bytes| {
            let len = bytes.len().min(out.len());
            out[..len].copy_from_slice(&bytes[..len]);
            len
        });
        match given {
            Ok(0) => {
                self.place = Position::AfterFile;
                Ok(0)
            }
            Ok(len) => Ok(len),
            Err(refusal) => {
                self.refused = Some(refusal.clone());
                Err(io::Error::other(refusal))
            }
        }
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests;
