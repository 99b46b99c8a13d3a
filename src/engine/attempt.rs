//! One running deployment: its journal, its record, and the promise that it ends.
//!
//! Whatever becomes of the thread that holds an [`Attempt`], the journal ends with exactly one `done` or `error` and the
//! record says the same: [`Attempt::end`] consumes it, and dropping it without that, as a panic does, ends it as a bug.
//! Only after that is the component free again.
//!
//! The journal is the truth: an event that it does not take fails the phase. The record is a fold over it that can be made
//! again, so a record that cannot be written fails nothing.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{
    Event, Failure, InstallLine, Opening, PeerEvent, Phase, PhaseEvent, PhaseStatus, Upload,
};
use crate::api::record::{Record, Summary};
use crate::engine::ending::Ending;
use crate::engine::outcome::{Failed, Outcome, Success};
use crate::engine::registry::Registry;
use crate::store::Store;
use crate::store::journal::{Journal, LiveFeed};
use crate::system::log;
use crate::system::stop::{SharedStopper, Stop};
use crate::system::time::now_ms;

/// What a phase adds to its `done` event.
pub type Facts = Map<String, Value>;

/// The waits before another try to write an end: a call that fails once, or a moment without descriptors, does not
/// make an end be told that is not on disk.
const WRITE_AGAIN: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// A running deployment.
pub struct Attempt {
    registry: Registry,
    /// None once the deployment has ended.
    open: Option<Open>,
    live: Arc<LiveFeed>,
    record: Record,
    stop: Stop,
    stopper: SharedStopper,
    phase: Option<Phase>,
}

/// What a deployment has until it ends.
struct Open {
    journal: Journal,
    /// Frees the component when it is dropped.
    hold: Box<dyn ComponentHold>,
}

/// Keeps a component busy, and frees it when it is dropped.
pub trait ComponentHold: Send {
    /// The end of the deployment is on its way to the disk, where it can be seen a moment before the component is free:
    /// whoever has seen it and wants the component waits that moment.
    fn is_ending(&self) {}
}

