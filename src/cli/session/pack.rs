//! The payload while it is packed: a thread `pack` writes it, a request reads it, and a few buffers go round between them.
//!
//! The reader sees the end of the payload only if the packing came to its own end: an error arrives as an error, and so
//! does a thread that is gone without a word.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::error::{Doing, Error};
use crate::cli::session::missing::Missing;
use crate::formats::archive::{Effort, Outflow, PackPlan};

/// As much as ureq's buffers take at once.
const BUFFER: usize = 128 * 1024;

/// One is written, one is read, and two absorb that neither side works evenly.
const BUFFERS: usize = 4;

/// An archive that has no more bytes fills some of the buffers, and is packed before it is sent: a thread would take longer.
const SMALL: u64 = 3 * BUFFER as u64;

/// A packing thread.
#[derive(Debug)]
pub(crate) struct PackingThread {
    work: PackingWork,
    bytes: Arc<AtomicU64>,
    total: u64,
    /// The bytes of the payload so far.
    sent: Arc<AtomicU64>,
    /// What is said of that which need not be sent.
    reused: Option<String>,
    /// The bytes that were sent to find that out.
    asked: u64,
    outflow: Arc<Outflow>,
}

#[derive(Debug)]
enum PackingWork {
    /// All is packed, or could not be.
    Ended(Result<(), Error>),
    Running(JoinHandle<Result<(), Error>>),
}

/// Where a payload comes from, each time that it is sent.
#[derive(Clone)]
pub(crate) enum UploadSource {
    /// A directory, packed at this level, 0 to 9, or as the link allows.
    Plan(Arc<PackPlan>, Option<u32>),
    /// An archive of so many bytes, as it is.
    File(PathBuf, u64),
}

impl UploadSource {
    /// The level that was given.
    pub(crate) fn level(&self) -> Option<u32> {
        match self {
            UploadSource::Plan(_, level) => *level,
            UploadSource::File(..) => None,
        }
    }

    fn total(&self) -> u64 {
        match self {
            UploadSource::Plan(plan, _) => plan.total(),
            UploadSource::File(_, bytes) => *bytes,
        }
    }

    fn is_small(&self) -> bool {
        match self {
            UploadSource::Plan(plan, _) => plan.archive_max() <= SMALL,
            UploadSource::File(..) => false,
        }
    }

    fn write(
        &self,
        mut out: &mut PackWriter,
        link: Effort<'_>,
        packed: &AtomicU64,
    ) -> Result<(), Error> {
        let (path, bytes) = match self {
            UploadSource::Plan(plan, level) => {
                let effort = level.map_or(link, Effort::Level);
                return plan.write(out, effort, &mut |n| packed.store(n, Ordering::Relaxed));
            }
            UploadSource::File(path, bytes) => (path, *bytes),
        };
        let doing = || format!("sending {}", path.display());
        let mut file = File::open(path).doing(doing)?;
        let (mut piece, mut sent) = (vec![0; BUFFER], 0);
        loop {
            let read = file.read(&mut piece).doing(doing)?;
            sent += read as u64;
            if sent > bytes || (read == 0 && sent < bytes) {
                return Err(Error::new(doing(), "it has changed meanwhile"));
            }
            if read == 0 {
                return Ok(());
            }
            out.write_all(&piece[..read]).doing(doing)?;
            packed.store(sent, Ordering::Relaxed);
        }
    }
}

/// What is known of the way to the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackLink {
    /// The server is on this machine.
    pub(crate) local: bool,
    /// How many bytes a second it took the last time.
    pub(crate) known: Option<u64>,
    /// The server takes lz4, too.
    pub(crate) lz4: bool,
}

/// Begins to pack; the payload is what the [`PackReader`] gives.
pub(crate) fn start(
    source: UploadSource,
    link: PackLink,
) -> Result<(PackingThread, PackReader), Error> {
    let (total, at_once) = (source.total(), source.is_small());
    begin((total, at_once), link, move |out, link, packed| {
        source.write(out, link, packed)
    })
}

