//! The journal of a deployment: append-only NDJSON, one writer, any number of followers.
//!
//! The files are the truth. A writer appends what came at once, an entry or several, says how far it is, and offers them with
//! `try_send` to the bounded channel of each live [`Follower`] that has read what there is and waits for more. A follower
//! whose channel was full, that comes late, or that resumes from an id reads the files up to where its channel goes on, by
//! entry number. So replay, tail, resume and slow watchers are one mechanism, nothing is told apart by time, and no watcher
//! holds up the writer or makes memory grow.
//!
//! The size is bounded: the head file keeps its first 4 MiB for good; what comes later goes to segments of 4 MiB, of which
//! the newest three stay. Where a follower finds a gap it makes one `truncated` entry of it, with the true count. A line
//! that a disk damaged is such a gap, and the rest of the journal is read all the same.

mod follower;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Sender, TrySendError};

use crate::api::error::{Doing, Error};
use crate::api::event::{Entry, Event, Upload};
pub use crate::store::journal::follower::{Follower, Step};
use crate::system::files::{self, Durability};
use crate::system::log;
use crate::system::time::now_ms;

/// The size at which a file of the journal is full: with four files it bounds a journal at 16 MiB and an entry.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How many segments stay beside the head.
const SEGMENTS_KEPT: u32 = 3;
/// What the name of a file ends with that was damaged.
const DAMAGED: &str = ".damaged";
/// The capacity of a follower's channel: enough for the entries between two of its turns; one that falls further behind
/// reads the files. (`a_follower_that_falls_behind_misses_nothing` fills it.)
const CHANNEL_CAPACITY: usize = 256;
/// How much of what is offered together may wait in a follower's channel: some thousand lines, which a client that is as
/// quick as the command takes within some milliseconds.
const WAITING_MAX: usize = 256 << 10;
/// The memory for lines that stays between two writes: a command's output of a moment.
const LINES_KEPT: usize = 64 << 10;
/// What an entry takes beside its data: its fields, and what the allocator has for two pieces.
const ENTRY_AROUND: usize = 112;

/// What followers of a running deployment share with its writer.
#[derive(Debug, Default)]
pub struct LiveFeed {
    /// The newest entry that is in the files, or would be if the disk had room.
    last: AtomicU64,
    followers: Mutex<Followers>,
}

#[derive(Debug, Default)]
struct Followers {
    channels: Vec<FollowerChannel>,
    /// Set with the terminal entry; kept here as well, since a full disk may keep it out of the files.
    terminal: Option<Arc<Entry>>,
}

/// The writer's end of a follower's channel.
#[derive(Debug)]
struct FollowerChannel {
    channel: Sender<Offer>,
    /// How many bytes wait in it.
    waiting: Arc<AtomicUsize>,
}

/// Behind pointers, so that the channels of a thousand followers have small places, and share what is in them.
#[derive(Debug, Clone)]
enum Offer {
    /// What came at once, one entry or more.
    Entries(Arc<Vec<Arc<Entry>>>),
    Upload(Arc<Upload>),
}

impl Offer {
    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        match self {
            Offer::Entries(entries) => {
                let data = entries.iter().map(|entry| entry.data.get().len());
                data.sum::<usize>() + entries.len() * ENTRY_AROUND
            }
            Offer::Upload(_) => ENTRY_AROUND,
        }
    }
}

impl FollowerChannel {
    /// Offers something; false if there is nobody any longer. Where too much waits already it is not taken, and read from
    /// the files when all that waits has been seen.
    fn offer(&self, offer: &Offer, bytes: usize) -> bool {
        // Counted before it is looked at: a follower that empties the channel behind this sees how far the files are.
        let waiting = self.waiting.fetch_add(bytes, Ordering::AcqRel);
        let sent = match waiting > 0 && waiting + bytes > WAITING_MAX {
            true => Ok(false),
            false => match self.channel.try_send(offer.clone()) {
                Ok(()) => Ok(true),
                Err(TrySendError::Full(_)) => Ok(false),
                Err(TrySendError::Disconnected(_)) => Err(()),
            },
        };
        if sent != Ok(true) {
            self.waiting.fetch_sub(bytes, Ordering::AcqRel);
        }
        sent.is_ok()
    }
}

