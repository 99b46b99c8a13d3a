//! Writing a form: the fields, then one file, as a stream.

use std::io::{self, Read};

use crate::api::error::{Doing, Error};

/// A form that is being put together.
#[derive(Debug)]
pub struct Form {
    boundary: String,
    written: Vec<u8>,
}

impl Form {
    /// An empty form with a boundary of its own: 128 random bits, which no file holds by chance.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Form, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).doing(|| "choosing a form's boundary".into())?;
        let boundary = format!("gangplank-{:032x}", u128::from_be_bytes(random));
        Ok(Form {
            boundary,
            written: Vec::new(),
        })
    }

    /// Adds a field.
    pub fn field(&mut self, name: &str, value: &str) {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n",
            self.boundary,
            escaped(name)
        );
        self.written.extend_from_slice(head.as_bytes());
        self.written.extend_from_slice(value.as_bytes());
        self.written.extend_from_slice(b"\r\n");
    }

    /// The Content-Type of the request.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// The whole body: the fields, the file, the closing boundary. It is read as it is sent, and an error of `file` is
    /// the body's error, so that a file that could not be read never looks like a shorter one.
    pub fn file<R: Read>(mut self, name: &str, filename: &str, file: R) -> impl Read + use<R> {
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            self.boundary,
            escaped(name),
            escaped(filename)
        );
        self.written.extend_from_slice(head.as_bytes());
        let closing = format!("\r\n--{}--\r\n", self.boundary);
        io::Cursor::new(self.written)
            .chain(file)
            .chain(io::Cursor::new(closing.into_bytes()))
    }
}

/// Escapes a name as browsers do.
fn escaped(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}
