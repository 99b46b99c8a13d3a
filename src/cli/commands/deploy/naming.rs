//! The component's name: as it was given, else as its manifest says, else the directory's own.

use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::cli::config::manifest::DirectoryManifest;

pub(super) fn project(dir: &Path, given: Option<&str>) -> Result<Project, Error> {
    let doing = || format!("deploying {}", dir.display());
    let canonical = dir.canonicalize().doing(doing)?;
    if !canonical.is_dir() {
        return Err(Error::new(doing(), "not a directory"));
    }
    let (name, from) = match (given, DirectoryManifest::of(&canonical)?.project) {
        (Some(name), _) => (name.to_owned(), "it was given"),
        (None, Some(name)) => (name, "gangplank.json says so"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        assert!(refused(&good.join("gangplank.json"), None).contains("not a directory"));
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
