//! The journal of a deployment: append-only NDJSON, one writer, any number of followers.
//!
//! The files are the truth. A writer appends an entry, says how far it is, and offers the entry with `try_send` to the
//! bounded channel of each live [`Follower`]. A follower whose channel was full, that comes late, or that resumes from an
//! id reads the files up to where its channel goes on, by entry number. So replay, tail, resume and slow watchers are one
//! mechanism, nothing is told apart by time, and no watcher holds up the writer or makes memory grow.
//!
//! The size is bounded: the head file keeps its first 4 MiB for good; what comes later goes to segments of 4 MiB, of which
//! the newest three stay. Where a follower finds a gap it makes one `truncated` entry of it, with the true count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};

use crate::error::{Doing, Error};
use crate::event::{Entry, Event, Upload, now_ms};

/// The size at which a file of the journal is full: with four files it bounds a journal at 16 MiB and an entry.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How many segments stay beside the head.
const SEGMENTS_KEPT: u32 = 3;
/// The capacity of a follower's channel: enough for the entries between two of its turns; one that falls further behind
/// reads the files. (`a_follower_that_falls_behind_misses_nothing` fills it.)
const CHANNEL_CAPACITY: usize = 256;

/// What followers of a running deployment share with its writer.
#[derive(Debug, Default)]
pub struct Live {
    /// The newest entry that is in the files, or would be if the disk had room.
    last: AtomicU64,
    followers: Mutex<Followers>,
}

#[derive(Debug, Default)]
struct Followers {
    channels: Vec<Sender<Offer>>,
    /// Set with the terminal entry; kept here as well, since a full disk may keep it out of the files.
    terminal: Option<Arc<Entry>>,
}

#[derive(Debug, Clone)]
enum Offer {
    Entry(Arc<Entry>),
    Upload(Upload),
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Followers> {
        // The lock is a leaf and nothing under it can leave the list half changed.
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, offer: &Offer) {
        self.lock().channels.retain(|channel| {
            !matches!(
                channel.try_send(offer.clone()),
                Err(TrySendError::Disconnected(_))
            )
        });
    }
}

/// The writing side.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    segment: u32,
    segment_bytes: u64,
    next_id: u64,
    line: Vec<u8>,
    live: Arc<Live>,
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
            .create_new(true)
            .open(&path)
            .doing(|| format!("making the journal {}", path.display()))?;
        Ok(Journal {
            dir: dir.to_owned(),
            file,
            segment: 0,
            segment_bytes: 0,
            next_id: 1,
            line: Vec::new(),
            live: Arc::default(),
        })
    }

    /// Opens a journal that a server left without its end, to end it. A last line that was not written whole is removed.
    ///
    /// # Errors
    /// When the files cannot be read or mended.
    pub fn reopen(dir: &Path) -> Result<Journal, Error> {
        let segment = segments(dir)?.last().copied().unwrap_or(0);
        let path = segment_path(dir, segment);
        let what = || format!("mending the journal {}", path.display());
        let file = OpenOptions::new()
            .append(true)
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
        let live = Arc::new(Live {
            last: AtomicU64::new(last),
            followers: Mutex::default(),
        });
        let dir = dir.to_owned();
        Ok(Journal {
            dir,
            file,
            segment,
            segment_bytes: whole.bytes,
            next_id: last + 1,
            line: Vec::new(),
            live,
        })
    }

    /// The place where followers join.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Writes one event, and offers it to whoever follows.
    ///
    /// # Errors
    /// When the disk does not take it. The files then end with the entry before, as if this one had never been.
    pub fn append(&mut self, event: &Event) -> Result<Arc<Entry>, Error> {
        let (entry, written) = self.seal(event);
        written?;
        self.publish(&entry);
        Ok(entry)
    }

    /// Writes one event, which nobody is told of before [`Journal::publish`]: what is to be true by the time that it is
    /// seen is done in between. An entry that the disk did not take can be published too, and reaches the live followers.
    pub fn seal(&mut self, event: &Event) -> (Arc<Entry>, Result<(), Error>) {
        let entry = Arc::new(Entry::new(self.next_id, now_ms(), event));
        let written = self.write(&entry);
        (entry, written)
    }

    /// Offers an entry to whoever follows.
    pub fn publish(&mut self, entry: &Arc<Entry>) {
        self.next_id = entry.id + 1;
        if entry.is_terminal() {
            self.live.lock().terminal = Some(Arc::clone(entry));
        }
        self.live.last.store(entry.id, Ordering::Release);
        self.live.offer(&Offer::Entry(Arc::clone(entry)));
    }

    /// Tells the live followers how far the upload is: never numbered, never written.
    pub fn upload(&self, upload: Upload) {
        self.live.offer(&Offer::Upload(upload));
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
        self.line.clear();
        let what = || format!("writing the journal in {}", self.dir.display());
        serde_json::to_writer(&mut self.line, entry).doing(what)?;
        self.line.push(b'\n');
        if self.segment_bytes > 0 && self.segment_bytes + self.line.len() as u64 > SEGMENT_BYTES {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(&self.line) {
            // Half a line must not stay where the next entry would be glued to it. If even that fails, the next start
            // mends it.
            let _ = self.file.set_len(self.segment_bytes);
            return Err(error).doing(|| format!("writing the journal in {}", self.dir.display()));
        }
        self.segment_bytes += self.line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Error> {
        let path = segment_path(&self.dir, self.segment + 1);
        let what = || format!("making the journal's segment {}", path.display());
        self.file = OpenOptions::new()
            .append(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .doing(what)?;
        self.segment += 1;
        self.segment_bytes = 0;
        if let Some(old) = self
            .segment
            .checked_sub(SEGMENTS_KEPT)
            .filter(|old| *old > 0)
        {
            let path = segment_path(&self.dir, old);
            fs::remove_file(&path)
                .doing(|| format!("removing the journal's old segment {}", path.display()))?;
        }
        Ok(())
    }
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

/// How much of a file is whole lines that are entries.
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
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) if line.ends_with(b"\n") => whole.last_id = Some(entry.id),
            _ => return Ok(whole),
        }
        whole.bytes += read as u64;
    }
}

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
    live: Option<(Arc<Live>, Receiver<Offer>)>,
    next: u64,
    /// Where the files are being read; none while the channel is ahead of nothing.
    reading: Option<Reading>,
    ended: bool,
}

