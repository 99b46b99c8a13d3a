//! A payload from whichever host has it, known by its SHA-256 alone.
//!
//! The holders are asked in an order of their own each time, so that all of them give about as much; those of the same place come
//! first, and the origin last. What breaks off goes on at the next one from where it stood. Nobody is believed: the payload counts when it has its
//! SHA-256, and a host that sent another one is not asked again for an hour.

mod ask;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select_biased};
use sha2::{Digest, Sha256};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::Secret;
use crate::engine::deployer::Deployer;
use crate::engine::holders::ask::FleetHosts;
use crate::store::Store;
use crate::system::files::{self, gone};
use crate::system::hex;
use crate::system::log;
use crate::system::memory::Pages;
use crate::system::stop::Stop;

/// How long a host is not asked that sent what it should not have.
const BAD_FOR: Duration = Duration::from_secs(60 * 60);
/// Rounds in a row in which nobody had it, before it counts as gone: a host may have been about to say that it has it.
const EMPTY_ROUNDS_MAX: u32 = 3;
/// Where every holder sends to others, this is how long it takes at most until one of them has a place.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// How many hosts are asked in a round before the origin is: those that answer nothing cost half a minute each.
const ASKED_MAX: usize = 8;
/// How often a payload is begun anew because what had come was wrong.
const RESTARTS_MAX: u32 = 8;
/// From one round to the next, and up to as much again, so that those who wait do not come back together.
const PAUSE: Duration = Duration::from_millis(500);

/// A host that may have a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadHolder {
    /// What it is called.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Whether it stands in the same place, so that what it sends is quick and costs nobody a line.
    pub is_near: bool,
}

/// What is wanted.
#[derive(Debug)]
pub struct WantedPayload<'a> {
    /// The component.
    pub project: &'a str,
    /// Its SHA-256 in hex.
    pub sha256: &'a str,
    /// Its length.
    pub size: u64,
}

/// Who may have it.
#[derive(Debug, Clone, Default)]
pub struct PayloadHolders {
    /// Hosts that say so, in any order.
    pub others: Vec<PayloadHolder>,
    /// The host that had it first.
    pub origin: Option<PayloadHolder>,
}

/// What a host answered to the question for a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HolderAnswer {
    /// It sent what it has, to the end.
    Ended,
    /// It sends to as many others as it can.
    Busy,
    /// It does not have it.
    Lacks,
    /// It could not be asked, or the connection broke.
    Broken(String),
}

/// How a host is asked for what a part lacks. Trouble with the disk is an error.
trait AskHolder: Send + Sync {
    fn ask(
        &self,
        holder: &PayloadHolder,
        part: &mut PartialPayload,
        stop: &Stop,
    ) -> Result<HolderAnswer, Refusal>;
}

/// A payload that was fetched. Its file goes with it.
#[derive(Debug)]
pub struct ReceivedPayload {
    /// The payload, at its beginning.
    pub file: File,
    path: PathBuf,
    _turn: FetchTurn,
}

impl Drop for ReceivedPayload {
    fn drop(&mut self) {
        if let Err(error) = gone(fs::remove_file(&self.path)) {
            log::warn(&format!("removing {}: {error}", self.path.display()));
        }
    }
}

/// The payloads that are being fetched, or were and are being deployed: what else is there is left over.
type Turns = Arc<Mutex<BTreeSet<String>>>;

#[derive(Debug)]
struct FetchTurn {
    turns: Turns,
    sha256: String,
}

impl Drop for FetchTurn {
    fn drop(&mut self) {
        lock(&self.turns).remove(&self.sha256);
    }
}

/// Fetches payloads.
pub struct PayloadFetcher {
    hosts: Box<dyn AskHolder>,
    /// The hosts that sent a wrong one, and until when they are not asked.
    bad: Mutex<HashMap<String, Instant>>,
    turns: Turns,
    pause: Duration,
}

impl PayloadFetcher {
    /// With a token of role `fleet`, which all hosts share, and the certificates to trust, if not the public ones.
    pub fn new(token: Secret, ca: Option<PathBuf>) -> PayloadFetcher {
        PayloadFetcher::asking(Box::new(FleetHosts::new(token, ca)), PAUSE)
    }

    fn asking(hosts: Box<dyn AskHolder>, pause: Duration) -> PayloadFetcher {
        PayloadFetcher {
            hosts,
            bad: Mutex::default(),
            turns: Turns::default(),
            pause,
        }
    }

    /// Fetches a payload into the root of the deployer, from which other hosts may have it then. `holders` is asked before each
    /// round; `tell` hears of each host that sent what it should not have.
    ///
    /// # Errors
    /// `not_found` if nobody has it any longer, `fetch_failed` if nobody could send it, `no_space`, and `cancelled`.
    pub fn fetch(
        &self,
        deployer: &Deployer,
        wanted: &WantedPayload<'_>,
        holders: &mut dyn FnMut() -> PayloadHolders,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
    ) -> Result<ReceivedPayload, Refusal> {
        deployer.has_room(wanted.project, wanted.size)?;
        let store = &deployer.registry().store;
        self.fetch_into(store, wanted, holders, stop, tell)
    }

