//! Faults that are known and not mended yet. It only shrinks.

/// Parts of the lines that tell them.
const KNOWN: &[&str] = &[
    // After the rename an error removes the live release.
    "fsync /components |",
    // Who cannot write the end of a deployment leaves it running, in lists and in its record.
    "fdatasync /deployments/ID/events.ndjson |",
    "fsync /deployments/ID/record.json.new |",
    // A record that cannot be written fails a phase, after the switch too.
    "rename /deployments/ID/record.json |",
];

pub(super) fn is_known(line: &str) -> bool {
    KNOWN.iter().any(|known| line.contains(known))
}