/// As [`start`], for what is missing of a tree. An object is compressed for itself, so that the link is not measured: on
/// this machine it is quicker than any codec.
pub(crate) fn start_delta(
    missing: Missing,
    level: Option<u32>,
    link: PackLink,
) -> Result<(PackingThread, PackReader), Error> {
    let level = level.unwrap_or(u32::from(!link.local));
    let (total, reused, asked) = (missing.bytes, missing.reused.clone(), missing.asked);
    let write = move |out: &mut PackWriter, _: Effort<'_>, packed: &AtomicU64| {
        let Missing {
            tree, head, wanted, ..
        } = &missing;
        let progress = &mut |n| packed.store(n, Ordering::Relaxed);
        tree.write_delta(head, wanted, (out, level), progress)
    };
    let (mut packing, payload) = begin((total, false), link, write)?;
    packing.reused = reused;
    packing.asked = asked;
    Ok((packing, payload))
}

/// Begins to write a payload of so many bytes of content; one that fits into the buffers may be written at once.
fn begin(
    (total, at_once): (u64, bool),
    link: PackLink,
    write: impl FnOnce(&mut PackWriter, Effort<'_>, &AtomicU64) -> Result<(), Error> + Send + 'static,
) -> Result<(PackingThread, PackReader), Error> {
    // With a place for the end.
    let (full, filled) = bounded(BUFFERS + 1);
    let (back, empty) = bounded(BUFFERS);
    for _ in 0..BUFFERS {
        // The channel has room for all of them.
        let _ = back.send(Vec::new());
    }
    let bytes = Arc::new(AtomicU64::new(0));
    let packed = Arc::clone(&bytes);
    let outflow = Arc::new(Outflow::default());
    let measured = Arc::clone(&outflow);
    let sent = Arc::new(AtomicU64::new(0));
    let pump = PackWriter {
        full,
        empty,
        buffer: Vec::new(),
        sent: Arc::clone(&sent),
    };
    let pack = move || {
        let outflow = &*measured;
        let PackLink { local, known, lz4 } = link;
        let link = Effort::Link {
            outflow,
            local,
            known,
            lz4,
        };
        pump.run(|out| write(out, link, &packed))
    };
    let work = match at_once {
        true => PackingWork::Ended(pack()),
        false => {
            let thread = std::thread::Builder::new().name("pack".into());
            let running = thread.spawn(pack);
            PackingWork::Running(running.doing(|| "starting the thread pack".into())?)
        }
    };
    let packing = PackingThread {
        work,
        bytes,
        total,
        sent,
        reused: None,
        asked: 0,
        outflow: Arc::clone(&outflow),
    };
    let pipe = PackReader {
        filled,
        back,
        buffer: Vec::new(),
        at: 0,
        ended: false,
        outflow,
        given: None,
    };
    Ok((packing, pipe))
}

impl PackingThread {
    /// Uncompressed bytes so far, and in all.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.total)
    }

    /// The bytes that were sent for a payload that brings only what is missing, and what is said of the rest.
    pub(crate) fn reused(&self) -> Option<(u64, &str)> {
        let reused = self.reused.as_deref()?;
        Some((self.asked + self.sent.load(Ordering::Relaxed), reused))
    }

    /// How many bytes a second the link took, if that has shown itself.
    pub(crate) fn link(&self) -> Option<u64> {
        self.outflow.link()
    }

    /// Why the payload could not be packed, if that is so. Waits for the thread, so the [`PackReader`] has to be at its end or
    /// dropped.
    pub(crate) fn failure(self) -> Option<Error> {
        let ended = match self.work {
            PackingWork::Ended(ended) => ended,
            PackingWork::Running(thread) => match thread.join() {
                Ok(ended) => ended,
                Err(_) => return Some(Error::new("packing", "the thread panicked")),
            },
        };
        match ended {
            Ok(()) => None,
            // Whoever read has turned away; that is not the packing's fault.
            Err(error) if error.io().is_some_and(is_gone) => None,
            Err(error) => Some(error),
        }
    }
}