impl Attempt {
    /// Opens the journal of a new deployment. `hold` keeps the component busy for as long as the attempt lives.
    ///
    /// # Errors
    /// When the disk takes neither journal nor record: nothing of the deployment stays then.
    pub fn open(
        registry: Registry,
        opening: Opening,
        stops: (SharedStopper, Stop),
        hold: Box<dyn ComponentHold>,
    ) -> Result<Attempt, Error> {
        let id = opening.deployment_id;
        let store = &registry.store;
        let begun = begin(store, opening);
        let (journal, record) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let removed = store.remove_unbegun(id).and_then(|()| store.unmark(id));
                if let Err(error) = removed {
                    log::warn(&error.to_string());
                    // It is marked. Whoever looks after the marked ones removes it, once it does not count as running.
                    drop(hold);
                    store.ring();
                }
                return Err(error);
            }
        };
        log::info(&format!("deployment {id} of {} begins", record.project));
        Ok(Attempt::of(registry, (journal, record), stops, hold))
    }

    /// Goes on with a deployment that an earlier server left without its end.
    pub fn reopen(
        registry: Registry,
        (journal, record): (Journal, Record),
        stops: (SharedStopper, Stop),
        hold: Box<dyn ComponentHold>,
    ) -> Attempt {
        let id = record.deployment_id;
        log::info(&format!("deployment {id} of {} goes on", record.project));
        Attempt::of(registry, (journal, record), stops, hold)
    }

    fn of(
        registry: Registry,
        (journal, record): (Journal, Record),
        (stopper, stop): (SharedStopper, Stop),
        hold: Box<dyn ComponentHold>,
    ) -> Attempt {
        let id = record.deployment_id;
        registry.index.put(id, Summary::from(&record));
        Attempt {
            registry,
            live: Arc::clone(journal.live()),
            open: Some(Open { journal, hold }),
            record,
            stop,
            stopper,
            phase: None,
        }
    }

    /// The record as it is now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The place where followers join.
    pub fn live(&self) -> &Arc<LiveFeed> {
        &self.live
    }

    /// Ready when the deployment is to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Lets nobody stop the deployment from here on.
    ///
    /// # Errors
    /// `cancelled` if it was stopped before; `what` was being done.
    pub fn commit(&self, what: &str) -> Result<(), Refusal> {
        if self.stopper.disarm() {
            return Ok(());
        }
        let why = format!("{what} {}: stopped", self.record.project);
        Err(Refusal::new(Code::Cancelled, why))
    }

    /// Writes an event.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn emit(&mut self, event: &Event) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Err(Error::new("writing an event", "the deployment has ended"));
        };
        let entry = open.journal.append(event);
        self.registry.metrics.journal(open.journal.take_written());
        self.record.apply(&*entry?);
        Ok(())
    }

    /// Writes lines that came at once, each as an event of its own.
    ///
    /// # Errors
    /// When the disk does not take them; those before the first that it refused are written and told.
    pub fn emit_lines(&mut self, lines: Vec<InstallLine>) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Err(Error::new("writing an event", "the deployment has ended"));
        };
        let events = lines.into_iter().map(Event::Install);
        let written = open
            .journal
            .append_all(events, &mut |entries| self.record.apply_lines(entries));
        self.registry.metrics.journal(open.journal.take_written());
        written
    }

    /// Takes what happens at peers. What the disk does not take of it is in the log: the next thing that is written says so,
    /// too, and ends the deployment.
    pub fn peer_events(&mut self) -> impl FnMut(PeerEvent) + '_ {
        |event| {
            if let Err(error) = self.emit(&Event::Peer(event)) {
                log::warn(&error.to_string());
            }
        }
    }

    /// Tells who watches how far the upload is.
    pub fn upload(&self, upload: Upload) {
        if let Some(open) = &self.open {
            open.journal.upload(upload);
        }
    }

    /// Runs one phase between its `start` and its `done` or `error`.
    ///
    /// # Errors
    /// What the work refuses, or the journal.
    pub fn phase<T>(
        &mut self,
        phase: Phase,
        work: impl FnOnce(&mut Attempt) -> Result<(T, Facts), Box<Failed>>,
    ) -> Result<T, Box<Failed>> {
        let begun = Instant::now();
        self.phase = Some(phase);
        self.emit_phase(phase, PhaseStatus::Start, None, None, Facts::new())?;
        #[cfg(debug_assertions)]
        panic_if_asked(phase);
        let outcome = work(self);
        let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok((value, facts)) => {
                self.emit_phase(phase, PhaseStatus::Done, Some(elapsed), None, facts)?;
                Ok(value)
            }
            Err(failed) => {
                let message = Some(failed.refusal.message.clone());
                // The refusal is what matters; a disk that takes no more shows at the end.
                let told = self.emit_phase(
                    phase,
                    PhaseStatus::Error,
                    Some(elapsed),
                    message,
                    Facts::new(),
                );
                if let Err(error) = told {
                    log::warn(&error.to_string());
                }
                Err(failed)
            }
        }
    }

    /// Writes that there was nothing to do in a phase.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn skip(&mut self, phase: Phase, why: &str) -> Result<(), Error> {
        self.phase = Some(phase);
        self.emit_phase(
            phase,
            PhaseStatus::Skipped,
            None,
            Some(why.to_owned()),
            Facts::new(),
        )
    }

    /// Ends the deployment: the terminal event is on disk, and the record says so, then the component is free, then it is told. A
    /// success that the disk does not take is undone and is a failure. What of a failure the disk does not take is told all
    /// the same. What is left to be written is returned.
    pub fn end(mut self, outcome: Outcome<'_>) -> Option<Ending> {
        self.finish(outcome)
    }

    fn emit_phase(
        &mut self,
        phase: Phase,
        status: PhaseStatus,
        elapsed_ms: Option<u64>,
        message: Option<String>,
        facts: Facts,
    ) -> Result<(), Error> {
        let phase = phase.word().into();
        let at = Some(now_ms());
        let event = PhaseEvent {
            phase,
            status,
            at,
            elapsed_ms,
            message,
            facts,
        };
        self.registry.metrics.phase(&event);
        self.emit(&Event::Phase(event))?;
        let id = self.record.deployment_id;
        self.registry.index.put(id, Summary::from(&self.record));
        if let Err(error) = self.registry.store.write_record(&self.record, false) {
            log::warn(&error.to_string());
        }
        Ok(())
    }

    fn finish(&mut self, outcome: Outcome<'_>) -> Option<Ending> {
        let Open { journal, hold } = self.open.take()?;
        hold.is_ending();
        let (store, record) = (Arc::clone(&self.registry.store), self.record.clone());
        let (mut ending, refusal) = match outcome {
            Ok(success) => {
                let event = Event::Done(self.result(&success));
                let mut ending = Ending::new(store, journal, record, &event);
                match ending.seal() {
                    Ok(()) => {
                        success.made.settle();
                        (ending, None)
                    }
                    Err(error) => {
                        let mut failed = Box::<Failed>::from(error);
                        success.made.undo(&mut failed);
                        let event = Event::Error(Box::new(self.failure(&failed)));
                        (ending.instead(&event), Some(failed.refusal))
                    }
                }
            }
            Err(failed) => {
                let event = Event::Error(Box::new(self.failure(&failed)));
                let ending = Ending::new(store, journal, record, &event);
                (ending, Some(failed.refusal))
            }
        };
        let written = persist(&mut ending);
        ending.apply();
        self.registry.metrics.end(ending.record());
        self.registry.metrics.journal(ending.take_written());
        let id = self.record.deployment_id;
        self.registry.index.put(id, Summary::from(ending.record()));
        if let Err(error) = &written {
            log::error(&format!("ending deployment {id}: {error}"));
            self.registry.store.keep_unwritten(ending.record());
        }
        self.registry.keep_feed(id, Arc::clone(&self.live));
        drop(hold);
        ending.publish();
        log_end(ending.record(), refusal.as_ref());
        Some(ending)
    }

    fn result(&self, success: &Success<'_>) -> Value {
        let mut result = self.record.result(success.staged, now_ms());
        if let (true, Some(message)) = (success.restarted, result["message"].as_str()) {
            result["message"] = format!("{message}, restarted").into();
        }
        if success.published_unknown {
            result["published"] = "unknown".into();
        }
        if !success.peer_results.is_empty() {
            result["peer_results"] = success.peer_results.clone().into();
        }
        result
    }

    fn failure(&self, failed: &Failed) -> Failure {
        Failure {
            message: failed.refusal.message.clone(),
            code: failed.refusal.code.word().to_owned(),
            phase: self.phase.map(|phase| phase.word().to_owned()),
            deployment_id: Some(self.record.deployment_id.to_string()),
            install_output: failed.install_output.clone(),
            more: failed.more.clone(),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let why =
            "deploying: the worker ended unexpectedly, which is a bug; the server's log has more";
        // What of this end the disk does not take is written by the next start.
        let ending = self.finish(Err(Refusal::new(Code::Internal, why).into()));
        if ending.is_some_and(|mut ending| ending.write().is_ok()) {
            self.registry.forget_feed(self.record.deployment_id);
        }
    }
}

