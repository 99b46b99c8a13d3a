//! What a component's processes print: line by line into `ROOT/logs/X`, rotated, and read again by whoever asks.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::system::child::Line;
use crate::system::files::if_there;
use crate::system::log;
use crate::system::time::{now_ms, rfc3339};

/// The size at which a file is put aside.
const FILE_BYTES: u64 = 10 << 20;
/// How many files that were put aside are kept.
const FILES_KEPT: u32 = 3;
/// How much of the newest lines is given at once.
const TAIL_BYTES: usize = 4 << 20;

/// The stream of what is said about a process, and not by it.
const NOTES: &str = "gangplank";

/// The last millisecond whose year has four digits, so that times are in order as texts.
const YEAR_9999_MS: u64 = 253_402_300_799_999;

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// From this time on, as RFC 3339.
    since: Option<String>,
    /// Of this process type.
    kind: Option<String>,
}

impl LogFilter {
    /// What was printed at or after a time in ms, and by a process type.
    pub fn new(since: Option<u64>, kind: Option<String>) -> LogFilter {
        LogFilter {
            since: since.map(|ms| rfc3339(ms.min(YEAR_9999_MS))),
            kind,
        }
    }

    /// Whether a line is wanted. Times are in UTC with milliseconds, so that they are in order as texts.
    pub fn wants(&self, one: &Logged) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == one.kind)
            && self.since.as_ref().is_none_or(|since| *since <= one.time)
    }

    /// How many lines have to be read to have so many that are wanted, as far as it is known.
    fn reads(&self, lines: usize) -> usize {
        match self.kind {
            Some(_) if lines > 0 => usize::MAX,
            _ => lines,
        }
    }
}

/// Where one component's output goes.
#[derive(Debug)]
pub(super) struct OutputLog {
    dir: PathBuf,
    writer: Mutex<LogFile>,
    grown: Condvar,
    failed: log::RateLimitedLog,
}

#[derive(Debug, Default)]
struct LogFile {
    file: Option<File>,
    bytes: u64,
    /// How often a file was put aside.
    turns: u64,
    /// Nothing more comes.
    ended: bool,
}

fn current(dir: &Path) -> PathBuf {
    dir.join("current.log")
}

fn aside(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("{n}.log"))
}

impl OutputLog {
    pub(super) fn new(dir: PathBuf) -> OutputLog {
        OutputLog {
            dir,
            writer: Mutex::default(),
            grown: Condvar::new(),
            failed: log::RateLimitedLog::default(),
        }
    }

    /// Writes a line that a process has printed.
    pub(super) fn write(&self, kind: &str, line: &Line) {
        self.put(kind, line.stream.word(), &line.text);
    }

    /// Writes what has become of a process.
    pub(super) fn note(&self, kind: &str, text: &str) {
        self.put(kind, NOTES, text);
    }

    /// Writes a line. A disk that does not take it is said in the log, and does not end the process.
    fn put(&self, kind: &str, stream: &str, text: &str) {
        let text = format!("{} {kind} {stream} {text}\n", rfc3339(now_ms()));
        let mut writer = self.lock();
        if let Err(error) = writer.write(&self.dir, text.as_bytes()) {
            self.failed.warn(|| {
                format!(
                    "writing the output of {kind} to {}: {error}",
                    self.dir.display()
                )
            });
        }
        drop(writer);
        self.grown.notify_all();
    }

