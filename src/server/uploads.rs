//! The places of those who fetch payloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Payloads that are sent to other hosts at once. With two, each round doubles those who have it, and a host's line is shared
/// by few; who finds no place asks somebody else, so that a fleet spreads by itself.
pub(super) const UPLOADS_MAX: usize = 2;

/// How many payloads are being sent.
#[derive(Debug, Default)]
pub(super) struct PayloadUploads(AtomicUsize);

/// The right to send one; dropping it gives it back.
pub(super) struct PayloadUpload(Arc<PayloadUploads>);

impl PayloadUploads {
    /// Nothing if there is no place.
    pub(super) fn begin(self: &Arc<Self>) -> Option<PayloadUpload> {
        let more = |now: usize| (now < UPLOADS_MAX).then_some(now + 1);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| PayloadUpload(Arc::clone(self)))
    }
}

impl Drop for PayloadUpload {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
