//! A request's body: its fields, and the payload that follows them.

use std::io::{self, Cursor, Read};

use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::read::DecoderReader;
use serde_json::Value;

use crate::api::error::{Code, Refusal};
use crate::api::operation::{self, Fields};
use crate::formats::archive;
use crate::formats::multipart::{self, Part, Reader};
use crate::server::http::Exchange;
use crate::system::stop::Stop;

/// A request, read up to its payload.
pub(super) struct RequestBody<'a> {
    pub(super) fields: Fields,
    pub(super) payload: Option<PayloadSource<'a>>,
    /// How many bytes the payload has at least, by the length that was declared for the whole.
    pub(super) payload_least: u64,
}

/// What may follow a form's last boundary, which nobody reads, and a payload is not refused for.
const EPILOGUE_MAX: u64 = 1 << 10;

/// A payload that is still to be read.
pub(super) enum PayloadSource<'a> {
    /// In the body, where the reader stands.
    Part(Box<Reader<&'a mut dyn Read>>),
    /// It came as base64 among the fields.
    Base64(Box<DecoderReader<'static, GeneralPurpose, Cursor<String>>>),
}

impl RequestBody<'_> {
    /// The operation's name, for the log.
    pub(super) fn operation(&self) -> &str {
        self.fields
            .get("operation")
            .and_then(Value::as_str)
            .unwrap_or("-")
    }
}

/// Reads a body up to its payload. One that cannot but be too large is refused unread.
pub(super) fn read(
    exchange: &mut Exchange,
    max_json_body: u64,
    max_payload: Option<u64>,
) -> Result<RequestBody<'_>, Refusal> {
    let declared = exchange.declared_length().unwrap_or(0);
    let media = exchange
        .header("Content-Type")
        .unwrap_or_default()
        .to_owned();
    let essence = media
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => {
            let boundary = multipart::boundary(&media)?;
            archive::fits(
                max_payload,
                declared.saturating_sub(multipart::FIELDS_LEN_MAX),
            )?;
            let mut request = read_multipart(exchange.body(), &boundary)?;
            if let Some(PayloadSource::Part(reader)) = &request.payload {
                let around = reader.position() + boundary.len() as u64 + EPILOGUE_MAX;
                request.payload_least = declared.saturating_sub(around);
            }
            archive::fits(max_payload, request.payload_least)?;
            Ok(request)
        }
        "application/json" => {
            // Whoever says so beforehand need not send it.
            if declared > max_json_body {
                return Err(too_large(max_json_body));
            }
            read_json(exchange.body(), max_json_body)
        }
        _ => {
            let why = "Unsupported Media Type: send application/json or multipart/form-data";
            Err(Refusal::new(Code::UnsupportedMedia, why))
        }
    }
}

fn read_multipart<'a>(body: &'a mut dyn Read, boundary: &str) -> Result<RequestBody<'a>, Refusal> {
    let mut reader = Reader::new(body, boundary);
    let mut fields = Fields::new();
    loop {
        match reader.next()? {
            Part::Field { name, value } => {
                let value = operation::typed(&name, &value);
                if fields.insert(name.clone(), value).is_some() {
                    let why = format!(
                        "reading the form: the field '{}' comes twice",
                        name.escape_debug()
                    );
                    return Err(bad(why));
                }
            }
            Part::File { .. } => {
                return Ok(RequestBody {
                    fields,
                    payload: Some(PayloadSource::Part(Box::new(reader))),
                    payload_least: 0,
                });
            }
            Part::End => return with_base64(fields),
        }
    }
}

fn read_json<'a>(body: &mut dyn Read, max: u64) -> Result<RequestBody<'a>, Refusal> {
    let mut text = Vec::new();
    let read = body.take(max.saturating_add(1)).read_to_end(&mut text);
    read.map_err(|error| Refusal::new(Code::UploadBroken, format!("reading the body: {error}")))?;
    if text.len() as u64 > max {
        return Err(too_large(max));
    }
    let value: Value = serde_json::from_slice(&text).map_err(|error| {
        bad(format!(
            "Body is not valid JSON but content-type is set to 'application/json': {error}"
        ))
    })?;
    match value {
        Value::Object(fields) if !fields.is_empty() => with_base64(fields),
        _ => Err(bad("Invalid JSON.")),
    }
}

/// Takes the payload from among the fields, if it is there.
fn with_base64<'a>(mut fields: Fields) -> Result<RequestBody<'a>, Refusal> {
    let payload = match fields.remove("payload") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(PayloadSource::Base64(Box::new(DecoderReader::new(
            Cursor::new(text),
            &STANDARD,
        )))),
        Some(_) => return Err(bad("'payload' must be a base64 string")),
    };
    Ok(RequestBody {
        fields,
        payload,
        payload_least: 0,
    })
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

fn too_large(max: u64) -> Refusal {
    let why = format!(
        "reading the body: JSON over {max} bytes; send the payload as multipart/form-data instead"
    );
    Refusal::new(Code::TooLarge, why)
}

/// The payload's bytes, up to a proper end of the request: after the last one it makes sure that the form ends there too.
pub(super) struct Bytes<'a> {
    payload: PayloadSource<'a>,
    stop: Stop,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(payload: PayloadSource<'a>, stop: Stop) -> Bytes<'a> {
        Bytes { payload, stop }
    }
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.stopped() {
            return Err(io::Error::other(Refusal::new(
                Code::Cancelled,
                "receiving the payload: stopped",
            )));
        }
        match &mut self.payload {
            PayloadSource::Base64(decoder) => decoder.read(buffer).map_err(|error| {
                io::Error::other(bad(format!(
                    "reading the payload: it is not base64: {error}"
                )))
            }),
            PayloadSource::Part(reader) => match reader.read(buffer)? {
                0 if !buffer.is_empty() => match reader.next() {
                    // Anything but the end is refused by the reader itself.
                    Ok(_) => Ok(0),
                    Err(refusal) => Err(io::Error::other(refusal)),
                },
                read => Ok(read),
            },
        }
    }
}