    /// Tells who follows that nothing more comes.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.grown.notify_all();
    }

    /// Lets go of the file for as long as nothing is written. It may be removed meanwhile.
    pub(super) fn close(&self) {
        let mut writer = self.lock();
        (writer.file, writer.bytes) = (None, 0);
    }

    fn lock(&self) -> MutexGuard<'_, LogFile> {
        // At worst its count of bytes is short by a line.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something new to read.
    fn wait(
        &self,
        file: &mut BufReader<File>,
        turns: &mut u64,
        until: Instant,
    ) -> io::Result<bool> {
        let mut writer = self.lock();
        loop {
            // Under the lock nothing is written, so what is not there now is told.
            if !file.fill_buf()?.is_empty() {
                return Ok(true);
            }
            if writer.turns != *turns {
                // The next one after the one that was read; where that is gone, the oldest that there is.
                let newer = u32::try_from(writer.turns - *turns - 1).unwrap_or(u32::MAX);
                let asides = (1..=newer.min(FILES_KEPT)).rev();
                let mut asides = asides.map(|n| (n, aside(&self.dir, n)));
                let next = asides.find(|(_, path)| path.exists());
                let (n, next) = next.unwrap_or_else(|| (0, current(&self.dir)));
                *turns = writer.turns - u64::from(n);
                *file = BufReader::new(File::open(next)?);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || writer.ended {
                return Ok(false);
            }
            let waited = self.grown.wait_timeout(writer, left);
            writer = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(writer, _)| writer);
        }
    }
}

impl LogFile {
    fn write(&mut self, dir: &Path, text: &[u8]) -> io::Result<()> {
        if self.file.is_none() || self.bytes + text.len() as u64 > FILE_BYTES {
            self.turn(dir)?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(text)?;
            self.bytes += text.len() as u64;
        }
        Ok(())
    }

    /// Opens the current file, which is put aside before if it is full. Where there is another one then, or one again, who
    /// follows goes on with that.
    fn turn(&mut self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if self.bytes > 0 {
            for n in (1..FILES_KEPT).rev() {
                if_there(fs::rename(aside(dir, n), aside(dir, n + 1)))?;
            }
            if_there(fs::rename(current(dir), aside(dir, 1)))?;
            // Even if there is no new one now: what is aside is full, and is not put aside again.
            self.file = None;
            self.bytes = 0;
        }
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600);
        let file = match if_there(options.open(current(dir)))? {
            Some(file) => file,
            None => {
                let file = options.create(true).open(current(dir))?;
                self.turns += 1;
                file
            }
        };
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }
}

/// One line of a log, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When, as RFC 3339.
    pub time: String,
    /// The process type.
    pub kind: String,
    /// `stdout`, `stderr`, or `gangplank` for what is said about the process.
    pub stream: String,
    /// What was printed.
    pub line: String,
}

impl Logged {
    fn parse(text: &str) -> Logged {
        let mut parts = text.splitn(4, ' ').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Logged {
            time: next(),
            kind: next(),
            stream: next(),
            line: next(),
        }
    }
}

/// The newest lines of a log that are wanted, oldest first, at most so many, among the newest 4 MiB of all.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn tail(dir: &Path, lines: usize, filter: &LogFilter) -> Result<Vec<Logged>, Error> {
    let what = || format!("reading the output in {}", dir.display());
    let mut found: VecDeque<Logged> = VecDeque::new();
    let mut bytes = 0;
    let older = (1..=FILES_KEPT).map(|n| aside(dir, n));
    for path in std::iter::once(current(dir)).chain(older) {
        if found.len() >= lines || bytes >= TAIL_BYTES {
            break;
        }
        let Some(file) = if_there(File::open(&path)).doing(what)? else {
            continue;
        };
        let reads = filter.reads(lines - found.len());
        let part = end_of(file, reads, TAIL_BYTES - bytes).doing(what)?;
        bytes += part.len();
        let text = String::from_utf8_lossy(&part);
        let wanted = text.lines().rev().map(Logged::parse);
        let wanted = wanted.filter(|one| filter.wants(one));
        for one in wanted.take(lines - found.len()) {
            found.push_front(one);
        }
    }
    Ok(found.into())
}