impl LiveFeed {
    fn lock(&self) -> MutexGuard<'_, Followers> {
        // The lock is a leaf and nothing under it can leave the list half changed.
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, offer: &Offer) {
        let bytes = offer.bytes();
        self.lock().channels.retain(|feed| feed.offer(offer, bytes));
    }
}

/// The writing side.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    segment: u32,
    segment_bytes: u64,
    /// Behind `segment_bytes` may stand what the disk took only half, or did not keep.
    torn: bool,
    next_id: u64,
    /// What was written since somebody asked for it.
    written: u64,
    line: Vec<u8>,
    live: Arc<LiveFeed>,
}

impl Journal {
    /// A new journal in the deployment's own directory.
    ///
    /// # Errors
    /// When the file exists already or cannot be made.
    pub fn create(dir: &Path) -> Result<Journal, Error> {
        let path = segment_path(dir, 0);
        let file = OpenOptions::new()
            .append(true)
            .mode(0o600)
            .create_new(true)
            .open(&path)
            .doing(|| format!("making the journal {}", path.display()))?;
        Ok(Journal {
            dir: dir.to_owned(),
            file,
            segment: 0,
            segment_bytes: 0,
            torn: false,
            next_id: 1,
            written: 0,
            line: Vec::new(),
            live: Arc::default(),
        })
    }

    /// Opens a journal that a server left without its end, to end it. A last line that was not written whole is removed;
    /// a damaged line before it stays.
    ///
    /// # Errors
    /// When the files cannot be read or mended.
    pub fn reopen(dir: &Path) -> Result<Journal, Error> {
        let segment = segments(dir)?.last().copied().unwrap_or(0);
        let path = segment_path(dir, segment);
        let what = || format!("mending the journal {}", path.display());
        let file = OpenOptions::new()
            .append(true)
            .mode(0o600)
            .create(true)
            .read(true)
            .open(&path)
            .doing(what)?;
        let whole = whole_lines(&file).doing(what)?;
        file.set_len(whole.bytes).doing(what)?;
        let last = match whole.last_id {
            Some(id) => id,
            // The newest segment had not one whole line yet: the one before it tells.
            None => Follower::new(dir, 0, None).last_id()?,
        };
        let live = Arc::new(LiveFeed {
            last: AtomicU64::new(last),
            followers: Mutex::default(),
        });
        let dir = dir.to_owned();
        Ok(Journal {
            dir,
            file,
            segment,
            segment_bytes: whole.bytes,
            torn: false,
            next_id: last + 1,
            written: 0,
            line: Vec::new(),
            live,
        })
    }

    /// Makes a journal again of which too much is damaged, from the entries that are known of it. The damaged files are
    /// kept beside it, under another name.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn rebuild<'a>(
        dir: &Path,
        known: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Journal, Error> {
        let head = segment_path(dir, 0);
        let what = || format!("making the journal {} again", head.display());
        let mut text = Vec::new();
        for entry in known {
            serde_json::to_writer(&mut text, entry).doing(what)?;
            text.push(b'\n');
        }
        for segment in segments(dir)? {
            let path = segment_path(dir, segment);
            let mut aside = path.clone().into_os_string();
            aside.push(DAMAGED);
            fs::rename(&path, aside).doing(what)?;
        }
        files::replace(&head, &text, 0o600, Durability::PowerLoss).doing(what)?;
        Journal::reopen(dir)
    }

    /// The id of the last entry, 0 if there is none.
    pub fn last_id(&self) -> u64 {
        self.next_id - 1
    }

    /// How many bytes were written since this was asked last.
    pub fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Writes an entry that was made and numbered before, when the disk did not take it.
    ///
    /// # Errors
    /// When the disk does not take it now either.
    pub fn restore(&mut self, entry: &Arc<Entry>) -> Result<(), Error> {
        self.write(entry)?;
        self.publish(entry);
        Ok(())
    }

