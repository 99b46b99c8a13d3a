//! What the gate and the HTTP server behind it tell each other: private header fields, on the private socket only.
//!
//! A client cannot set them: the gate drops every field whose name begins like theirs, in both directions.

/// How every private field's name begins.
const PREFIX: &str = "Gangplank-Gate-";

/// The client's address, by the socket's word; absent for a unix socket.
pub const PEER: &str = "Gangplank-Gate-Peer";
/// The kind of listener that the client came by: [`LOCAL`] or [`REMOTE`].
pub const LISTENER: &str = "Gangplank-Gate-Listener";
/// The number of the connection, by which its upload can be cut off.
pub const CONNECTION: &str = "Gangplank-Gate-Connection";
/// The length of the body that the client declared, as digits; absent if it declared none.
pub const LENGTH: &str = "Gangplank-Gate-Length";
/// In an answer: it is an event stream to somebody who only watches, and who counts as a watcher.
pub const WATCHER: &str = "Gangplank-Gate-Watcher";

/// A unix socket, which only its owner can open.
pub const LOCAL: &str = "local";
/// A TCP socket.
pub const REMOTE: &str = "remote";

/// Whether a field is one that only the gate and the server may send.
pub fn is_private(name: &str) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names() {
        for name in [
            PEER,
            LISTENER,
            CONNECTION,
            LENGTH,
            WATCHER,
            "gangplank-gate-x",
        ] {
            assert!(is_private(name), "{name}");
        }
        for name in [
            "",
            "Gangplank",
            "Gangplank-Project",
            "X-Gangplank-Gate-Peer",
            "ä",
        ] {
            assert!(!is_private(name), "{name}");
        }
    }
}
