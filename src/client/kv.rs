//! A store of keys and values that several hosts share, as six calls: [`KvStore`]. What is known of etcd ends here.
//!
//! Every change of the store has a revision, counted by the store. A reader lists a range at a revision and watches what
//! comes after it. A watch only wakes: who relies on it lists again from time to time.

#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::time::Duration;

use crossbeam_channel::Receiver;

/// The calls. None of them waits longer than some seconds.
pub(crate) trait KvStore: Send + Sync {
    /// What a range holds, all at one revision.
    fn list(&self, range: &KvRange) -> Result<KvListing, KvError>;

    /// What changes in any of these ranges after a revision. The first message of trouble is the last one.
    fn watch(&self, ranges: &[KvRange], after: i64) -> Result<KvWatch, KvError>;

    /// Does all writes at once if all comparisons hold, and else none.
    fn cas(&self, transaction: &KvTransaction) -> Result<CasOutcome, KvError>;

    /// Sets a key, which goes with the lease if one is named. Returns the revision.
    fn put(&self, key: &str, value: &[u8], lease: Option<&LeaseId>) -> Result<i64, KvError>;

    /// Grants a lease of so long, or begins the time of a granted one anew. [`KvTrouble::Gone`] if it has ended before.
    fn alive(&self, lease: Option<&LeaseId>, ttl: Duration) -> Result<LeaseId, KvError>;

    /// Removes what a range holds. Returns the revision.
    fn delete(&self, range: &KvRange) -> Result<i64, KvError>;
}

/// Keys from one on, up to another one which it does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvRange {
    /// The first key.
    pub(crate) from: String,
    /// The key behind the last one; none for the first key alone.
    pub(crate) end: Option<String>,
    /// At most so many keys; 0 for all.
    pub(crate) limit: u64,
}

impl KvRange {
    /// One key.
    pub(crate) fn key(key: impl Into<String>) -> KvRange {
        KvRange {
            from: key.into(),
            end: None,
            limit: 0,
        }
    }

    /// All keys that begin so. The prefix ends in an ASCII character below `~`, as `/` is.
    pub(crate) fn prefix(prefix: impl Into<String>) -> KvRange {
        let from = prefix.into();
        let mut end = from.clone();
        let next = end.pop().map_or('\u{1}', |last| char::from(last as u8 + 1));
        end.push(next);
        KvRange {
            from,
            end: Some(end),
            limit: 0,
        }
    }

    /// The same, but from this key on.
    #[must_use]
    pub(crate) fn starting(mut self, key: impl Into<String>) -> KvRange {
        self.from = key.into();
        self
    }

    /// The same, but at most so many keys.
    #[must_use]
    pub(crate) fn at_most(mut self, limit: u64) -> KvRange {
        self.limit = limit;
        self
    }

    /// Whether it holds a key.
    #[cfg(test)]
    pub(crate) fn holds(&self, key: &str) -> bool {
        match &self.end {
            Some(end) => key >= self.from.as_str() && key < end.as_str(),
            None => key == self.from,
        }
    }
}

/// The longest value that is kept: documents of a fleet are shorter. Of a longer one only so much is, so that who may write a
/// key cannot fill the memory of who reads it; what is cut off is not a document.
pub(crate) const VALUE_LEN_MAX: usize = 16 << 10;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvEntry {
    pub(crate) key: String,
    /// Its first [`VALUE_LEN_MAX`] bytes.
    pub(crate) value: Vec<u8>,
    /// The revision that made the key.
    pub(crate) created: i64,
    /// The revision that changed it last.
    pub(crate) modified: i64,
    /// The lease that it goes with.
    pub(crate) lease: Option<LeaseId>,
}

/// What a range held at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvListing {
    pub(crate) revision: i64,
    /// By key.
    pub(crate) entries: Vec<KvEntry>,
}

/// The name of a lease. It is a number of 63 bits, which JSON does not carry, so it stays text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub(crate) String);