    /// The place where followers join.
    pub fn live(&self) -> &Arc<LiveFeed> {
        &self.live
    }

    /// Writes one event, and offers it to whoever follows.
    ///
    /// # Errors
    /// When the disk does not take it. The files then end with the entry before, as if this one had never been.
    pub fn append(&mut self, event: &Event) -> Result<Arc<Entry>, Error> {
        let entry = self.entry(event);
        self.write(&entry)?;
        self.publish(&entry);
        Ok(entry)
    }

    /// Writes several events that came at once, in one write where they fit into one file, and offers them together. What
    /// was written is also told to `written`, in the order of the events.
    ///
    /// # Errors
    /// When the disk does not take them all. The files then end with the last one that it took, which was offered, too.
    pub fn append_all(
        &mut self,
        events: impl Iterator<Item = Event>,
        written: &mut dyn FnMut(&[Arc<Entry>]),
    ) -> Result<(), Error> {
        let now = now_ms();
        let entries = events
            .zip(self.next_id..)
            .map(|(event, id)| Arc::new(Entry::new(id, now, &event)));
        let mut rest: Vec<Arc<Entry>> = entries.collect();
        while !rest.is_empty() {
            let (count, result) = self.write_some(&rest);
            let behind = rest.split_off(count);
            let these = Arc::new(std::mem::replace(&mut rest, behind));
            self.publish_all(&these);
            written(&these);
            result.doing(|| format!("writing the journal in {}", self.dir.display()))?;
        }
        Ok(())
    }

    /// The next entry, which is neither written nor told yet.
    pub fn entry(&self, event: &Event) -> Arc<Entry> {
        Arc::new(Entry::new(self.next_id, now_ms(), event))
    }

    /// Writes an entry so that it survives a power loss, and tells nobody before [`Journal::publish`]: what is to be true by
    /// the time that it is seen is done in between. An entry that the disk did not take can be published too, and reaches the
    /// live followers.
    ///
    /// # Errors
    /// When the disk does not take it, or does not keep it. The files then end with the entry before.
    pub fn seal(&mut self, entry: &Entry) -> Result<(), Error> {
        let before = (self.segment, self.segment_bytes);
        self.write(entry)?;
        self.sync().inspect_err(|_| {
            // It must not be found by a start that knows nothing of the failure.
            self.segment_bytes = if before.0 == self.segment {
                before.1
            } else {
                0
            };
            self.torn = true;
            self.mend();
        })
    }

    /// Offers an entry to whoever follows.
    pub fn publish(&mut self, entry: &Arc<Entry>) {
        if entry.is_terminal() {
            self.live.lock().terminal = Some(Arc::clone(entry));
        }
        self.publish_all(&Arc::new(vec![Arc::clone(entry)]));
    }

    fn publish_all(&mut self, entries: &Arc<Vec<Arc<Entry>>>) {
        let Some(last) = entries.last() else { return };
        self.next_id = last.id + 1;
        self.live.last.store(last.id, Ordering::Release);
        self.live.offer(&Offer::Entries(Arc::clone(entries)));
    }

    /// Tells the live followers how far the upload is: never numbered, never written.
    pub fn upload(&self, upload: Upload) {
        self.live.offer(&Offer::Upload(Arc::new(upload)));
    }

