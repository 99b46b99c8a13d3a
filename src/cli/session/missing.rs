//! What of a directory the server lacks, and how often it was wrong about that.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use serde_json::Value;

use crate::api::error::{Code, Doing, Error};
use crate::cli::screen::units;
use crate::cli::session::reading::TreeReading;
use crate::client::cache::TreeCache;
use crate::client::{NoResult, answer};
use crate::formats::archive::{DeployedTree, PackPlan, ScannedTree, Selection};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::DeltaHead;
use crate::formats::sse::SseRecord;

/// A smaller tree is sent whole: the question takes as long.
const WORTH_IT: u64 = 1 << 20;

/// What is known of a directory that is sent, over all tries.
pub(crate) struct DeltaUpload {
    plan: Arc<PackPlan>,
    /// Where is kept what it held when it was deployed last.
    cache: Option<TreeCache>,
    kept: Option<DeployedTree>,
    /// What is kept says which files need not be read.
    trusts: bool,
    /// What it holds, once that was read.
    tree: OnceCell<Arc<ScannedTree>>,
    /// It is being read beside what is sent.
    reading: Cell<Option<TreeReading>>,
    /// What the next try goes by.
    by: Cell<TriedBy>,
    /// The bytes of lists that were sent.
    listed: Cell<u64>,
    /// The server takes lz4, as it said last.
    lz4: Cell<bool>,
}

/// What says what the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TriedBy {
    /// It had the tree that was deployed last.
    Kept,
    /// That was tried just now.
    KeptOnce,
    /// It is asked.
    Asking,
    /// It is asked, and looks more closely.
    Verifying,
    /// Nobody: everything is sent.
    Nothing,
}

/// What of a tree is to be sent.
pub(crate) struct Missing {
    pub(crate) tree: Arc<ScannedTree>,
    pub(crate) head: DeltaHead,
    pub(crate) wanted: Ranges,
    /// The bytes of it.
    pub(crate) bytes: u64,
    /// The bytes that were sent to find it out.
    pub(crate) asked: u64,
    /// What is said of the rest, if there is one.
    pub(crate) reused: Option<String>,
}

impl DeltaUpload {
    /// None if everything is to be sent. `cache` is where is kept what was deployed last, which is `kept`; with `rehash`
    /// every file is read all the same.
    pub(crate) fn new(
        plan: &Arc<PackPlan>,
        full: bool,
        (cache, kept): (Option<TreeCache>, Option<DeployedTree>),
        rehash: bool,
    ) -> Option<DeltaUpload> {
        let worth_it = !full && plan.total() >= WORTH_IT;
        worth_it.then(|| DeltaUpload {
            plan: Arc::clone(plan),
            cache,
            kept,
            trusts: !rehash,
            tree: OnceCell::new(),
            reading: Cell::new(None),
            by: Cell::new(TriedBy::Kept),
            listed: Cell::new(0),
            lz4: Cell::new(false),
        })
    }

    pub(crate) fn plan(&self) -> Arc<PackPlan> {
        Arc::clone(&self.plan)
    }

    /// What it held when it was deployed last.
    pub(crate) fn kept(&self) -> Option<&DeployedTree> {
        self.kept.as_ref()
    }

    /// Whether something is kept, and the next try goes by it.
    pub(crate) fn has_kept(&self) -> bool {
        self.kept.is_some() && self.by.get() == TriedBy::Kept
    }

    /// Whether somebody will use again what is kept: not where each run begins with an empty disk.
    pub(crate) fn is_to_be_kept(&self) -> bool {
        self.cache.is_some() && std::env::var_os("CI").is_none()
    }

    pub(crate) fn trusts(&self) -> bool {
        self.trusts
    }

    /// What it holds, once that was read.
    pub(crate) fn tree(&self) -> Option<Arc<ScannedTree>> {
        self.tree.get().cloned()
    }

    /// It holds this.
    pub(crate) fn keep(&self, tree: ScannedTree) -> Arc<ScannedTree> {
        Arc::clone(self.tree.get_or_init(|| Arc::new(tree)))
    }

    /// Begins to read it beside what is sent, for the next deployment. Where that cannot be, it is read once it is sent.
    pub(crate) fn read_beside(&self) {
        let running = self.reading.take();
        let reading = running.or_else(|| TreeReading::begin(self.plan()).ok());
        self.reading.set(reading);
    }

    /// The reading that was begun.
    pub(crate) fn reading(&self) -> Option<TreeReading> {
        self.reading.take()
    }

    /// The bytes of lists that were sent.
    pub(crate) fn listed(&self) -> &Cell<u64> {
        &self.listed
    }

    /// The server has answered what it takes.
    pub(crate) fn answered(&self, answer: &Value) {
        let accepts = answer["accepts"].as_array();
        self.lz4
            .set(accepts.is_some_and(|words| words.iter().any(|word| word == "lz4")));
    }

    /// Whether the server takes lz4.
    pub(crate) fn takes_lz4(&self) -> bool {
        self.lz4.get()
    }