/// The writing side.
struct PackWriter {
    full: Sender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    buffer: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl PackWriter {
    fn run(
        mut self,
        write: impl FnOnce(&mut PackWriter) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let result = write(&mut self).and_then(|()| self.pass_on().doing(|| "packing".into()));
        // An empty buffer is the end, an error is an error, and nothing at all would be one too.
        let last = match &result {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let _ = self.full.send(last);
        result
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = self.empty.recv().map_err(|_| gone())?;
        self.sent
            .fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        let full = std::mem::replace(&mut self.buffer, next);
        self.buffer.clear();
        self.full.send(Ok(full)).map_err(|_| gone())
    }
}

impl Write for &mut PackWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() < BUFFER {
            self.buffer.reserve_exact(BUFFER - self.buffer.len());
        }
        let n = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == BUFFER {
            self.pass_on()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The reading side.
pub(crate) struct PackReader {
    filled: Receiver<io::Result<Vec<u8>>>,
    back: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    outflow: Arc<Outflow>,
    /// When something was given to be sent, and how much. Who comes for more has sent it.
    given: Option<(Instant, usize)>,
}

impl Read for PackReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some((at, bytes)) = self.given.take() {
            self.outflow.sent(bytes, at.elapsed());
        }
        if self.at == self.buffer.len() && !self.ended {
            let next = self.filled.recv().unwrap_or_else(|_| Err(gone()))?;
            self.ended = next.is_empty();
            let used = std::mem::replace(&mut self.buffer, next);
            self.at = 0;
            // Full only for the first, empty buffer, which is not one of those that go round.
            let _ = self.back.try_send(used);
        }
        let n = out.len().min(self.buffer.len() - self.at);
        out[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        self.given = Some((Instant::now(), n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose other side is this function.
    fn piped(
        write: impl FnOnce(&mut PackWriter) -> Result<(), Error> + Send + 'static,
    ) -> (PackReader, JoinHandle<Result<(), Error>>) {
        let (full, filled) = bounded(BUFFERS);
        let (back, empty) = bounded(BUFFERS);
        for _ in 0..BUFFERS {
            back.send(Vec::new()).unwrap();
        }
        let pump = PackWriter {
            full,
            empty,
            buffer: Vec::new(),
            sent: Arc::default(),
        };
        let thread = std::thread::spawn(move || pump.run(write));
        let pipe = PackReader {
            filled,
            back,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            outflow: Arc::default(),
            given: None,
        };
        (pipe, thread)
    }

    #[test]
    fn a_link_that_is_known_decides_what_a_payload_begins_with() {
        let dir = std::env::temp_dir().join(format!("gangplank-pack-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a"), "text").unwrap();
        let plan = Arc::new(crate::formats::archive::plan(&dir, &Default::default()).unwrap());
        let (gzip, lz4) = ([0x1f, 0x8b, 8, 0], [0x04, 0x22, 0x4d, 0x18]);
        let quick = Some(312_000_000);
        let table = [
            // The level, what is known of the link, whether the server is here and whether it takes lz4.
            (None, quick, false, true, lz4),
            (None, quick, false, false, gzip),
            (None, quick, true, true, gzip),
            (None, None, false, true, gzip),
            (None, Some(12_500_000), false, true, gzip),
            (None, Some(2_000_000_000), false, true, gzip),
            (Some(1), quick, false, true, gzip),
        ];
        for (level, known, local, takes, expected) in table {
            let source = UploadSource::Plan(Arc::clone(&plan), level);
            let link = PackLink {
                local,
                known,
                lz4: takes,
            };
            let (packing, mut payload) = start(source, link).unwrap();
            let mut bytes = Vec::new();
            payload.read_to_end(&mut bytes).unwrap();
            assert!(packing.failure().is_none());
            assert_eq!(bytes[..4], expected, "{level:?} {link:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_written_is_read() {
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 20 * BUFFER + 5] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let expected = bytes.clone();
            let (mut pipe, thread) = piped(move |mut out| {
                for piece in bytes.chunks(10_007) {
                    out.write_all(piece).doing(|| "writing".into())?;
                }
                Ok(())
            });
            let mut read = Vec::new();
            pipe.read_to_end(&mut read).unwrap();
            assert!(read == expected, "{size}");
            assert_eq!(pipe.read(&mut [0; 8]).unwrap(), 0);
            thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_failure_is_never_an_end() {
        let (mut pipe, thread) = piped(|mut out| {
            out.write_all(b"half").doing(|| "writing".into())?;
            Err(Error::new("packing x", "it changed"))
        });
        let error = pipe.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("it changed"), "{error}");
        assert!(thread.join().unwrap().is_err());
        let (mut pipe, thread) = piped(|_| panic!("a bug"));
        assert!(pipe.read_to_end(&mut Vec::new()).is_err());
        assert!(thread.join().is_err());
    }

    #[test]
    fn a_reader_that_turns_away_ends_the_packing() {
        let (mut pipe, thread) = piped(|mut out| {
            loop {
                out.write_all(&[7; 4096]).doing(|| "writing".into())?;
            }
        });
        pipe.read_exact(&mut [0; 100]).unwrap();
        drop(pipe);
        assert!(
            thread
                .join()
                .unwrap()
                .unwrap_err()
                .io()
                .is_some_and(is_gone)
        );
    }
}
