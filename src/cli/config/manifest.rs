//! What a directory's `gangplank.json` says to the client. The rest of it is for the server.

use std::io;
use std::path::Path;

use serde_json::Value;

use crate::api::error::{Doing, Error};
use crate::system::files::{open_at_once, read_up_to};

/// The component's own settings.
const FILE: &str = "gangplank.json";

/// A file that is longer is something else.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The client's part of `gangplank.json`. Nobody has looked yet whether a name is one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryManifest {
    /// `project`
    pub(crate) project: Option<String>,
    /// `target`
    pub(crate) target: Option<String>,
}

impl DirectoryManifest {
    /// Reads it; nothing is said where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(crate) fn of(dir: &Path) -> Result<DirectoryManifest, Error> {
        let path = dir.join(FILE);
        let shown = path.strip_prefix(".").unwrap_or(&path).display();
        let doing = || format!("reading {shown}");
        let file = match open_at_once(&path) {
            Ok(file) => file,
            // Neither does a file have one that is deployed as it is.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(DirectoryManifest::default());
            }
            Err(error) => return Err(Error::new(doing(), error)),
        };
        let text = read_up_to(file, FILE_LEN_MAX)
            .doing(doing)?
            .ok_or_else(|| Error::new(doing(), "it is over 1 MiB"))?;
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
        let manifest: Value = serde_json::from_slice(text).doing(doing)?;
        let member = |key: &str| match manifest.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::new(doing(), format!("'{key}' is not a string"))),
        };
        Ok(DirectoryManifest {
            project: member("project")?,
            target: member("target")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_says_its_component_and_its_target() {
        let dir = std::env::temp_dir().join(format!("gangplank-manifest-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("gangplank.json");
        let none = DirectoryManifest::default();
        assert_eq!(DirectoryManifest::of(&dir).unwrap(), none);
        let table = [
            (r#"{"check": "make"}"#, Ok((None, None))),
            (r#"{"project": null}"#, Ok((None, None))),
            (
                "\u{feff}{\"project\": \"a\", \"target\": \"prod\"}",
                Ok((Some("a"), Some("prod"))),
            ),
            (r#"{"project": 1}"#, Err("'project' is not a string")),
            (r#"{"target": []}"#, Err("'target' is not a string")),
            ("{", Err("line 1 column 1")),
        ];
        for (text, expected) in table {
            fs::write(&file, text).unwrap();
            match (DirectoryManifest::of(&dir), expected) {
                (Ok(read), Ok((project, target))) => {
                    assert_eq!(read.project.as_deref(), project, "{text}");
                    assert_eq!(read.target.as_deref(), target, "{text}");
                }
                (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
        // What is not a directory has none.
        assert_eq!(DirectoryManifest::of(&file).unwrap(), none);
        fs::write(&file, " ".repeat(2 << 20)).unwrap();
        assert!(DirectoryManifest::of(&dir).is_err());
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(DirectoryManifest::of(&dir).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