    /// Whether it is to be tried by what was kept, if that is `known`: once, for what an upload brings that is cut the
    /// server tells.
    pub(crate) fn tries_kept(&self, known: bool) -> bool {
        let by = self.by.get();
        let begun = |cache: &TreeCache| cache.is_begun();
        let tries = known && by == TriedBy::Kept && !self.cache.as_ref().is_some_and(begun);
        self.by.set(match by {
            TriedBy::Kept if tries => TriedBy::KeptOnce,
            TriedBy::Kept | TriedBy::KeptOnce => TriedBy::Asking,
            by => by,
        });
        tries
    }

    /// So many bytes are about to be sent by what was kept: if that is cut, the next command asks what has come.
    pub(crate) fn begins(&self, bytes: u64) {
        if let (Some(cache), true) = (&self.cache, bytes >= WORTH_IT) {
            cache.begin();
        }
    }

    /// Another deployment is in the way, and this one is tried again as it was.
    pub(crate) fn was_busy(&self) {
        if self.by.get() == TriedBy::KeptOnce {
            self.by.set(TriedBy::Kept);
        }
    }

    /// Whether the server is to look more closely; none if it is not asked any longer.
    pub(crate) fn verify(&self) -> Option<bool> {
        match self.by.get() {
            TriedBy::Nothing => None,
            by => Some(by == TriedBy::Verifying),
        }
    }

    /// Whether a record says what another try is made for.
    pub(crate) fn is_retried_for(&self, record: &SseRecord) -> bool {
        record.event == "error" && self.goes_another_way(&answer::failed(&record.data, 200))
    }

    /// Whether a failure says that the server cannot use what was sent, and the next try is another one.
    pub(crate) fn goes_another_way(&self, failed: &NoResult) -> bool {
        let code = failed.code.as_deref();
        match self.by.get() {
            // One that cannot read a difference says so as it may.
            TriedBy::KeptOnce => {
                let codes = [Code::StaleBase, Code::BadArchive, Code::BadRequest];
                codes.iter().any(|one| code == Some(one.word()))
            }
            TriedBy::Nothing => false,
            _ => code == Some(Code::StaleBase.word()),
        }
    }

    /// It goes another way. Gives what is said of it.
    pub(crate) fn go_another_way(&self) -> Option<&'static str> {
        let by = self.by.get();
        self.by.set(match by {
            TriedBy::Kept | TriedBy::KeptOnce => TriedBy::Asking,
            TriedBy::Asking => TriedBy::Verifying,
            TriedBy::Verifying | TriedBy::Nothing => TriedBy::Nothing,
        });
        (by != TriedBy::KeptOnce).then_some("the server lacks what it had; sending more")
    }

    /// It was deployed. `tree` is what the server says that it holds.
    pub(crate) fn deployed(&self, tree: Option<&str>) {
        let (Some(cache), Some(scanned)) = (&self.cache, self.tree.get()) else {
            return;
        };
        match tree.is_none_or(|tree| tree == scanned.tree().to_string()) {
            true => cache.replace(|out| scanned.keep(&mut { out })),
            // It was changed while it was packed.
            false => cache.forget(),
        }
    }
}

/// What has changed of a tree since it was deployed last, if that is known.
pub(crate) fn changed(tree: &Arc<ScannedTree>) -> Option<Missing> {
    let difference = tree.difference()?;
    let head = DeltaHead {
        base: Some(difference.base.to_string()),
        tree: tree.tree().to_string(),
        list: difference.lines.len() as u64,
        difference: true,
    };
    let wanted = &difference.wanted;
    Some(Missing {
        head,
        wanted: wanted.objects.clone(),
        bytes: wanted.bytes,
        asked: 0,
        reused: reused(tree, wanted),
        tree: Arc::clone(tree),
    })
}

/// What the server's answer says, after so many bytes of the list. None if everything is to be sent as an archive.
///
/// # Errors
/// When what was read cannot be read again.
pub(crate) fn missing(
    tree: Arc<ScannedTree>,
    answer: &Value,
    asked: u64,
) -> Result<Option<Missing>, Error> {
    let base = answer["base"].as_str();
    let wanted = answer["missing"].as_str().and_then(Ranges::parse);
    let (Some(wanted), Some(bytes)) = (wanted, answer["missing_bytes"].as_u64()) else {
        return Ok(None);
    };
    // All of it goes quicker as an archive.
    let nothing_known = base.is_none() && bytes == tree.bytes();
    if nothing_known || base.is_some_and(|base| base.parse::<ContentHash>().is_err()) {
        return Ok(None);
    }
    let head = DeltaHead {
        base: base.map(str::to_owned),
        tree: tree.tree().to_string(),
        list: 0,
        difference: false,
    };
    let sent = tree.select(&wanted);
    let sent = sent.doing(|| "looking for what the server lacks".into())?;
    Ok(Some(Missing {
        reused: reused(&tree, &sent),
        tree,
        head,
        wanted,
        bytes,
        asked,
    }))
}

/// What is said of that which is not sent.
fn reused(tree: &ScannedTree, sent: &Selection) -> Option<String> {
    let files = tree.files();
    (sent.files < files).then(|| {
        let size = units::size(tree.bytes().saturating_sub(sent.bytes));
        let (of, files) = (grouped(files - sent.files), grouped(files));
        format!("reused {of} of {files} files ({size})")
    })
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let table = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (11_512, "11,512"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in table {
            assert_eq!(grouped(number), text);
        }
    }
}
