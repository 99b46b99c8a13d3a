//! Faults that are known and not mended yet. It only shrinks.

/// Parts of the lines that tell them.
const KNOWN: &[&str] = &[
    // A drop that cannot unlink what is live, or cannot make that durable, has stopped its processes by then.
    "drop:fsync:EIO",
];

pub(super) fn is_known(line: &str) -> bool {
    KNOWN.iter().any(|known| line.contains(known))
}
