//! The events that a record shows: bounded, and with the number of those that are missing.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::event::{Entry, Event};
use crate::api::json;

/// How many of the first events an [`EventLog`] keeps.
const LOG_HEAD: usize = 20;
/// How many of the newest events it keeps once some were dropped.
const LOG_TAIL: usize = 179;
/// How many entries it has at most: the first, a marker, the newest.
const LOG_MAX: usize = LOG_HEAD + 1 + LOG_TAIL;
/// How many bytes of JSON it has at most, indented as it is on disk.
const LOG_BYTES: usize = 64 << 10;
/// How many of them the first events may have: enough for 20 that are not lines of an install.
const LOG_HEAD_BYTES: usize = 24 << 10;
/// A larger entry is shortened, so that it does not push out all others: an `error` with 16 KiB of output fits.
const LOG_ENTRY_BYTES: usize = 32 << 10;
/// What an entry has around its numbers, its name and its data: names and signs, and the indentation.
const LOG_ENTRY_AROUND: usize = 74;
/// What the marker has, and the brackets around all.
const LOG_REST_BYTES: usize = 200;

/// The events of a deployment, at most 200 and at most 64 KiB: the first 20, a `truncated` marker with the true count of
/// what is missing, and the newest 179. Large ones leave less of both.
#[derive(Debug, Clone, Default)]
pub struct EventLog {
    head: Vec<Entry>,
    head_bytes: usize,
    dropped: u64,
    last_dropped: Option<(u64, u64)>,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl EventLog {
    pub(super) fn push(&mut self, entry: &Entry) {
        // No other entry is read for it: most are lines of an installation, of which there may be millions.
        let truncated = (entry.event == "truncated").then(|| entry.meaning());
        if let Some(Event::Truncated(count)) = truncated {
            // What a bounded journal lost lies between what we have and what comes.
            self.drop_tail();
            self.dropped += count;
            self.last_dropped = Some((entry.id, entry.t));
            return;
        }
        let entry = match size(entry) {
            large if large > LOG_ENTRY_BYTES => shortened(entry),
            _ => entry.clone(),
        };
        let size = size(&entry);
        // Whatever went to the tail once has closed the head: there is one gap, and no entry changes its place.
        let open = self.dropped == 0 && self.tail.is_empty() && self.head.len() < LOG_HEAD;
        if open && self.head_bytes + size <= LOG_HEAD_BYTES {
            self.head_bytes += size;
            self.head.push(entry);
            return;
        }
        self.tail_bytes += size;
        self.tail.push_back(entry);
        let many = |log: &EventLog| {
            let all = log.head.len() + log.tail.len();
            log.tail.len() > LOG_TAIL && (log.dropped > 0 || all > LOG_MAX)
        };
        let room = LOG_BYTES - LOG_REST_BYTES - self.head_bytes;
        while self.tail_bytes > room || many(self) {
            self.drop_first();
        }
    }

    /// As [`EventLog::push`] for each of these, none of which is a `truncated` one. What so many others follow is not kept,
    /// and not copied either.
    pub(super) fn push_lines(&mut self, mut entries: &[Arc<Entry>]) {
        while let Some((first, rest)) = entries.split_first() {
            let passed = entries.len().saturating_sub(LOG_TAIL);
            // Before something was dropped there is room for one more.
            if passed > 0 && self.dropped > 0 {
                self.drop_tail();
                self.dropped += passed as u64;
                self.last_dropped = Some((entries[passed - 1].id, entries[passed - 1].t));
                entries = &entries[passed..];
                continue;
            }
            self.push(first);
            entries = rest;
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.tail.pop_front() {
            self.tail_bytes -= size(&first);
            self.dropped += 1;
            self.last_dropped = Some((first.id, first.t));
        }
    }

    fn drop_tail(&mut self) {
        while !self.tail.is_empty() {
            self.drop_first();
        }
    }

    /// The entries that it kept, in their order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.head.iter().chain(&self.tail)
    }

    fn marker(&self) -> Option<Entry> {
        let (id, t) = self.last_dropped?;
        Some(Entry::new(id, t, &Event::Truncated(self.dropped)))
    }
}

/// How many bytes of JSON an entry has, with the comma before it.
fn size(entry: &Entry) -> usize {
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    let numbers = digits(entry.id) + digits(entry.t);
    LOG_ENTRY_AROUND + numbers + entry.event.len() + entry.data.get().len()
}

/// The entry without the largest members of its data, and with their names in `left_out`. The journal has all of it.
fn shortened(entry: &Entry) -> Entry {
    let mut data: Map<String, Value> = json::from_text(entry.data.get()).unwrap_or_default();
    let mut sizes: Vec<(usize, String)> = data
        .iter()
        .map(|(name, value)| (name.len() + value.to_string().len(), name.clone()))
        .collect();
    sizes.sort_unstable();
    let mut rest = size(entry);
    let mut left_out = Vec::new();
    while let (true, Some((size, name))) = (rest > LOG_ENTRY_BYTES, sizes.pop()) {
        data.remove(&name);
        rest = rest.saturating_sub(size);
        // Names are short but for a peer's that means no good.
        if left_out.len() < 10 {
            left_out.push(name.chars().take(100).collect::<String>());
        }
    }
    data.insert("left_out".into(), left_out.into());
    // Its data was an object of JSON just now.
    let data = serde_json::value::to_raw_value(&data).unwrap_or_else(|_| entry.data.clone());
    Entry {
        data,
        ..entry.clone()
    }
}

impl Serialize for EventLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let marker = self.marker();
        serializer.collect_seq(self.head.iter().chain(marker.as_ref()).chain(&self.tail))
    }
}

impl<'de> Deserialize<'de> for EventLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EventLog, D::Error> {
        let mut log = EventLog::default();
        for entry in Vec::<Entry>::deserialize(deserializer)? {
            log.push(&entry);
        }
        Ok(log)
    }
}
