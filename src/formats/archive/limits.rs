//! What a payload may cost, and whose its tree is.

/// What a payload may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of a payload as it is received; `None`: any.
    pub max_payload: Option<u64>,
    /// The most entries, those included that are only implied by the paths of others.
    pub max_entries: u64,
    /// The free space of the disk never goes below this many bytes.
    pub min_free_disk: u64,
}

/// The user and the group that a tree is handed to.
pub type Owner = (u32, u32);
