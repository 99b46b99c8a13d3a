//! Unix sockets: only their owner may open them, and a stale one does not keep a server from starting.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::store::check_socket_path;

/// Listens on a path. A socket there that nobody answers is of a server that is gone, and is replaced.
///
/// # Errors
/// When the path is too long, somebody answers there, or it is not a socket.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    let what = || format!("listening on unix:{}", path.display());
    check_socket_path(path)?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(what(), "there is something else than a socket"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::from(io::ErrorKind::AddrInUse)).doing(what);
        }
        Ok(_) => fs::remove_file(path).doing(what)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).doing(what)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).doing(what)?;
    Ok(listener)
}
