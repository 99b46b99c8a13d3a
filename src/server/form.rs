//! A request's body: its fields, and the payload behind them.
//!
//! Who may ask for the operation is looked at as soon as its name is there: somebody who may not does not get to send more.

mod cbor;
mod json;

use std::fs::File;
use std::io::{self, Cursor, Read};

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use serde_json::Value;

use crate::api::error::{Code, Refusal};
use crate::api::operation::{self, Fields, Operation};
use crate::engine::deployer::Deployer;
use crate::formats::archive;
use crate::formats::cbor::MapReader;
use crate::formats::multipart::{self, Part, Reader};
use crate::server::auth::Caller;
use crate::server::http::Exchange;
use crate::system::stop::Stop;

/// A request, read up to its payload.
pub(super) struct RequestBody<'a> {
    pub(super) fields: Fields,
    pub(super) payload: Option<PayloadSource<'a>>,
    /// How many bytes the payload has at least, by the length that was declared for the whole.
    pub(super) payload_least: u64,
}

impl RequestBody<'_> {
    /// The operation that is asked for. A form's fields behind its file are not known by now, as the file may be refused
    /// by those before it, so a refusal says where they have to be.
    pub(super) fn parse(&self) -> Result<Operation, Refusal> {
        Operation::parse(&self.fields).map_err(|mut refusal| {
            if matches!(self.payload, Some(PayloadSource::Part(_))) {
                refusal.message += " (the fields of a form come before its file)";
            }
            refusal
        })
    }
}

/// What may follow a form's last boundary, which nobody reads, and a payload is not refused for.
const EPILOGUE_MAX: u64 = 1 << 10;
/// Names that mean something to every object of JavaScript, so that no client sends them and means well.
const FORBIDDEN_NAMES: [&str; 3] = ["__proto__", "constructor", "prototype"];
/// Takes base64 with and without the signs at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A payload that is still to be read.
pub(super) enum PayloadSource<'a> {
    /// In the body, where the reader stands.
    Part(Box<Reader<&'a mut dyn Read>>),
    /// In a body of CBOR, where the reader stands.
    Cbor(Box<MapReader<&'a mut dyn Read>>),
    /// It came before it was known whose it is.
    Kept(File),
    /// It came as base64 among the fields.
    Base64(Box<DecoderReader<'static, GeneralPurpose, Base64Text>>),
}

/// The limits of a body.
pub(super) struct BodyLimits<'a> {
    pub(super) deployer: &'a Deployer,
    pub(super) max_json_body: u64,
    pub(super) max_payload: Option<u64>,
}

/// Reads a body up to its payload. One that cannot but be too large is refused unread. The name of the operation is put
/// down as soon as it is known, for the log.
pub(super) fn read<'a>(
    exchange: &'a mut Exchange,
    limits: &BodyLimits<'_>,
    caller: &Caller,
    operation: &mut String,
) -> Result<RequestBody<'a>, Refusal> {
    let declared = exchange.declared_length();
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
    let mut admit = |name: &str| {
        *operation = name.chars().take(40).collect();
        caller.may_ask(name)
    };
    match essence.as_str() {
        "multipart/form-data" => {
            let boundary = multipart::boundary(&media)?;
            let declared = declared.unwrap_or(0);
            let max_payload = limits.max_payload;
            archive::fits(
                max_payload,
                declared.saturating_sub(multipart::FIELDS_LEN_MAX),
            )?;
            let mut request = read_multipart(exchange.body(), &boundary, &mut admit)?;
            if let Some(PayloadSource::Part(reader)) = &request.payload {
                let around = reader.position() + boundary.len() as u64 + EPILOGUE_MAX;
                request.payload_least = declared.saturating_sub(around);
            }
            archive::fits(max_payload, request.payload_least)?;
            Ok(request)
        }
        "application/json" => {
            let max = limits.max_json_body;
            // Whoever says so beforehand need not send it.
            if declared.is_some_and(|declared| declared > max) {
                return Err(json::too_large(max));
            }
            let body = json::JsonBody {
                max,
                declared,
                small: caller.only_looks(),
            };
            body.read(exchange.body(), &mut admit)
        }
        "application/cbor" => {
            let (deployer, max) = (limits.deployer, limits.max_payload);
            cbor::read(exchange.body(), deployer, max, &mut admit)
        }
        _ => {
            let why = "Unsupported Media Type: send multipart/form-data, application/json or application/cbor";
            Err(Refusal::new(Code::UnsupportedMedia, why))
        }
    }
}

