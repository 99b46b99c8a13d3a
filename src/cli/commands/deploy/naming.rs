//! The component's name: as it was given, else as its manifest says, else the directory's own.

use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::cli::config::manifest::DirectoryManifest;

pub(super) fn project(dir: &Path, given: Option<&str>) -> Result<Project, Error> {
    let doing = || format!("deploying {}", dir.display());
    let canonical = dir.canonicalize().doing(doing)?;
    let is_file = canonical.is_file();
    if !canonical.is_dir() && !is_file {
        return Err(Error::new(doing(), "neither a directory nor an archive"));
    }
    // An archive belongs to the component of the working directory, or it is called like its own.
    let place = match is_file {
        true => Path::new("."),
        false => &canonical,
    };
    let manifest = match given {
        Some(_) if is_file => None,
        _ => DirectoryManifest::of(place)?.project,
    };
    let (name, from) = match (given, manifest) {
        (Some(name), _) => (name.to_owned(), "it was given"),
        (None, Some(name)) => (name, "gangplank.json says so"),
        (None, None) if is_file => {
            let name = canonical.file_name().unwrap_or_default();
            let name = without_version(&name.to_string_lossy()).to_owned();
            (name, "the archive is called so")
        }
        (None, None) => {
            let name = canonical.file_name().unwrap_or_default();
            (
                name.to_string_lossy().into_owned(),
                "the directory is called so",
            )
        }
    };
    name.parse().map_err(|_| {
        let why = format!(
            "{name:?} ({from}) is not a valid project name: letters, digits, '-' and '_', at most 63, the first one a \
             letter or a digit; name one with --project NAME"
        );
        Error::new(doing(), why)
    })
}

/// The name of an archive without its extensions, and without the version that npm and others put behind it.
fn without_version(name: &str) -> &str {
    let mut ends = [".tgz", ".tar.gz", ".tar.lz4", ".tar"].iter();
    let name = ends.find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let is_version = |text: &str| {
        let text = text.strip_prefix('v').unwrap_or(text);
        text.contains('.') && text.starts_with(|sign: char| sign.is_ascii_digit())
    };
    let mut signs = name.match_indices(['-', '_']);
    let version = signs.find(|(at, _)| is_version(&name[at + 1..]));
    version.map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_archive_is_called_like_its_component() {
        let table = [
            ("my-app.tgz", "my-app"),
            ("my-app-1.2.3.tgz", "my-app"),
            ("my_app_v1.2.tar.gz", "my_app"),
            ("my-app-3.0.tar.lz4", "my-app"),
            ("my-app-1.2.3-rc.1.tar", "my-app"),
            ("app-2.tar", "app-2"),
            ("app", "app"),
        ];
        for (name, expected) in table {
            assert_eq!(without_version(name), expected, "{name}");
        }
    }

    #[test]
    fn the_component_has_a_name() {
        let root = std::env::temp_dir().join(format!("gangplank-name-{}", std::process::id()));
        let (good, bad) = (root.join("my-app"), root.join("my.app"));
        fs::create_dir_all(&good).unwrap();
        fs::create_dir_all(&bad).unwrap();
        let name = |dir: &Path, given| project(dir, given).map(|name| name.to_string());
        let refused = |dir: &Path, given| name(dir, given).unwrap_err().to_string();
        assert_eq!(name(&good, None).unwrap(), "my-app");
        assert_eq!(name(&good.join("../my-app/."), None).unwrap(), "my-app");
        assert_eq!(name(&bad, Some("x")).unwrap(), "x");
        assert!(refused(&bad, None).contains("--project"));
        assert!(refused(&good, Some("a b")).contains("--project"));
        assert!(refused(Path::new("/"), None).contains("--project"));
        assert!(refused(&root.join("none"), Some("x")).contains("none"));
        fs::write(good.join("gangplank.json"), r#"{"project":"other"}"#).unwrap();
        assert_eq!(name(&good, None).unwrap(), "other");
        assert_eq!(name(&good, Some("x")).unwrap(), "x");
        for (text, why) in [
            ("{", "gangplank.json"),
            (r#"{"project":1}"#, "not a string"),
            (r#"{"project":"a.b"}"#, "--project"),
        ] {
            fs::write(good.join("gangplank.json"), text).unwrap();
            assert!(refused(&good, None).contains(why), "{text}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
