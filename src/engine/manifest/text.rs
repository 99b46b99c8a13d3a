//! Reading a small text file, and saying where in it something is wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::error::{Code, Refusal};
use crate::api::json;
use crate::system::files::{if_there, open_at_once, open_beneath, read_up_to};
use crate::system::nearest::nearest;

/// A file's text and the name that messages call it by.
pub(crate) struct Text {
    name: String,
    text: String,
}

/// Reads a file of a release; nothing if it is missing. What the release's own commands have put there may lead elsewhere,
/// to what only the server may read: such a link is refused.
pub(crate) fn read_inside(
    release: &Path,
    name: &str,
    len_max: u64,
) -> Result<Option<Text>, Refusal> {
    let opened = open_beneath(release, name).map_err(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => io::Error::other("it leads out of the release"),
        _ => error,
    });
    read_opened(opened, name, len_max)
}

/// Reads a file of the operator's; nothing if it is missing.
pub(crate) fn read(path: &Path, name: &str, len_max: u64) -> Result<Option<Text>, Refusal> {
    read_opened(open_at_once(path), name, len_max)
}

/// Reads a regular file of at most so many bytes.
fn read_opened(
    opened: io::Result<File>,
    name: &str,
    len_max: u64,
) -> Result<Option<Text>, Refusal> {
    let refused = |why: String| Refusal::new(Code::LoadFailed, format!("reading {name}: {why}"));
    let opened = if_there(opened).map_err(|error| refused(error.to_string()))?;
    let Some(file) = opened else {
        return Ok(None);
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(refused("it is not a regular file".into()));
    }
    let mut bytes = read_up_to(file, len_max)
        .map_err(|error| refused(error.to_string()))?
        .ok_or_else(|| refused(format!("it is longer than {len_max} bytes")))?;
    // Some editors begin a file with a byte order mark.
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = line_of(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        refused(format!("line {line}: it is not UTF-8"))
    })?;
    // No command and no environment can hold one.
    if let Some((before, _)) = text.split_once('\0') {
        let line = line_of(before.as_bytes());
        return Err(refused(format!("line {line}: it holds a NUL")));
    }
    Ok(Some(Text {
        name: name.to_owned(),
        text,
    }))
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Text {
    /// The lines that are neither blank nor a comment, trimmed, with their numbers.
    pub(crate) fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }

    /// A refusal of this file at a line.
    pub(crate) fn refused(&self, line: usize, why: &str) -> Refusal {
        Refusal::new(
            Code::LoadFailed,
            format!("reading {}: line {line}: {why}", self.name),
        )
    }

    /// A refusal for what serde_json says of the part of the text that begins after so many lines.
    pub(crate) fn refused_json(&self, error: &serde_json::Error, lines_before: usize) -> Refusal {
        let why = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let why = why.strip_suffix(&place).unwrap_or(&why);
        let line = lines_before + error.line().max(1);
        match meant(why) {
            Some(meant) => self.refused(line, &format!("{why}; did you mean `{meant}`?")),
            None => self.refused(line, why),
        }
    }

    /// The members of an object that is a part of this text, unread. Of several with one key the last counts.
    pub(crate) fn object<'a>(
        &self,
        part: &'a str,
    ) -> Result<BTreeMap<String, &'a RawValue>, Refusal> {
        json::from_text(part).map_err(|error| self.refused_json(&error, self.lines_before(part)))
    }

    /// Reads a member; `null` is none. `why` says what it must be.
    pub(crate) fn value<'a, T: Deserialize<'a>>(
        &self,
        raw: &'a RawValue,
        why: &str,
    ) -> Result<Option<T>, Refusal> {
        json::from_text(raw.get()).map_err(|error| {
            let line = self.lines_before(raw.get()) + error.line().max(1);
            self.refused(line, why)
        })
    }

    /// How many lines end before a part of this text.
    fn lines_before(&self, part: &str) -> usize {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.text
            .as_bytes()
            .get(..offset)
            .map_or(0, |before| line_of(before) - 1)
    }
}

/// The field that was meant, by what serde says of an unknown one: that, and those that there are, stand in backquotes.
fn meant(why: &str) -> Option<&str> {
    let mut names = why.strip_prefix("unknown field `")?.split('`').step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names)
}

/// The line that comes after some text, from 1.
fn line_of(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