#[derive(Debug)]
struct Reading {
    segment: u32,
    lines: BufReader<File>,
}

impl Follower {
    /// Follows the journal in `dir` after entry `after` (0: from the start). `live` is there while the deployment runs.
    pub fn new(dir: &Path, after: u64, live: Option<&Arc<Live>>) -> Follower {
        let live = live.map(|live| {
            let (sender, receiver) = bounded(CHANNEL_CAPACITY);
            live.lock().channels.push(sender);
            (Arc::clone(live), receiver)
        });
        Follower {
            dir: dir.to_owned(),
            live,
            next: after + 1,
            reading: None,
            ended: false,
        }
    }

    /// Whether there is nothing after the entry that was asked for, and never will be.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn at_end(&self) -> Result<bool, Error> {
        match &self.live {
            Some((live, _)) => {
                let terminal = live.lock().terminal.as_ref().map(|entry| entry.id);
                Ok(terminal.is_some_and(|id| self.next > id))
            }
            None => Ok(self.next > Follower::new(&self.dir, 0, None).last_id()?),
        }
    }

    /// The next thing to see; waits for it at most `wait`.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn next(&mut self, wait: Duration) -> Result<Step, Error> {
        if self.ended {
            return Ok(Step::End);
        }
        loop {
            let Some((live, channel)) = &self.live else {
                return Ok(match self.read()? {
                    Some(entry) => self.pass(entry),
                    None => self.end(),
                });
            };
            // In this order: what the channel has is newest; an empty channel means that all that was not offered is
            // said by `last`, since an offer fails only while the channel is full.
            let offer = match channel.try_recv() {
                Ok(offer) => offer,
                Err(TryRecvError::Empty) if live.last.load(Ordering::Acquire) >= self.next => {
                    match self.read()? {
                        Some(entry) => return Ok(self.pass(entry)),
                        None => match self.unwritten() {
                            Some(entry) => return Ok(self.pass(entry)),
                            None => return Ok(Step::Idle),
                        },
                    }
                }
                Err(TryRecvError::Empty) => match channel.recv_timeout(wait) {
                    Ok(offer) => offer,
                    Err(RecvTimeoutError::Timeout) => return Ok(Step::Idle),
                    Err(RecvTimeoutError::Disconnected) => {
                        self.live = None;
                        continue;
                    }
                },
                Err(TryRecvError::Disconnected) => {
                    self.live = None;
                    continue;
                }
            };
            match offer {
                Offer::Upload(upload) => return Ok(Step::Upload(upload)),
                Offer::Entry(entry) if entry.id == self.next => {
                    self.reading = None;
                    return Ok(self.pass(entry));
                }
                // Read from the files before, or the files are to be read first: `last` says how far.
                Offer::Entry(entry) if entry.id < self.next => {}
                Offer::Entry(_) => {
                    if let Some(entry) = self.read()? {
                        return Ok(self.pass(entry));
                    }
                }
            }
        }
    }

    /// The id of the last entry so far, 0 if there is none.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn last(self) -> Result<u64, Error> {
        let terminal = self
            .live
            .as_ref()
            .and_then(|(live, _)| live.lock().terminal.as_ref().map(|entry| entry.id));
        terminal.map_or_else(|| self.last_id(), Ok)
    }

    /// The id of the last entry in the files, 0 if there is none.
    fn last_id(mut self) -> Result<u64, Error> {
        if let Some(newest) = segments(&self.dir)?.last() {
            self.open(*newest)?;
        }
        let mut last = 0;
        while let Some(entry) = self.read_line()? {
            last = entry.id;
        }
        Ok(last)
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
        let (live, _) = self.live.as_ref()?;
        live.lock()
            .terminal
            .clone()
            .filter(|entry| entry.id >= self.next)
    }

    /// The next entry from the files; none at their end. A gap becomes a `truncated` entry.
    fn read(&mut self) -> Result<Option<Arc<Entry>>, Error> {
        if self.reading.is_none() {
            self.seek()?;
        }
        loop {
            while let Some(entry) = self.read_line()? {
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
            let first = self.read_line()?.map(|entry| entry.id);
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
                    lines: BufReader::with_capacity(64 << 10, file),
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

    /// The next whole line of the file that is open; none at its end. Half a line is left for a later call.
    fn read_line(&mut self) -> Result<Option<Entry>, Error> {
        let Some(reading) = &mut self.reading else {
            return Ok(None);
        };
        let what = || format!("reading the journal in {}", self.dir.display());
        let mut line = Vec::new();
        reading.lines.read_until(b'\n', &mut line).doing(what)?;
        if line.last() != Some(&b'\n') {
            let back = i64::try_from(line.len()).doing(what)?;
            reading.lines.seek_relative(-back).doing(what)?;
            return Ok(None);
        }
        serde_json::from_slice(&line).doing(what).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::thread;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir()
                .join(format!("gangplank-journal-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn warning(text: &str) -> Event {
        Event::Warning(text.to_owned())
    }

    fn done() -> Event {
        Event::Done(json!({}))
    }

    /// All that a follower sees up to the end, as `(id, name)`.
    fn all(mut follower: Follower) -> Vec<(u64, String)> {
        let mut seen = Vec::new();
        loop {
            match follower.next(Duration::from_secs(20)).unwrap() {
                Step::Entry(entry) => seen.push((entry.id, entry.event.to_string())),
                Step::Upload(_) => {}
                Step::Idle => panic!("the stream went idle after {:?}", seen.last()),
                Step::End => return seen,
            }
        }
    }

    #[test]
    fn replay_resume_and_tail_see_the_same() {
        let dir = Dir::new("same");
        let mut journal = Journal::create(&dir.0).unwrap();
        for text in ["a", "b", "c"] {
            journal.append(&warning(text)).unwrap();
        }
        let tail = Follower::new(&dir.0, 0, Some(journal.live()));
        let resumed = Follower::new(&dir.0, 3, Some(journal.live()));
        assert!(!resumed.at_end().unwrap());
        journal.append(&warning("d")).unwrap();
        journal.append(&done()).unwrap();
        let late = Follower::new(&dir.0, 0, Some(journal.live()));
        assert!(
            Follower::new(&dir.0, 5, Some(journal.live()))
                .at_end()
                .unwrap()
        );
        drop(journal);
        let expected: Vec<u64> = (1..=5).collect();
        for follower in [tail, late, Follower::new(&dir.0, 0, None)] {
            assert_eq!(
                all(follower)
                    .into_iter()
                    .map(|(id, _)| id)
                    .collect::<Vec<_>>(),
                expected
            );
        }
        assert_eq!(all(resumed).len(), 2);
        for after in 0..=7 {
            let follower = Follower::new(&dir.0, after, None);
            assert_eq!(follower.at_end().unwrap(), after >= 5, "{after}");
            assert_eq!(
                all(follower).len() as u64,
                5_u64.saturating_sub(after),
                "{after}"
            );
        }
    }

    #[test]
    fn a_follower_that_falls_behind_misses_nothing() {
        let dir = Dir::new("behind");
        let mut journal = Journal::create(&dir.0).unwrap();
        let total = 3 * CHANNEL_CAPACITY as u64;
        let mut slow = Follower::new(&dir.0, 0, Some(journal.live()));
        let quick = Follower::new(&dir.0, 0, Some(journal.live()));
        let quick = thread::spawn(move || all(quick));
        for n in 1..total {
            journal.append(&warning(&n.to_string())).unwrap();
            if n == total / 2 {
                assert!(
                    matches!(slow.next(Duration::ZERO).unwrap(), Step::Entry(entry) if entry.id == 1)
                );
            }
        }
        journal.append(&done()).unwrap();
        let ids = |seen: Vec<(u64, String)>| seen.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(all(slow)), (2..=total).collect::<Vec<_>>());
        assert_eq!(ids(quick.join().unwrap()), (1..=total).collect::<Vec<_>>());
    }

    #[test]
    fn the_middle_of_a_long_journal_is_dropped_and_counted() {
        let dir = Dir::new("long");
        let mut journal = Journal::create(&dir.0).unwrap();
        let mut early = Follower::new(&dir.0, 0, Some(journal.live()));
        assert!(matches!(early.next(Duration::ZERO).unwrap(), Step::Idle));
        // 30 MiB in lines of 64 KiB: head and three segments hold about 16.
        let text = "x".repeat(64 << 10);
        for _ in 0..480 {
            journal.append(&warning(&text)).unwrap();
        }
        journal.append(&done()).unwrap();
        let size: u64 = segments(&dir.0)
            .unwrap()
            .iter()
            .map(|n| segment_path(&dir.0, *n).metadata().unwrap().len())
            .sum();
        assert!(size <= 16 << 20, "{size}");
        let replayed = all(Follower::new(&dir.0, 0, None));
        let gaps: Vec<_> = replayed
            .iter()
            .filter(|(_, name)| name == "truncated")
            .collect();
        assert_eq!(gaps.len(), 1);
        let at = replayed
            .iter()
            .position(|(_, name)| name == "truncated")
            .unwrap();
        let (before, gap, after) = (replayed[at - 1].0, replayed[at].0, replayed[at + 1].0);
        assert_eq!(after, gap + 1);
        let mut follower = Follower::new(&dir.0, before, None);
        let Step::Entry(entry) = follower.next(Duration::ZERO).unwrap() else {
            panic!("an entry")
        };
        assert_eq!(entry.meaning(), Event::Truncated(gap - before));
        assert_eq!(
            replayed.last().map(|(id, name)| (*id, name.as_str())),
            Some((481, "done"))
        );
        // One that resumes inside the gap is told only of what it missed; one that followed from the start ends too.
        let resumed = all(Follower::new(&dir.0, gap - 1, None));
        assert_eq!(resumed[0], (gap, "truncated".to_owned()));
        assert_eq!(all(early).last().map(|(id, _)| *id), Some(481));
    }

    #[test]
    fn a_torn_last_line_is_mended() {
        let table: [(&str, u64); 4] = [
            ("", 3),
            (r#"{"id":3,"t":1,"event":"warn"#, 3),
            (
                r#"{"id":3,"t":1,"event":"warning","data":{"message":"x"}}"#,
                3,
            ),
            ("\0\0\0\0", 3),
        ];
        for (n, (torn, next)) in table.into_iter().enumerate() {
            let dir = Dir::new(&format!("torn{n}"));
            let mut journal = Journal::create(&dir.0).unwrap();
            journal.append(&warning("a")).unwrap();
            journal.append(&warning("b")).unwrap();
            drop(journal);
            OpenOptions::new()
                .append(true)
                .open(segment_path(&dir.0, 0))
                .unwrap()
                .write_all(torn.as_bytes())
                .unwrap();
            let mut journal = Journal::reopen(&dir.0).unwrap();
            assert_eq!(journal.append(&done()).unwrap().id, next, "{torn}");
            assert_eq!(all(Follower::new(&dir.0, 0, None)).len(), 3, "{torn}");
        }
    }

    #[test]
    fn uploads_reach_only_who_is_there() {
        let dir = Dir::new("upload");
        let mut journal = Journal::create(&dir.0).unwrap();
        let mut live = Follower::new(&dir.0, 0, Some(journal.live()));
        journal.upload(Upload {
            bytes: 7,
            total: None,
        });
        assert!(matches!(
            live.next(Duration::ZERO).unwrap(),
            Step::Upload(Upload { bytes: 7, .. })
        ));
        journal.append(&done()).unwrap();
        assert_eq!(
            all(Follower::new(&dir.0, 0, Some(journal.live()))),
            [(1, "done".to_owned())]
        );
    }
}
