//! The reading side of a journal: see [`journal`](crate::store::journal).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use crate::api::error::{Doing, Error};
use crate::api::event::{Entry, Event, Upload};
use crate::api::name::DeploymentId;
use crate::api::record::Record;
use crate::store::journal::{
    CHANNEL_CAPACITY, FollowerChannel, LiveFeed, Offer, segment_path, segments,
};

/// How often a read that failed is tried again, and the wait before: 5 s in all, for what is busy is seldom so for longer.
const READ_AGAIN: u32 = 50;
const READ_AGAIN_WAIT: Duration = Duration::from_millis(100);

/// What is read of a journal at once: some hundred entries, and little for each of many who come late.
const READ_AT_ONCE: usize = 16 << 10;

/// What a follower sees next.
#[derive(Debug)]
pub enum Step {
    /// The next entry, without a gap but for `truncated`.
    Entry(Arc<Entry>),
    /// How far the upload is.
    Upload(Upload),
    /// Nothing happened for as long as was asked.
    Idle,
    /// The terminal entry was the last thing.
    End,
}

/// The reading side: every entry after a given one, in order, up to the terminal one.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    live: Option<Arc<LiveFeed>>,
    /// What comes of a running deployment; there from the first wait on.
    channel: Option<OfferQueue>,
    /// What was taken from the channel last, as far as it was not seen yet.
    offered: Option<Offered>,
    next: u64,
    /// Where the files are being read; none while the channel is ahead of nothing.
    reading: Option<Reading>,
    ended: bool,
}

/// The follower's end of its channel.
#[derive(Debug)]
struct OfferQueue {
    channel: Receiver<Offer>,
    /// How many bytes wait in it.
    waiting: Arc<AtomicUsize>,
}

impl OfferQueue {
    fn try_next(&self) -> Result<Offer, TryRecvError> {
        self.channel.try_recv().inspect(|offer| self.taken(offer))
    }

    fn next(&self, wait: Duration) -> Result<Offer, RecvTimeoutError> {
        let next = self.channel.recv_timeout(wait);
        next.inspect(|offer| self.taken(offer))
    }

    fn taken(&self, offer: &Offer) {
        self.waiting.fetch_sub(offer.bytes(), Ordering::AcqRel);
    }
}

/// Entries that came at once.
#[derive(Debug)]
struct Offered {
    entries: Arc<Vec<Arc<Entry>>>,
    /// Those before this place were seen.
    at: usize,
}

#[derive(Debug)]
struct Reading {
    segment: u32,
    lines: BufReader<File>,
}

impl Follower {
    /// Follows the journal in `dir` after entry `after` (0: from the start). `live` is there while the deployment runs.
    pub fn new(dir: &Path, after: u64, live: Option<&Arc<LiveFeed>>) -> Follower {
        Follower {
            dir: dir.to_owned(),
            live: live.map(Arc::clone),
            channel: None,
            offered: None,
            next: after.saturating_add(1),
            reading: None,
            ended: false,
        }
    }

    /// The deployment whose journal it is.
    pub fn deployment(&self) -> Option<DeploymentId> {
        self.dir.file_name()?.to_str()?.parse().ok()
    }

    /// The id of the entry that comes next.
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Whether it waits for what comes after an entry that is not there yet.
    pub fn is_ahead(&self) -> bool {
        let last = self
            .live
            .as_ref()
            .map(|live| live.last.load(Ordering::Acquire));
        last.is_some_and(|last| self.next > last + 1)
    }

