//! The end of a deployment on its way to the disk: the terminal event, the record, and the mark that goes.
//!
//! Each step is tried again from where it failed, so that one failing call, or a disk that is full for a while, leaves no
//! deployment without an end. What a server cannot write before it ends is found by its mark, and the next start ends it.

use std::sync::Arc;

use crate::api::error::Error;
use crate::api::event::{Entry, Event};
use crate::api::record::Record;
use crate::engine::checkpoint::checkpoint;
use crate::store::Store;
use crate::store::journal::Journal;

/// A deployment that has ended, as far as its end is on disk.
pub struct Ending {
    store: Arc<Store>,
    journal: Journal,
    record: Record,
    /// The terminal event, which everybody sees as the same entry.
    entry: Arc<Entry>,
    /// Whether the record knows the end.
    applied: bool,
    next: EndStep,
}

/// What is to be written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndStep {
    Journal,
    /// What others are to be told of it: it is there once the record says so.
    Notice,
    Record,
    /// The record is there, and is to survive a power loss.
    Sync,
    /// The mark goes last: as long as it is there, the next start looks after this deployment.
    Mark,
    Done,
}

impl Ending {
    /// An end of which nothing is on disk yet.
    pub(super) fn new(
        store: Arc<Store>,
        journal: Journal,
        record: Record,
        event: &Event,
    ) -> Ending {
        let entry = journal.entry(event);
        Ending {
            store,
            journal,
            record,
            entry,
            applied: false,
            next: EndStep::Journal,
        }
    }

    /// The record. It knows the end once that is on disk or was told.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How many bytes were written into the journal since this was asked last.
    pub(super) fn take_written(&mut self) -> u64 {
        self.journal.take_written()
    }

    /// Whether the terminal event is in the journal and on disk.
    fn is_sealed(&self) -> bool {
        self.next != EndStep::Journal
    }

    /// Ends in another way instead; nothing of the first one is on disk.
    pub(super) fn instead(self, event: &Event) -> Ending {
        let Ending {
            store,
            journal,
            record,
            ..
        } = self;
        Ending::new(store, journal, record, event)
    }

    /// Puts the terminal event into the journal, on disk.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        if self.is_sealed() {
            return Ok(());
        }
        self.journal.seal(&self.entry)?;
        self.apply();
        self.next = EndStep::Notice;
        Ok(())
    }

    /// Writes what has to be there before the end is told. The record need not be on disk by then: the next start makes it
    /// from the journal, as long as the mark is there.
    ///
    /// # Errors
    /// As [`Ending::write`].
    pub(super) fn write_down(&mut self) -> Result<(), Error> {
        self.seal()?;
        checkpoint("recorded");
        if self.next == EndStep::Notice {
            self.store.put_notice(&self.record);
            self.next = EndStep::Record;
        }
        if self.next == EndStep::Record {
            self.store.write_record(&self.record, false)?;
            self.next = EndStep::Sync;
        }
        checkpoint("written");
        Ok(())
    }

    /// Writes what is left to be written.
    ///
    /// # Errors
    /// What the disk does not take; the next call goes on there.
    pub fn write(&mut self) -> Result<(), Error> {
        self.write_down()?;
        let id = self.record.deployment_id;
        if self.next == EndStep::Sync {
            // What a disk has not kept once, it has to be given again.
            let synced = self.store.sync_record(id);
            synced.inspect_err(|_| self.next = EndStep::Record)?;
            self.next = EndStep::Mark;
        }
        if self.next == EndStep::Mark {
            self.store.unmark(id)?;
            self.next = EndStep::Done;
        }
        checkpoint("ended");
        Ok(())
    }

    /// Tells the end to whoever follows, whether it is on disk or not.
    pub(super) fn publish(&mut self) {
        self.journal.publish(&self.entry);
    }

    /// Lets the record know the end.
    pub(super) fn apply(&mut self) {
        if !self.applied {
            self.applied = true;
            self.record.apply(&self.entry);
        }
    }
}