/// The end of a file that has at least so many lines, if the whole has, and at most so many bytes.
fn end_of(mut file: File, lines: usize, most: usize) -> io::Result<Vec<u8>> {
    const STEP: u64 = 64 << 10;
    let length = file.metadata()?.len();
    let mut start = length;
    let mut found = Vec::new();
    let mut ends = 0;
    while start > 0 && ends <= lines && found.len() < most {
        let from = start.saturating_sub(STEP);
        let mut part = vec![0; usize::try_from(start - from).unwrap_or(0)];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut part)?;
        ends += part.iter().filter(|byte| **byte == b'\n').count();
        part.extend_from_slice(&found);
        found = part;
        start = from;
    }
    // A line that is there only in part is none, unless the file begins with it.
    let first = found.iter().position(|byte| *byte == b'\n');
    if let Some(end) = first.filter(|_| start > 0) {
        found.drain(..=end);
    }
    // Nor is one that is just being written.
    let whole = found.iter().rposition(|byte| *byte == b'\n');
    found.truncate(whole.map_or(0, |end| end + 1));
    Ok(found)
}

/// Reads on where a log ends, and then whatever comes.
pub struct LogFollower {
    output: std::sync::Arc<OutputLog>,
    file: BufReader<File>,
    turns: u64,
    /// What of a line is there that is just being written: whoever reads meanwhile gets a part of it.
    partial: Vec<u8>,
}

impl LogFollower {
    /// From the log's end as it is now; what was there before are the newest `lines`.
    pub(super) fn new(
        output: &std::sync::Arc<OutputLog>,
        lines: usize,
        filter: &LogFilter,
    ) -> Result<(Vec<Logged>, LogFollower), Error> {
        let dir = &output.dir;
        let what = || format!("reading the output in {}", dir.display());
        // Nothing is written between the reading of the end and the place to go on from.
        let mut writer = output.lock();
        if writer.file.is_none() {
            writer.turn(dir).doing(what)?;
        }
        let before = tail(dir, lines, filter)?;
        let mut file = File::open(current(dir)).doing(what)?;
        file.seek(SeekFrom::End(0)).doing(what)?;
        let turns = writer.turns;
        drop(writer);
        let follower = LogFollower {
            output: std::sync::Arc::clone(output),
            file: BufReader::new(file),
            turns,
            partial: Vec::new(),
        };
        Ok((before, follower))
    }

    /// Whether nothing more comes, as the server is ending.
    pub fn ended(&self) -> bool {
        self.output.lock().ended
    }