    /// Whether there is nothing after the entry that was asked for, and never will be.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn at_end(&self) -> Result<bool, Error> {
        match &self.live {
            Some(live) => {
                let terminal = live.lock().terminal.as_ref().map(|entry| entry.id);
                Ok(terminal.is_some_and(|id| self.next > id))
            }
            None => Ok(self.next > Follower::new(&self.dir, 0, None).last_id()?),
        }
    }

    /// The next thing to see; waits for it at most `wait`. Who never waits is told of entries alone, and costs the writer
    /// nothing. A moment without descriptors, or a read that fails once, does not end it: it is tried again for a while.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn next(&mut self, wait: Duration) -> Result<Step, Error> {
        let mut seen = self.look(wait);
        for _ in 0..READ_AGAIN {
            match seen {
                Err(error) if error.io().is_some_and(may_pass) => {
                    // Where it stood in the file is not known after an error.
                    self.reading = None;
                    thread::sleep(READ_AGAIN_WAIT);
                    seen = self.look(wait);
                }
                seen => return seen,
            }
        }
        seen
    }

    fn look(&mut self, wait: Duration) -> Result<Step, Error> {
        if self.ended {
            return Ok(Step::End);
        }
        loop {
            if let Some(step) = self.look_at_offered()? {
                return Ok(step);
            }
            let Some(live) = &self.live else {
                return Ok(match self.read()? {
                    Some(entry) => self.pass(entry),
                    None => match self.recorded_end() {
                        Some(entry) => self.pass(entry),
                        None => self.end(),
                    },
                });
            };
            // In this order: what the channel has is newest; an empty channel means that all that was not offered is
            // said by `last`, since an offer fails only while the channel is full.
            let offer = match self.channel.as_ref().map(OfferQueue::try_next) {
                Some(Ok(offer)) => offer,
                None | Some(Err(TryRecvError::Empty)) => {
                    if live.last.load(Ordering::Acquire) >= self.next {
                        let entry = match self.read()? {
                            Some(entry) => Some(entry),
                            None => self.unwritten(),
                        };
                        if let Some(entry) = entry {
                            return Ok(self.pass(entry));
                        }
                    }
                    // All that is there was read. The channel has what comes, and a thousand followers hold no files.
                    self.reading = None;
                    // What the disk did not take is not there to be seen before more comes.
                    let Some(channel) = &self.channel else {
                        if wait.is_zero() {
                            return Ok(Step::Idle);
                        }
                        self.subscribe();
                        // What came before that is in the files.
                        continue;
                    };
                    match channel.next(wait) {
                        Ok(offer) => offer,
                        Err(RecvTimeoutError::Timeout) => return Ok(Step::Idle),
                        Err(RecvTimeoutError::Disconnected) => {
                            self.live = None;
                            continue;
                        }
                    }
                }
                Some(Err(TryRecvError::Disconnected)) => {
                    self.live = None;
                    continue;
                }
            };
            match offer {
                Offer::Upload(upload) => return Ok(Step::Upload(*upload)),
                Offer::Entries(entries) => self.offered = Some(Offered { entries, at: 0 }),
            }
        }
    }

    /// The next entry if it is among those that were offered, or before them.
    fn look_at_offered(&mut self) -> Result<Option<Step>, Error> {
        while let Some(offered) = &mut self.offered {
            let Some(entry) = offered.entries.get(offered.at) else {
                self.offered = None;
                break;
            };
            // Who asked for what comes after an entry that never came is at the end with the end, too.
            if entry.id == self.next || (entry.is_terminal() && entry.id < self.next) {
                let entry = Arc::clone(entry);
                offered.at += 1;
                self.reading = None;
                return Ok(Some(self.pass(entry)));
            }
            if entry.id < self.next {
                // It was read from the files before.
                offered.at += 1;
                continue;
            }
            // What lies before it is in the files, unless the disk did not take it.
            if let Some(entry) = self.read()? {
                return Ok(Some(self.pass(entry)));
            }
            self.offered = None;
        }
        Ok(None)
    }

    /// Lets the writer offer what comes.
    fn subscribe(&mut self) {
        let Some(live) = &self.live else { return };
        let (sender, receiver) = bounded(CHANNEL_CAPACITY);
        let waiting = Arc::<AtomicUsize>::default();
        live.lock().channels.push(FollowerChannel {
            channel: sender,
            waiting: Arc::clone(&waiting),
        });
        self.channel = Some(OfferQueue {
            channel: receiver,
            waiting,
        });
    }

    /// The id of the last entry so far, 0 if there is none.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn last(self) -> Result<u64, Error> {
        let terminal = self
            .live
            .as_ref()
            .and_then(|live| live.lock().terminal.as_ref().map(|entry| entry.id));
        terminal.map_or_else(|| self.last_id(), Ok)
    }

    /// The id of the last entry in the files, 0 if there is none.
    pub(super) fn last_id(mut self) -> Result<u64, Error> {
        if let Some(newest) = segments(&self.dir)?.last() {
            self.open(*newest)?;
        }
        let (mut last, mut ended) = (0, false);
        while let Some(entry) = self.read_line(0)? {
            (last, ended) = (entry.id, entry.is_terminal());
        }
        if ended {
            return Ok(last);
        }
        Ok(self.recorded_end().map_or(last, |end| end.id))
    }

    fn pass(&mut self, entry: Arc<Entry>) -> Step {
        self.next = entry.id + 1;
        self.ended = entry.is_terminal();
        Step::Entry(entry)
    }

    fn end(&mut self) -> Step {
        self.ended = true;
        Step::End
    }

    /// The terminal entry, if the disk did not take it.
    fn unwritten(&self) -> Option<Arc<Entry>> {
        let live = self.live.as_ref()?;
        live.lock()
            .terminal
            .clone()
            .filter(|entry| entry.id >= self.next)
    }

    /// The terminal entry as the record has it, if the journal has lost its own.
    fn recorded_end(&self) -> Option<Arc<Entry>> {
        let text = std::fs::read(self.dir.join("record.json")).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let last = record.event_log.entries().last()?;
        let is_it = last.is_terminal() && last.id >= self.next;
        is_it.then(|| Arc::new(last.clone()))
    }

    /// The next entry from the files; none at their end. A gap becomes a `truncated` entry.
    fn read(&mut self) -> Result<Option<Arc<Entry>>, Error> {
        if self.reading.is_none() {
            self.seek()?;
        }
        loop {
            while let Some(entry) = self.read_line(self.next)? {
                if entry.id < self.next {
                    continue;
                }
                if entry.id > self.next {
                    let dropped = entry.id - self.next;
                    // The gap's last id; the entry itself is read again after it.
                    let gap = Entry::new(entry.id - 1, entry.t, &Event::Truncated(dropped));
                    self.reading = None;
                    return Ok(Some(Arc::new(gap)));
                }
                return Ok(Some(Arc::new(entry)));
            }
            let Some(reading) = &self.reading else {
                return Ok(None);
            };
            let after = reading.segment;
            let Some(following) = segments(&self.dir)?
                .into_iter()
                .find(|segment| *segment > after)
            else {
                return Ok(None);
            };
            self.open(following)?;
        }
    }

    /// Opens the file that has the next entry: the last one that begins at or before it, else the first one after it.
    fn seek(&mut self) -> Result<(), Error> {
        for segment in segments(&self.dir)?.into_iter().rev() {
            self.open(segment)?;
            let first = self.read_line(0)?.map(|entry| entry.id);
            if segment == 0 || first.is_some_and(|first| first <= self.next) {
                return self.open(segment);
            }
        }
        Ok(())
    }

    /// Opens a segment; one that was removed meanwhile is as if it had no lines.
    fn open(&mut self, segment: u32) -> Result<(), Error> {
        let path = segment_path(&self.dir, segment);
        match File::open(&path) {
            Ok(file) => {
                self.reading = Some(Reading {
                    segment,
                    lines: BufReader::with_capacity(READ_AT_ONCE, file),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.reading.is_some() => {
                let again = segments(&self.dir)?
                    .into_iter()
                    .find(|newer| *newer > segment);
                return again.map_or(Ok(()), |newer| self.open(newer));
            }
            Err(error) => {
                return Err(error).doing(|| format!("reading the journal {}", path.display()));
            }
        }
        Ok(())
    }

    /// The next entry of the file that is open; none at its end. Half a line is left for a later call. A whole line that
    /// is not an entry is what a disk damaged: it is passed over, and the entry after it shows the gap. Entries before
    /// `from` need not be given.
    fn read_line(&mut self, from: u64) -> Result<Option<Entry>, Error> {
        let Some(reading) = &mut self.reading else {
            return Ok(None);
        };
        let what = || format!("reading the journal in {}", self.dir.display());
        let lines = &mut reading.lines;
        let mut long = Vec::new();
        loop {
            // Most lines lie within what was read at once.
            let read = lines.buffer();
            if let Some(end) = memchr::memchr(b'\n', read) {
                let entry = entry_of(&read[..end], from);
                lines.consume(end + 1);
                match entry {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            long.clear();
            lines.read_until(b'\n', &mut long).doing(what)?;
            if long.last() != Some(&b'\n') {
                let back = i64::try_from(long.len()).doing(what)?;
                lines.seek_relative(-back).doing(what)?;
                return Ok(None);
            }
            if let Some(entry) = entry_of(&long, from) {
                return Ok(Some(entry));
            }
        }
    }
}

/// The entry that a line is; none if it is damaged, or if it says at its beginning that it comes before `from`: whoever
/// goes on in the middle of a file would else read all that stands before.
fn entry_of(line: &[u8], from: u64) -> Option<Entry> {
    match first_number(line) {
        Some(id) if id < from => None,
        _ => serde_json::from_slice(line).ok(),
    }
}

/// The number with which the line of an entry begins.
fn first_number(line: &[u8]) -> Option<u64> {
    let number = line.strip_prefix(b"{\"id\":")?;
    let end = number.iter().position(|sign| !sign.is_ascii_digit())?;
    std::str::from_utf8(&number[..end]).ok()?.parse().ok()
}

/// Whether what failed may work in a moment. What a file holds does not change by that.
fn may_pass(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    )
}
