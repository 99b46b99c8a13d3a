//! The one private field by which the gate and the HTTP server behind it tell connections apart.
//!
//! A client cannot set it: the gate drops every field whose name begins like its name.

/// How every private field's name begins.
const PREFIX: &str = "Gangplank-Gate-";

/// The number of the client's connection.
pub const CONNECTION: &str = "Gangplank-Gate-Connection";

/// Whether only the gate may send a field of this name.
pub fn is_private(name: &str) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names() {
        for name in [CONNECTION, "gangplank-gate-x"] {
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
