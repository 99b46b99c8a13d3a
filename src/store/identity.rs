//! The id of a root, `ROOT/id`: it stays when the root is moved or mounted elsewhere, so that what an earlier server left
//! running is found. A copy of a root gets an id of its own, so that its server does not end what the first one runs.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::system::files::{self, Durability};
use crate::system::hex;
use crate::system::log;

/// Hex digits of an id: 128 random bits.
const DIGITS: usize = 32;

/// What the file says.
struct RootIdentity {
    id: String,
    /// Where the root was when that was written.
    path: PathBuf,
}

/// The id of the root at this canonical path, which is written down if it is new. Where that is not possible, as on a full
/// disk, the path has to do for this time.
pub(super) fn of(root: &Path) -> OsString {
    let file = root.join("id");
    let known = read(&file).filter(|known| known.path == root || !is_copy(&file, known));
    let id = match known {
        Some(known) if known.path == root => return known.id.into(),
        Some(moved) => Some(moved.id),
        None => None,
    };
    let fresh = id.clone().map_or_else(fresh, Ok);
    let written = fresh.and_then(|id| write(&file, &id, root).map(|()| id));
    match (written, id) {
        (Ok(id), _) => id.into(),
        (Err(error), id) => {
            log::warn(&format!("writing {}: {error}", file.display()));
            id.map_or_else(|| root.as_os_str().to_owned(), OsString::from)
        }
    }
}

/// Whether the root that has this file was copied from another one, which is still where it was.
fn is_copy(file: &Path, known: &RootIdentity) -> bool {
    let there = known.path.join("id");
    let place = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (read(&there), place(&there), place(file)) {
        (Some(first), Ok(there), Ok(here)) => first.id == known.id && there != here,
        _ => false,
    }
}

fn read(file: &Path) -> Option<RootIdentity> {
    let text = fs::read(file).ok()?;
    let text = text.strip_suffix(b"\n")?;
    let (id, path) = text.split_at_checked(DIGITS)?;
    let id = String::from_utf8(id.to_vec()).ok()?;
    let path = OsString::from_vec(path.strip_prefix(b"\n")?.to_vec());
    let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| RootIdentity {
        id,
        path: path.into(),
    })
}

fn write(file: &Path, id: &str, root: &Path) -> io::Result<()> {
    let text = [id.as_bytes(), b"\n", root.as_os_str().as_bytes(), b"\n"].concat();
    files::replace(file, &text, 0o600, Durability::PowerLoss)
}

/// A name that nobody else has: 128 random bits in hex.
pub(super) fn fresh() -> io::Result<String> {
    let mut random = [0; DIGITS / 2];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::root::tests::Root;

    #[test]
    fn an_id_moves_with_its_root_and_is_not_copied() {
        let (first, second) = (Root::new("id-first"), Root::new("id-second"));
        for root in [&first, &second] {
            fs::create_dir_all(&root.0).unwrap();
        }
        let id = of(&first.0);
        assert_eq!((id.len(), of(&first.0)), (DIGITS, id.clone()));
        // A copy, while the first one is there.
        fs::copy(first.0.join("id"), second.0.join("id")).unwrap();
        let copy = of(&second.0);
        assert_ne!(copy, id);
        assert_eq!((of(&second.0), of(&first.0)), (copy, id.clone()));
        // Moved.
        fs::rename(first.0.join("id"), second.0.join("id")).unwrap();
        assert_eq!(of(&second.0), id);
        // Mounted there as well: the same file at both paths.
        std::os::unix::fs::symlink(second.0.join("id"), first.0.join("id")).unwrap();
        assert_eq!(of(&first.0), id);
        fs::write(second.0.join("id"), "half").unwrap();
        assert_ne!(of(&second.0), id);
    }
}