/// What has to be true of a key for a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvCondition {
    /// There is no such key.
    Absent(String),
    /// This revision changed it last.
    Modified(String, i64),
    /// This revision made it.
    Created(String, i64),
}

impl KvCondition {
    /// The key.
    pub(crate) fn key(&self) -> &str {
        match self {
            KvCondition::Absent(key)
            | KvCondition::Modified(key, _)
            | KvCondition::Created(key, _) => key,
        }
    }
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvWrite {
    Put {
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    Delete(String),
}

/// Writes that are done together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KvTransaction {
    pub(crate) conditions: Vec<KvCondition>,
    pub(crate) writes: Vec<KvWrite>,
}

impl KvTransaction {
    /// Makes a key that goes with a lease, if there is none of its name.
    pub(crate) fn create(key: &str, value: Vec<u8>, lease: &LeaseId) -> KvTransaction {
        KvTransaction {
            conditions: vec![KvCondition::Absent(key.to_owned())],
            writes: vec![KvWrite::Put {
                key: key.to_owned(),
                value,
                lease: Some(lease.clone()),
            }],
        }
    }
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CasOutcome {
    /// All was written, in this revision.
    Won(i64),
    /// Nothing was written. What the compared keys hold, as far as they exist.
    Lost(Vec<KvEntry>),
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvChange {
    Put(KvEntry),
    Deleted { key: String, revision: i64 },
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvNews {
    /// The watch stands.
    Watching,
    /// This changed, in this order.
    Changes(Vec<KvChange>),
    /// Nothing changed up to this revision.
    Progress(i64),
}

/// A watch. Dropping it ends it.
pub(crate) struct KvWatch {
    /// What it tells; an error is the last message.
    pub(crate) news: Receiver<Result<KvNews, KvError>>,
    /// Ends what brings them when it is dropped.
    pub(crate) _guard: Box<dyn Send>,
}

impl fmt::Debug for KvWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KvWatch")
    }
}

/// What kind of trouble it is, which decides what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvTrouble {
    /// It was not done, and may be possible later: nobody answered, or there is no leader.
    Unavailable,
    /// It may have been done or not; reading tells.
    Unknown,
    /// The lease does not exist any longer.
    Gone,
    /// The revision is too old, and its history is not kept: list again.
    Compacted,
    /// The revision lies in the future: the store was put back to an older state. List again.
    Behind,
    /// Who asks may not do that.
    Denied,
    /// The store takes nothing more until somebody makes room.
    NoSpace,
    /// The answer is larger than one may be; a part of it can be asked for.
    TooLarge,
    /// The request or the answer is wrong, which no second try mends.
    Refused,
}

/// What went wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvError {
    pub(crate) trouble: KvTrouble,
    /// What was being done and why it failed.
    pub(crate) message: String,
}

impl KvError {
    /// An error of this kind.
    pub(crate) fn new(trouble: KvTrouble, message: impl Into<String>) -> KvError {
        KvError {
            trouble,
            message: message.into(),
        }
    }

    /// Whether watches end so from time to time: what they ask for is not kept, or nothing came.
    pub(crate) fn ends_watches(&self) -> bool {
        matches!(self.trouble, KvTrouble::Compacted | KvTrouble::Behind)
            || self.message.contains("nothing came")
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KvError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_it() {
        let range = KvRange::prefix("gangplank/desired/");
        assert_eq!(range.end.as_deref(), Some("gangplank/desired0"));
        for (key, held) in [
            ("gangplank/desired/app", true),
            ("gangplank/desired/", true),
            ("gangplank/desired", false),
            ("gangplank/desired0", false),
            ("gangplank/rollout/app", false),
        ] {
            assert_eq!(range.holds(key), held, "{key}");
        }
        let later = range.starting("gangplank/desired/b");
        assert!(later.holds("gangplank/desired/b") && !later.holds("gangplank/desired/a"));
        assert!(KvRange::key("a").holds("a") && !KvRange::key("a").holds("ab"));
    }
}