    fn fetch_into(
        &self,
        store: &Store,
        wanted: &WantedPayload<'_>,
        holders: &mut dyn FnMut() -> PayloadHolders,
        stop: &Stop,
        tell: &mut dyn FnMut(&str),
    ) -> Result<ReceivedPayload, Refusal> {
        // It names a file here.
        if wanted.sha256.len() != 64 || !wanted.sha256.bytes().all(|one| one.is_ascii_hexdigit()) {
            return Err(wanted.refusal(Code::BadRequest, "that is not a SHA-256"));
        }
        let turn = self.begin(store, wanted)?;
        let mut part = PartialPayload::open(store, wanted)?;
        let (mut empty_rounds, mut waited) = (0, Duration::ZERO);
        loop {
            let (begun, mut is_busy, mut reasons) = (part.length, false, Vec::new());
            for holder in self.in_order(holders()) {
                if stop.stopped() {
                    return Err(wanted.refusal(Code::Cancelled, "stopped"));
                }
                part.belongs_to(&holder.name)?;
                match self.hosts.ask(&holder, &mut part, stop)? {
                    HolderAnswer::Busy => is_busy = true,
                    HolderAnswer::Ended => {}
                    HolderAnswer::Lacks => reasons.push((holder.name, None)),
                    HolderAnswer::Broken(why) => reasons.push((holder.name, Some(why))),
                }
                if part.is_right()? {
                    return part.into_whole(store, turn);
                }
                if part.length >= part.size {
                    self.blame(&mut part, wanted, tell)?;
                }
            }
            let progressed = part.length > begun;
            match is_busy || progressed {
                true => empty_rounds = 0,
                false => empty_rounds += 1,
            }
            if progressed {
                waited = Duration::ZERO;
            }
            if empty_rounds >= EMPTY_ROUNDS_MAX || waited > BUSY_MAX {
                return Err(given_up(wanted, is_busy, &reasons));
            }
            let pause = self.pause.mul_f64(1.0 + random_part());
            waited += pause;
            select_biased! {
                recv(stop.channel()) -> _ => {
                    return Err(wanted.refusal(Code::Cancelled, "stopped"));
                }
                recv(after(pause)) -> _ => {}
            }
        }
    }

    /// Takes the turn of a payload, and removes what was left over of others.
    fn begin(&self, store: &Store, wanted: &WantedPayload<'_>) -> Result<FetchTurn, Refusal> {
        let dir = store.fetched_payloads();
        let what = || format!("making {}", dir.display());
        files::make_dirs(&dir, 0o700).doing(what)?;
        let mut turns = lock(&self.turns);
        if !turns.insert(wanted.sha256.to_owned()) {
            let why = "another component is fetching the same one; try again";
            return Err(wanted.refusal(Code::FetchFailed, why));
        }
        let turn = FetchTurn {
            turns: Arc::clone(&self.turns),
            sha256: wanted.sha256.to_owned(),
        };
        for entry in fs::read_dir(&dir).doing(what)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = name.split('.').next().unwrap_or_default();
            if !turns.contains(of) {
                if let Err(error) = gone(fs::remove_file(entry.path())) {
                    log::warn(&format!("removing {}: {error}", entry.path().display()));
                }
            }
        }
        Ok(turn)
    }

    /// Those that may be asked, in an order of their own each time: those of the same place first, the origin last.
    fn in_order(&self, holders: PayloadHolders) -> Vec<PayloadHolder> {
        let now = Instant::now();
        let mut bad = lock(&self.bad);
        bad.retain(|_, until| *until > now);
        let PayloadHolders { mut others, origin } = holders;
        let is_origin = |holder: &PayloadHolder| {
            let origin = origin.as_ref();
            origin.is_some_and(|origin| origin.name == holder.name)
        };
        others.retain(|holder| !is_origin(holder));
        for end in (1..others.len()).rev() {
            // Which of so many: the rounding favours nobody by more than a host in a million.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            let at = (random_part() * (end + 1) as f64) as usize;
            others.swap(at.min(end), end);
        }
        let is_good = |holder: &PayloadHolder| !bad.contains_key(&holder.name);
        others.retain(is_good);
        // It keeps the order of equals.
        others.sort_by_key(|holder| !holder.is_near);
        others.truncate(ASKED_MAX);
        others.into_iter().chain(origin.filter(is_good)).collect()
    }

    /// Throws a wrong payload away. If one host sent all of it, that one is not asked again for long; if several did, nobody
    /// knows which one it was, so one host has to send all of it now.
    fn blame(
        &self,
        part: &mut PartialPayload,
        wanted: &WantedPayload<'_>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), Refusal> {
        match part.senders.len() {
            1 => {
                let until = Instant::now() + BAD_FOR;
                for name in &part.senders {
                    lock(&self.bad).insert(name.clone(), until);
                    tell(&format!(
                        "{name} sent another payload than the one with the SHA-256 {}; it is not asked for an hour",
                        wanted.sha256
                    ));
                }
            }
            _ => part.alone = true,
        }
        part.restart()?;
        match part.restarts > RESTARTS_MAX {
            true => Err(wanted.refusal(Code::FetchFailed, "what comes has another SHA-256")),
            false => Ok(()),
        }
    }
}

