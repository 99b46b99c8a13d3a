use super::*;
use serde_json::json;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::system::files;

/// For a follower to wait once.
const MOMENT: Duration = Duration::from_millis(1);

struct JournalDir(PathBuf);

impl JournalDir {
    fn new(name: &str) -> JournalDir {
        let dir =
            std::env::temp_dir().join(format!("gangplank-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        JournalDir(dir)
    }
}

impl Drop for JournalDir {
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
    let dir = JournalDir::new("same");
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
fn what_cannot_be_read_for_a_moment_is_read_after_it() {
    let dir = JournalDir::new("moment");
    let mut journal = Journal::create(&dir.0).unwrap();
    journal.append(&warning("a")).unwrap();
    let (file, away) = (dir.0.join("events.ndjson"), dir.0.join("away"));
    for live in [None, Some(Arc::clone(journal.live()))] {
        let mut follower = Follower::new(&dir.0, 0, live.as_ref());
        // A directory can be opened, and not be read as a file. There is always one of the two: a journal whose file is
        // missing is one that has nothing to say.
        fs::create_dir(&away).unwrap();
        assert!(files::exchange(&file, &away).unwrap());
        let step = thread::scope(|scope| {
            let read = scope.spawn(|| follower.next(Duration::ZERO).unwrap());
            // The first try should fail; the test holds as well if it is late.
            thread::sleep(Duration::from_millis(20));
            assert!(files::exchange(&file, &away).unwrap());
            read.join().unwrap()
        });
        fs::remove_dir(&away).unwrap();
        assert!(matches!(step, Step::Entry(entry) if entry.id == 1));
    }
}

#[test]
fn a_follower_that_falls_behind_misses_nothing() {
    let dir = JournalDir::new("behind");
    let mut journal = Journal::create(&dir.0).unwrap();
    let total = 3 * CHANNEL_CAPACITY as u64;
    let mut slow = Follower::new(&dir.0, 0, Some(journal.live()));
    // It has waited, so that its channel is there to be full.
    assert!(matches!(slow.next(MOMENT).unwrap(), Step::Idle));
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

/// Some lines of this length, and what they are told as by whoever wrote them.
fn append_all(journal: &mut Journal, count: usize, len: usize) -> Vec<u64> {
    let mut told = Vec::new();
    let events = (0..count).map(|_| warning(&"x".repeat(len)));
    let written = journal.append_all(events, &mut |entries| {
        told.extend(entries.iter().map(|entry| entry.id));
    });
    written.unwrap();
    told
}

#[test]
fn what_comes_at_once_is_in_the_same_files_as_what_comes_singly() {
    // With lines of 300 KiB the files end within what comes at once; of a line that fills one alone there are three.
    for (batches, count, len) in [(3, 5, 10), (4, 20, 300 << 10), (1, 3, 5 << 20)] {
        let (singly, together) = (JournalDir::new("singly"), JournalDir::new("together"));
        let mut journal = Journal::create(&singly.0).unwrap();
        for _ in 0..batches * count {
            journal.append(&warning(&"x".repeat(len))).unwrap();
        }
        let expected = all_but_end(Follower::new(&singly.0, 0, Some(journal.live())));
        let mut journal = Journal::create(&together.0).unwrap();
        let follower = Follower::new(&together.0, 0, Some(journal.live()));
        let told: Vec<u64> = (0..batches)
            .flat_map(|_| append_all(&mut journal, count, len))
            .collect();
        assert!(told.iter().copied().eq(1..=(batches * count) as u64));
        assert_eq!(journal.last_id(), told.len() as u64);
        assert_eq!(all_but_end(follower), expected, "{len}");
        let lines = |dir: &JournalDir| {
            let segments = segments(&dir.0).unwrap();
            let count = |n: &u32| {
                let text = fs::read(segment_path(&dir.0, *n)).unwrap();
                memchr::memchr_iter(b'\n', &text).count()
            };
            segments.iter().map(count).collect::<Vec<_>>()
        };
        assert_eq!(lines(&together), lines(&singly), "{len}");
    }
}

#[test]
fn what_the_disk_takes_of_lines_that_come_at_once_is_kept() {
    let dir = JournalDir::new("partly");
    let mut journal = Journal::create(&dir.0).unwrap();
    // A socket takes what its buffer holds and no more, as a disk that gets full does.
    let (taken, full) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    let file = std::mem::replace(&mut journal.file, File::from(OwnedFd::from(full)));
    let text = "x".repeat(8 << 10);
    let mut told = Vec::new();
    let written = journal.append_all((0..255).map(|_| warning(&text)), &mut |entries| {
        told.extend(entries.iter().map(|entry| entry.id));
    });
    assert!(written.is_err());
    assert!(!told.is_empty() && told.len() < 255, "{}", told.len());
    assert!(told.iter().copied().eq(1..=told.len() as u64));
    assert_eq!(journal.last_id(), told.len() as u64);
    // They are what is there in whole lines.
    taken.set_nonblocking(true).unwrap();
    let mut text = Vec::new();
    assert!(
        (&taken).read_to_end(&mut text).is_err(),
        "its writer is there"
    );
    assert_eq!(memchr::memchr_iter(b'\n', &text).count(), told.len());
    // Behind them is room for the end.
    let bytes = memchr::memrchr(b'\n', &text).unwrap() + 1;
    assert_eq!(journal.segment_bytes, bytes as u64);
    (&file).write_all(&text).unwrap();
    journal.file = file;
    journal.append(&done()).unwrap();
    let last = told.len() as u64 + 1;
    assert!(
        all(Follower::new(&dir.0, 0, None))
            .into_iter()
            .map(|(id, _)| id)
            .eq(1..=last)
    );
}

/// All that a follower who never waits sees of a journal that goes on.
fn all_but_end(mut follower: Follower) -> Vec<(u64, String)> {
    let entries = std::iter::from_fn(|| match follower.next(Duration::ZERO).unwrap() {
        Step::Entry(entry) => Some((entry.id, entry.event.to_string())),
        _ => None,
    });
    entries.collect()
}

#[test]
fn what_waits_for_a_slow_follower_is_bounded_in_bytes() {
    // Many short lines at once, and a few long ones.
    for (batches, count, len) in [(100, 256, 10), (100, 8, 8 << 10)] {
        let dir = JournalDir::new("bounded");
        let mut journal = Journal::create(&dir.0).unwrap();
        let mut slow = Follower::new(&dir.0, 0, Some(journal.live()));
        assert!(matches!(slow.next(MOMENT).unwrap(), Step::Idle));
        let waiting = |journal: &Journal| {
            let followers = journal.live().lock();
            followers.channels[0].waiting.load(Ordering::Acquire)
        };
        for _ in 0..batches {
            append_all(&mut journal, count, len);
            assert!(waiting(&journal) <= WAITING_MAX, "{len}");
        }
        assert!(waiting(&journal) > WAITING_MAX / 2, "{len}");
        journal.append(&done()).unwrap();
        let last = (batches * count) as u64 + 1;
        assert!(all(slow).into_iter().map(|(id, _)| id).eq(1..=last));
    }
}

#[test]
fn the_middle_of_a_long_journal_is_dropped_and_counted() {
    let dir = JournalDir::new("long");
    let mut journal = Journal::create(&dir.0).unwrap();
    let mut early = Follower::new(&dir.0, 0, Some(journal.live()));
    assert!(matches!(early.next(MOMENT).unwrap(), Step::Idle));
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
        let dir = JournalDir::new(&format!("torn{n}"));
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
    let dir = JournalDir::new("upload");
    let mut journal = Journal::create(&dir.0).unwrap();
    let mut live = Follower::new(&dir.0, 0, Some(journal.live()));
    let mut reader = Follower::new(&dir.0, 0, Some(journal.live()));
    // Who waits is there, and who only reads is not.
    assert!(matches!(live.next(MOMENT).unwrap(), Step::Idle));
    assert!(matches!(reader.next(Duration::ZERO).unwrap(), Step::Idle));
    journal.upload(Upload {
        bytes: 7,
        total: None,
    });
    assert!(matches!(
        live.next(Duration::ZERO).unwrap(),
        Step::Upload(Upload { bytes: 7, .. })
    ));
    assert!(matches!(reader.next(Duration::ZERO).unwrap(), Step::Idle));
    journal.append(&done()).unwrap();
    assert_eq!(
        all(Follower::new(&dir.0, 0, Some(journal.live()))),
        [(1, "done".to_owned())]
    );
}
