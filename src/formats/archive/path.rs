//! The names in an archive: which ones are taken, by their text alone.

use crate::api::error::{Code, Refusal};
use crate::formats::archive::tree::LONGEST_NAME;
use crate::formats::archive::visible;

/// The longest path and link target.
const LONGEST_PATH: usize = 1024;

/// The most components of a path: each is a directory to make and to go through.
const DEEPEST: usize = 64;

/// A path of the archive, taken apart.
pub(in crate::formats) struct Name {
    /// As the archive has it, fit for messages.
    pub(in crate::formats) shown: String,
    /// Without `.` and doubled or trailing slashes.
    pub(in crate::formats) path: Vec<u8>,
}

impl Name {
    pub(in crate::formats) fn refuse(&self, why: impl AsRef<str>) -> Refusal {
        bad(format!("'{}': {}", self.shown, why.as_ref()))
    }

    /// Its components; the root has none.
    pub(super) fn components(&self) -> impl Iterator<Item = &[u8]> {
        let components = self.path.split(|&byte| byte == b'/');
        components.filter(|component| !component.is_empty())
    }

    /// The root itself.
    pub(super) fn root() -> Name {
        Name {
            shown: ".".into(),
            path: Vec::new(),
        }
    }

    /// Judges a path by its text alone.
    pub(in crate::formats) fn parse(raw: &[u8]) -> Result<Name, Refusal> {
        let mut name = Name {
            shown: visible(raw),
            path: Vec::with_capacity(raw.len()),
        };
        let plain = is_plain(raw).map_err(|why| name.refuse(why))?;
        if plain {
            name.path.extend_from_slice(raw);
            return Ok(name);
        }
        for component in raw.split(|&byte| byte == b'/') {
            if matches!(component, b"" | b".") {
                continue;
            }
            if !name.path.is_empty() {
                name.path.push(b'/');
            }
            name.path.extend_from_slice(component);
        }
        Ok(name)
    }
}

/// Whether a path has neither `.` nor doubled or trailing slashes.
///
/// # Errors
/// Why it is not taken.
pub(in crate::formats) fn is_plain(raw: &[u8]) -> Result<bool, &'static str> {
    if let Some(why) = bad_text(raw) {
        return Err(why);
    }
    let (mut depth, mut plain) = (0, true);
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => plain = false,
            b".." => return Err("a path must not contain '..'"),
            _ if component.len() > LONGEST_NAME => {
                return Err("a part of the path is longer than 255 bytes");
            }
            _ => depth += 1,
        }
        if depth > DEEPEST {
            return Err("the path is deeper than 64 directories");
        }
    }
    Ok(plain)
}

/// What paths and link targets have in common.
pub(in crate::formats) fn bad_text(raw: &[u8]) -> Option<&'static str> {
    if raw.is_empty() {
        Some("it has no name")
    } else if raw.len() > LONGEST_PATH {
        Some("the name is longer than 1024 bytes")
    } else if raw.contains(&0) {
        Some("the name contains a NUL byte")
    } else if raw.contains(&b'\n') {
        Some("the name contains a newline")
    } else if raw[0] == b'/' {
        Some("the path is absolute")
    } else {
        None
    }
}

/// Whether a link at `path` stays inside by its text alone.
pub(super) fn stays(path: &[u8], target: &[u8]) -> bool {
    let mut depth = path.iter().filter(|&&byte| byte == b'/').count();
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// The refusal of an archive.
pub(super) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadArchive, message)
}