    /// Makes what was appended survive a power loss.
    ///
    /// # Errors
    /// When the disk reports an error.
    pub fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_data()
            .doing(|| format!("writing the journal in {} to disk", self.dir.display()))
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        let written = self.write_line(entry);
        written.doing(|| format!("writing the journal in {}", self.dir.display()))
    }

    fn write_line(&mut self, entry: &Entry) -> io::Result<()> {
        self.line.clear();
        entry.write_line(&mut self.line);
        self.write_gathered().1
    }

    /// Writes as many of these entries as fit into the file: at least one, for which the next file is begun if need be. Says
    /// how many of them the disk took.
    fn write_some(&mut self, entries: &[Arc<Entry>]) -> (usize, io::Result<()>) {
        self.line.clear();
        self.line.shrink_to(LINES_KEPT);
        for entry in entries {
            let before = self.line.len();
            entry.write_line(&mut self.line);
            if before > 0 && self.segment_bytes + self.line.len() as u64 > SEGMENT_BYTES {
                self.line.truncate(before);
                break;
            }
        }
        let (whole, result) = self.write_gathered();
        let count = memchr::memchr_iter(b'\n', &self.line[..whole]).count();
        (count, result)
    }

    /// Writes the lines that are in `line`, which go into one file. Says how many bytes of whole lines the disk took: after an
    /// error the file ends with them, since a follower may have read them.
    fn write_gathered(&mut self) -> (usize, io::Result<()>) {
        if let Err(error) = self.make_room() {
            return (0, Err(error));
        }
        let (taken, result) = write_counted(&mut self.file, &self.line);
        let end = memchr::memrchr(b'\n', &self.line[..taken]);
        let whole = end.map_or(0, |end| end + 1);
        self.segment_bytes += whole as u64;
        self.written += whole as u64;
        if result.is_err() {
            self.torn = true;
            self.mend();
        }
        (whole, result)
    }

    /// Begins the next file if this one has no room for what is in `line`, and cuts off what does not belong to it.
    fn make_room(&mut self) -> io::Result<()> {
        if self.segment_bytes > 0 && self.segment_bytes + self.line.len() as u64 > SEGMENT_BYTES {
            self.rotate()?;
        }
        if self.torn {
            self.file.set_len(self.segment_bytes)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Cuts off what the disk took only half: the next entry would be glued to it. If even that fails, the next write or the
    /// next start does it.
    fn mend(&mut self) {
        if self.file.set_len(self.segment_bytes).is_ok() {
            self.torn = false;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = segment_path(&self.dir, self.segment + 1);
        self.file = OpenOptions::new()
            .append(true)
            .mode(0o600)
            .create(true)
            .truncate(false)
            .open(&path)?;
        self.segment += 1;
        self.torn = false;
        self.segment_bytes = 0;
        if let Some(old) = self
            .segment
            .checked_sub(SEGMENTS_KEPT)
            .filter(|old| *old > 0)
        {
            let path = segment_path(&self.dir, old);
            // One more of them than there should be fails nothing.
            if let Err(error) = fs::remove_file(&path) {
                log::warn(&format!("removing {}: {error}", path.display()));
            }
        }
        Ok(())
    }
}

/// The first file of a journal.
pub(super) fn head(dir: &Path) -> PathBuf {
    segment_path(dir, 0)
}

/// The file of a segment; 0 is the head.
fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    match segment {
        0 => dir.join("events.ndjson"),
        n => dir.join(format!("events.{n}.ndjson")),
    }
}

/// The numbers of the segments that exist, in order; 0 is the head.
fn segments(dir: &Path) -> Result<Vec<u32>, Error> {
    let what = || format!("looking for the journal in {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).doing(what)? {
        let name = entry.doing(what)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name == "events.ndjson" {
            found.push(0);
        } else if let Some(n) = name
            .strip_prefix("events.")
            .and_then(|rest| rest.strip_suffix(".ndjson"))
        {
            found.extend(n.parse::<u32>().ok());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Writes all, or says how much of it was written before it failed.
fn write_counted(file: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

/// How much of a file is whole lines, and the last entry among them.
struct Whole {
    bytes: u64,
    last_id: Option<u64>,
}

fn whole_lines(file: &File) -> io::Result<Whole> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(0))?;
    let mut whole = Whole {
        bytes: 0,
        last_id: None,
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(whole);
        }
        if let Ok(entry) = serde_json::from_slice::<Entry>(&line) {
            whole.last_id = Some(entry.id);
        }
        whole.bytes += read as u64;
    }
}