/// What has come of a payload.
struct PartialPayload {
    sha256: String,
    size: u64,
    path: PathBuf,
    file: File,
    length: u64,
    /// Who sent it. Of what was there before nobody knows.
    senders: BTreeSet<String>,
    /// Pieces of several hosts made a wrong whole.
    alone: bool,
    restarts: u32,
}

/// Who sent what an earlier server has left.
const SOMEBODY: &str = "";

impl PartialPayload {
    fn open(store: &Store, wanted: &WantedPayload<'_>) -> Result<PartialPayload, Refusal> {
        let path = store.partly_fetched_payload(wanted.sha256);
        let what = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(&path).doing(what)?;
        let length = file.metadata().doing(what)?.len();
        let mut part = PartialPayload {
            sha256: wanted.sha256.to_owned(),
            size: wanted.size,
            path,
            file,
            length,
            senders: BTreeSet::new(),
            alone: false,
            restarts: 0,
        };
        if length > 0 {
            part.senders.insert(SOMEBODY.to_owned());
        }
        if length > part.size {
            part.restart()?;
        }
        Ok(part)
    }

    fn restart(&mut self) -> Result<(), Refusal> {
        let what = || format!("writing {}", self.path.display());
        self.file.set_len(0).doing(what)?;
        self.length = 0;
        self.senders.clear();
        self.restarts += 1;
        Ok(())
    }

    /// Makes sure that what comes from this host may follow what is there.
    fn belongs_to(&mut self, sender: &str) -> Result<(), Refusal> {
        let is_other = self.senders.iter().any(|one| one != sender);
        match self.alone && is_other {
            true => self.restart(),
            false => Ok(()),
        }
    }

    /// What follows begins at this byte: where it was asked for, or at the beginning.
    fn begins_at(&mut self, sender: &str, at: u64) -> Result<(), Refusal> {
        if at != self.length {
            self.restart()?;
        }
        self.senders.insert(sender.to_owned());
        Ok(())
    }

    /// Takes bytes; false if there are too many of them, which are not what is wanted then.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        self.length += bytes.len() as u64;
        if self.length > self.size {
            return Ok(false);
        }
        let what = || format!("writing {}", self.path.display());
        self.file.write_all(bytes).doing(what)?;
        Ok(true)
    }

    /// Whether it is what is wanted.
    fn is_right(&mut self) -> Result<bool, Refusal> {
        if self.length != self.size {
            return Ok(false);
        }
        let what = || format!("reading {}", self.path.display());
        self.file.rewind().doing(what)?;
        let mut hash = Sha256::new();
        let mut buffer = Pages::new(64 << 10);
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => hash.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(what).map_err(Into::into),
            }
        }
        Ok(hex::encode(hash.finalize()) == self.sha256)
    }

    fn into_whole(mut self, store: &Store, turn: FetchTurn) -> Result<ReceivedPayload, Refusal> {
        let path = store.fetched_payload(&self.sha256);
        let what = || format!("making {}", path.display());
        fs::rename(&self.path, &path).doing(what)?;
        self.file.rewind().doing(what)?;
        Ok(ReceivedPayload {
            file: self.file,
            path,
            _turn: turn,
        })
    }
}

impl WantedPayload<'_> {
    fn refusal(&self, code: Code, why: &str) -> Refusal {
        let (project, sha256) = (self.project, self.sha256);
        Refusal::new(
            code,
            format!("fetching the payload of {project}, {sha256}: {why}"),
        )
    }
}

/// Why nobody is asked any longer.
fn given_up(
    wanted: &WantedPayload<'_>,
    is_busy: bool,
    reasons: &[(String, Option<String>)],
) -> Refusal {
    if is_busy {
        let why = format!("timed out: no host had a place in {} s", BUSY_MAX.as_secs());
        return wanted.refusal(Code::FetchFailed, &why);
    }
    let broken = reasons.iter();
    let broken = broken.filter_map(|(name, why)| Some(format!("{name}: {}", why.as_ref()?)));
    let broken: Vec<String> = broken.collect();
    match (broken.is_empty(), reasons.is_empty()) {
        (false, _) => wanted.refusal(Code::FetchFailed, &broken.join("; ")),
        (true, false) => wanted.refusal(Code::NotFound, "no host has it any longer"),
        (true, true) => wanted.refusal(Code::FetchFailed, "there is no host to ask"),
    }
}

/// A random number from 0 up to 1.
fn random_part() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the order is a bad one, and the payload comes all the same.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one insertion or removal.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