    /// The next lines that are there, up to some tens of KiB; none if nothing came for so long.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Logged>, Error> {
        let what = || "following a component's output".to_owned();
        let mut found = Vec::new();
        let until = Instant::now() + wait;
        let (mut bytes, turns) = (0, self.turns);
        let there = self
            .output
            .wait(&mut self.file, &mut self.turns, until)
            .doing(what)?;
        if self.turns != turns {
            // No more of it comes: the disk did not take the rest.
            self.partial.clear();
        }
        while there && bytes < 32 << 10 && !self.file.fill_buf().doing(what)?.is_empty() {
            let read = self.file.read_until(b'\n', &mut self.partial);
            bytes += read.doing(what)?;
            let Some(line) = self.partial.strip_suffix(b"\n") else {
                break;
            };
            found.push(Logged::parse(&String::from_utf8_lossy(line)));
            self.partial.clear();
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn line(text: String) -> Line {
        Line {
            stream: crate::api::event::Stream::Stdout,
            text,
            continued: false,
        }
    }

    #[test]
    fn a_log_that_is_removed_while_nobody_writes_begins_anew_for_who_follows() {
        let dir = std::env::temp_dir().join(format!("gangplank-removed-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let output = Arc::new(OutputLog::new(dir.clone()));
        let all = LogFilter::default();
        let texts = |found: Vec<Logged>| found.into_iter().map(|one| one.line).collect::<Vec<_>>();
        output.write("web", &line("one".to_owned()));
        let (before, mut follower) = LogFollower::new(&output, 5, &all).unwrap();
        assert_eq!(texts(before), ["one"]);
        let mut next = || texts(follower.next(Duration::from_secs(10)).unwrap());
        output.close();
        output.write("web", &line("two".to_owned()));
        assert_eq!(next(), ["two"]);
        output.close();
        fs::remove_dir_all(&dir).unwrap();
        output.write("web", &line("three".to_owned()));
        assert_eq!(next(), ["three"]);
        assert_eq!(texts(tail(&dir, 5, &all).unwrap()), ["three"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn output_is_rotated_and_read_again() {
        let dir = std::env::temp_dir().join(format!("gangplank-output-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let output = Arc::new(OutputLog::new(dir.clone()));
        let all = LogFilter::default();
        assert_eq!(tail(&dir, 10, &all).unwrap(), []);
        let (before, mut follower) = LogFollower::new(&output, 5, &all).unwrap();
        assert_eq!(before, []);
        assert_eq!(follower.next(Duration::from_millis(1)).unwrap(), []);
        // More than all the files hold, a follower along with it.
        let filler = Arc::<str>::from("x".repeat(8000));
        let count = 6200;
        let (writing, text) = (Arc::clone(&output), Arc::clone(&filler));
        let writer = std::thread::spawn(move || {
            for n in 0..count {
                writing.write("web", &line(format!("{n} {text}")));
            }
        });
        let mut seen = Vec::new();
        while seen.last() != Some(&(count - 1)) {
            for one in follower.next(Duration::from_secs(10)).unwrap() {
                seen.push(one.line.split(' ').next().unwrap().parse::<u32>().unwrap());
            }
        }
        writer.join().unwrap();
        assert!(seen.is_sorted());
        let files = fs::read_dir(&dir).unwrap().count();
        assert_eq!(files, 1 + FILES_KEPT as usize);
        let newest = tail(&dir, 3, &all).unwrap();
        let numbers: Vec<&str> = newest
            .iter()
            .map(|one| one.line.split(' ').next().unwrap())
            .collect();
        assert_eq!(numbers, ["6197", "6198", "6199"]);
        assert_eq!(
            (newest[0].kind.as_str(), newest[0].stream.as_str()),
            ("web", "stdout")
        );
        // Bounded by bytes, over the end of a file.
        let many = tail(&dir, 10_000, &all).unwrap();
        assert!(many.len() > 400 && many.len() < 620, "{}", many.len());
        // One that falls behind, by less than what is kept, misses nothing.
        let (_, mut behind) = LogFollower::new(&output, 0, &all).unwrap();
        for n in 0..3800 {
            output.write("web", &line(format!("{n} {filler}")));
        }
        let mut next = 0;
        while next < 3800 {
            for one in behind.next(Duration::from_secs(10)).unwrap() {
                assert!(one.line.starts_with(&format!("{next} ")), "{next}");
                next += 1;
            }
        }
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn a_line_that_is_just_being_written_is_read_when_it_is_whole() {
        let dir = std::env::temp_dir().join(format!("gangplank-partial-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let output = Arc::new(OutputLog::new(dir.clone()));
        let all = LogFilter::default();
        output.write("web", &line("first".into()));
        let (_, mut follower) = LogFollower::new(&output, 0, &all).unwrap();
        let mut file = File::options().append(true).open(current(&dir)).unwrap();
        let mut shown = |follower: &mut LogFollower, bytes: &str| -> (Vec<String>, Vec<String>) {
            file.write_all(bytes.as_bytes()).unwrap();
            let next = follower.next(Duration::from_millis(1)).unwrap();
            let kept = tail(&dir, 10, &all).unwrap();
            let texts = |found: Vec<Logged>| found.into_iter().map(|one| one.line).collect();
            (texts(next), texts(kept))
        };
        let nothing = Vec::<String>::new();
        let of = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>()
        };
        let half = shown(&mut follower, "2026-11-27T00:00:00.000Z we");
        assert_eq!(half, (nothing.clone(), of(&["first"])));
        let more = shown(&mut follower, "b stdout sec");
        assert_eq!(more, (nothing, of(&["first"])));
        let whole = shown(&mut follower, "ond\n");
        assert_eq!(whole, (of(&["second"]), of(&["first", "second"])));
        let _ = fs::remove_dir_all(&dir);
    }
}
