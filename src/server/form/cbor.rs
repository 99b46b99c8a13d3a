//! A body of CBOR, as Harper's clients before 5.1 send it: the payload is bytes, and may come before the name of its component.

use std::fs::File;
use std::io::Read;

use serde_json::Value;

use crate::api::error::Refusal;
use crate::api::operation::{self, Fields};
use crate::engine::deployer::Deployer;
use crate::formats::archive;
use crate::formats::cbor::{MapMember, MapReader};
use crate::server::form::{PayloadSource, RequestBody, bad, check_name};

/// Reads a body up to its payload, or to its end if the payload comes before what it is for.
pub(super) fn read<'a>(
    body: &'a mut dyn Read,
    deployer: &Deployer,
    max_payload: Option<u64>,
    admit: &mut dyn FnMut(&str) -> Result<(), Refusal>,
) -> Result<RequestBody<'a>, Refusal> {
    let mut reader = MapReader::new(body)?;
    let mut fields = Fields::new();
    let mut kept: Option<(File, u64)> = None;
    while let Some(member) = reader.next()? {
        match member {
            MapMember::Field { name, value } => field(&mut fields, name, value, admit)?,
            MapMember::Payload { len } => {
                if !fields.contains_key("operation") {
                    return Err(bad(
                        "reading the CBOR body: the operation comes after the payload",
                    ));
                }
                let least = len.unwrap_or(0);
                archive::fits(max_payload, least)?;
                if fields.contains_key("project") {
                    return Ok(RequestBody {
                        fields,
                        payload: Some(PayloadSource::Cbor(Box::new(reader))),
                        payload_least: least,
                    });
                }
                kept = Some(deployer.keep_for_later(&mut reader, least)?);
            }
        }
    }
    Ok(RequestBody {
        fields,
        payload_least: kept.as_ref().map_or(0, |(_, len)| *len),
        payload: kept.map(|(file, _)| PayloadSource::Kept(file)),
    })
}

fn field(
    fields: &mut Fields,
    name: String,
    value: Value,
    admit: &mut dyn FnMut(&str) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    check_name(&name)?;
    if let ("operation", Some(operation)) = (&*name, value.as_str()) {
        admit(operation)?;
    }
    if name == "payload" && !value.is_null() {
        return Err(bad("'payload' must be a byte string in a body of CBOR"));
    }
    // What nobody reads is not kept, but for its name.
    let value = match operation::is_known(&name) {
        true => value,
        false => Value::Null,
    };
    if fields.insert(name.clone(), value).is_some() {
        let why = format!(
            "reading the CBOR body: the member '{}' comes twice",
            name.escape_debug()
        );
        return Err(bad(why));
    }
    Ok(())
}

/// Makes sure that nothing of weight follows a payload that was received as it came. Harper's clients have a member there that
/// means nothing to us.
pub(super) fn end(reader: &mut MapReader<&mut dyn Read>) -> Result<(), Refusal> {
    while let Some(member) = reader.next()? {
        match member {
            MapMember::Field { name, value } if operation::is_known(&name) && !value.is_null() => {
                let why = format!(
                    "reading the CBOR body: the member '{name}' follows the payload; send it before"
                );
                return Err(bad(why));
            }
            _ => {}
        }
    }
    Ok(())
}