/// Writes an end down, and tries a few times.
fn persist(ending: &mut Ending) -> Result<(), Error> {
    let mut written = ending.write_down();
    for wait in WRITE_AGAIN {
        if written.is_ok() {
            break;
        }
        thread::sleep(wait);
        written = ending.write_down();
    }
    written
}

fn log_end(record: &Record, refusal: Option<&Refusal>) {
    let of = format!("deployment {} of {}", record.deployment_id, record.project);
    match refusal {
        None => log::info(&format!(
            "{of} is done after {} ms",
            record.elapsed_ms.unwrap_or(0)
        )),
        Some(refusal) => log::warn(&format!("{of} failed: {refusal}")),
    }
}

fn begin(store: &Store, opening: Opening) -> Result<(Journal, Record), Error> {
    // Before anything else: what has no end is found by it.
    store.mark(opening.deployment_id)?;
    let dir = store.create_deployment(opening.deployment_id)?;
    let mut journal = Journal::create(&dir)?;
    let entry = journal.append(&Event::Deployment(Box::new(opening)))?;
    let record = Record::fold([&*entry]).ok_or_else(|| {
        Error::new(
            "opening a deployment",
            "its first event does not open a deployment",
        )
    })?;
    if let Err(error) = store.write_record(&record, false) {
        log::warn(&error.to_string());
    }
    Ok((journal, record))
}

/// Lets a test see what a panic in a phase leaves behind.
#[cfg(debug_assertions)]
fn panic_if_asked(phase: Phase) {
    if std::env::var("GANGPLANK_TEST_PANIC").is_ok_and(|asked| asked == phase.word()) {
        panic!("the test asked for a panic in phase {}", phase.word());
    }
}
