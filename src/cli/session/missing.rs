//! What of a directory the server lacks, and how often it was wrong about that.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use serde_json::Value;

use crate::api::error::Code;
use crate::cli::screen::units;
use crate::cli::session::CommandError;
use crate::formats::archive::{PackPlan, ScannedTree};
use crate::formats::delta::hash::ContentHash;
use crate::formats::delta::ranges::Ranges;
use crate::formats::delta::records::DeltaHead;

/// A smaller tree is sent whole: the question takes as long.
const WORTH_IT: u64 = 1 << 20;

/// What is known of a directory that is sent, over all tries.
pub(crate) struct DeltaUpload {
    plan: Arc<PackPlan>,
    /// What it holds, once that was read.
    tree: OnceCell<Arc<ScannedTree>>,
    /// How often the server lacked what it had said to have.
    stale: Cell<u8>,
}

/// What of a tree is to be sent.
pub(crate) struct Missing {
    pub(crate) tree: Arc<ScannedTree>,
    pub(crate) head: DeltaHead,
    pub(crate) wanted: Ranges,
    /// The bytes of it.
    pub(crate) bytes: u64,
    /// What is said of the rest, if there is one.
    pub(crate) reused: Option<String>,
}

impl DeltaUpload {
    /// None if everything is to be sent.
    pub(crate) fn new(plan: &Arc<PackPlan>, full: bool) -> Option<DeltaUpload> {
        let worth_it = !full && plan.total() >= WORTH_IT;
        worth_it.then(|| DeltaUpload {
            plan: Arc::clone(plan),
            tree: OnceCell::new(),
            stale: Cell::new(0),
        })
    }

    pub(crate) fn plan(&self) -> Arc<PackPlan> {
        Arc::clone(&self.plan)
    }

    /// What it holds, once that was read.
    pub(crate) fn tree(&self) -> Option<Arc<ScannedTree>> {
        self.tree.get().cloned()
    }

    /// It holds this.
    pub(crate) fn keep(&self, tree: ScannedTree) -> Arc<ScannedTree> {
        Arc::clone(self.tree.get_or_init(|| Arc::new(tree)))
    }

    /// Whether the server lacked what it had said to have once; none if it is not asked any longer.
    pub(crate) fn verify(&self) -> Option<bool> {
        match self.stale.get() {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The server lacked what it had said to have: next time it looks more closely, and then everything is sent. False if
    /// everything was sent.
    pub(crate) fn was_stale(&self) -> bool {
        let stale = self.stale.get();
        self.stale.set(stale + 1);
        stale < 2
    }
}

/// Whether a failure says that the server lacked what it had said to have.
pub(crate) fn is_stale(trouble: &CommandError) -> bool {
    trouble.failed.code.as_deref() == Some(Code::StaleBase.word())
}

/// What the server's answer says. None if everything is to be sent as an archive.
pub(crate) fn missing(tree: Arc<ScannedTree>, answer: &Value) -> Option<Missing> {
    let base = answer["base"].as_str();
    if base.is_some_and(|base| base.parse::<ContentHash>().is_err()) {
        return None;
    }
    let wanted = Ranges::parse(answer["missing"].as_str()?)?;
    let bytes = answer["missing_bytes"].as_u64()?;
    let (files, total) = (tree.files(), tree.bytes());
    // All of it goes quicker as an archive.
    if base.is_none() && bytes == total {
        return None;
    }
    let head = DeltaHead {
        base: base.map(str::to_owned),
        tree: tree.tree().to_string(),
        list: 0,
    };
    let (sent, sent_bytes) = tree.sent(&wanted);
    let reused = (sent < files).then(|| {
        let size = units::size(total.saturating_sub(sent_bytes));
        let (of, files) = (grouped(files - sent), grouped(files));
        format!("reused {of} of {files} files ({size})")
    });
    Some(Missing {
        tree,
        head,
        wanted,
        bytes,
        reused,
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