fn read_multipart<'a>(
    body: &'a mut dyn Read,
    boundary: &str,
    admit: &mut dyn FnMut(&str) -> Result<(), Refusal>,
) -> Result<RequestBody<'a>, Refusal> {
    let mut reader = Reader::new(body, boundary);
    let mut fields = Fields::new();
    loop {
        match reader.next()? {
            Part::Field { name, value } => {
                check_name(&name)?;
                if name == "operation" {
                    admit(&value)?;
                }
                // What nobody reads is not kept, but for its name.
                let value = match operation::is_known(&name) {
                    true => operation::typed(&name, &value),
                    false => Value::Null,
                };
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
            Part::End => {
                let payload = match fields.remove("payload") {
                    None | Some(Value::Null) => None,
                    Some(Value::String(text)) => Some(Base64Text::whole(text.into_bytes())),
                    Some(_) => return Err(bad("'payload' must be a base64 string")),
                };
                return Ok(with_base64(fields, payload));
            }
        }
    }
}

/// Refuses a name that no field may have.
fn check_name(name: &str) -> Result<(), Refusal> {
    if FORBIDDEN_NAMES.contains(&name) {
        let why = format!("reading the fields: the field '{name}' is not allowed");
        return Err(bad(why));
    }
    Ok(())
}

fn with_base64<'a>(fields: Fields, payload: Option<Base64Text>) -> RequestBody<'a> {
    let decoder = |text| PayloadSource::Base64(Box::new(DecoderReader::new(text, &BASE64)));
    RequestBody {
        fields,
        payload: payload.map(decoder),
        payload_least: 0,
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

/// Base64 as it is written: with line breaks or without, in the usual alphabet or in that for URLs. It gives the usual one
/// without line breaks.
pub(super) struct Base64Text {
    text: Cursor<Vec<u8>>,
    end: usize,
}

impl Base64Text {
    /// All of a text.
    fn whole(text: Vec<u8>) -> Base64Text {
        let end = text.len();
        Base64Text::part(text, 0, end)
    }

    /// A part of a text, which is not copied for it.
    fn part(text: Vec<u8>, begin: usize, end: usize) -> Base64Text {
        let mut text = Cursor::new(text);
        text.set_position(begin as u64);
        Base64Text { text, end }
    }
}

impl Read for Base64Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(self.text.position()).map_err(io::Error::other)?;
        let rest = self.text.get_ref().get(at..self.end).unwrap_or_default();
        let (mut taken, mut given) = (0, 0);
        for byte in rest {
            let plain = match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            };
            if !byte.is_ascii_whitespace() {
                let Some(place) = buffer.get_mut(given) else {
                    break;
                };
                *place = plain;
                given += 1;
            }
            taken += 1;
        }
        self.text.set_position((at + taken) as u64);
        Ok(given)
    }
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
            PayloadSource::Kept(file) => file.read(buffer),
            PayloadSource::Cbor(reader) => match reader.read(buffer)? {
                0 if !buffer.is_empty() => cbor::end(reader).map(|()| 0).map_err(io::Error::other),
                read => Ok(read),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_it_is_written() {
        let table = [
            ("", Some("")),
            ("aGVsbG8/Pz8+", Some("hello???>")),
            ("aGVsbG8_Pz8-", Some("hello???>")),
            ("aGVs\nbG8/\r\nPz8+\n", Some("hello???>")),
            ("aGVsbG8=", Some("hello")),
            ("aGVsbG8", Some("hello")),
            ("aGVsbG8=\n", Some("hello")),
            (" a G V s b G 8 ", Some("hello")),
            ("aGVsbG8*", None),
            ("aGVsb", None),
            ("aGVsbG8=aGVsbG8=", None),
        ];
        for (text, expected) in table {
            let mut found = String::new();
            let text_in = Base64Text::part(format!("..{text}..").into_bytes(), 2, 2 + text.len());
            let read = DecoderReader::new(text_in, &BASE64).read_to_string(&mut found);
            assert_eq!(read.ok().map(|_| found.as_str()), expected, "{text:?}");
        }
    }
}
