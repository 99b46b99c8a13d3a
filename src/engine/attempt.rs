//! One running deployment: its journal, its record, and the promise that it ends.
//!
//! Whatever becomes of the thread that holds an [`Attempt`], the journal ends with exactly one `done` or `error` and the
//! record says the same: [`Attempt::end`] consumes it, and dropping it without that, as a panic does, ends it as a bug.
//! Only after that is the component free again.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{
    Event, Failure, InstallOutput, Opening, Phase, PhaseEvent, PhaseStatus, Upload,
};
use crate::api::record::{Record, Summary};
use crate::store::Store;
use crate::store::index::Index;
use crate::store::journal::{Journal, LiveFeed};
use crate::system::log;
use crate::system::stop::{SharedStopper, Stop};
use crate::system::time::now_ms;

/// What a phase adds to its `done` event.
pub type Facts = Map<String, Value>;

/// Where deployments are kept and known.
#[derive(Clone)]
pub struct Registry {
    /// On disk.
    pub store: Arc<Store>,
    /// In memory.
    pub index: Arc<Index>,
}

/// A running deployment.
pub struct Attempt {
    registry: Registry,
    journal: Journal,
    record: Record,
    stop: Stop,
    stopper: SharedStopper,
    staged: bool,
    restarted: bool,
    more: Map<String, Value>,
    peers: Vec<Value>,
    phase: Option<Phase>,
    output: Option<InstallOutput>,
    ended: bool,
    /// Frees the component when it is dropped.
    hold: Option<Box<dyn Send>>,
}

impl Attempt {
    /// Opens the journal of a new deployment. `hold` keeps the component busy for as long as the attempt lives.
    ///
    /// # Errors
    /// When the disk takes neither journal nor record: nothing of the deployment stays then.
    pub fn open(
        registry: Registry,
        opening: Opening,
        (stopper, stop): (SharedStopper, Stop),
        hold: Box<dyn Send>,
    ) -> Result<Attempt, Error> {
        let id = opening.deployment_id;
        let store = &registry.store;
        let begun = begin(store, opening);
        let (journal, record) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let removed = store.remove_deployment(id).and_then(|()| store.unmark(id));
                if let Err(error) = removed {
                    log::warn(&error.to_string());
                }
                return Err(error);
            }
        };
        registry.index.put(id, Summary::from(&record));
        log::info(&format!("deployment {id} of {} begins", record.project));
        Ok(Attempt {
            registry,
            journal,
            record,
            stop,
            stopper,
            staged: false,
            restarted: false,
            more: Map::new(),
            peers: Vec::new(),
            phase: None,
            output: None,
            ended: false,
            hold: Some(hold),
        })
    }

    /// The record as it is now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The place where followers join.
    pub fn live(&self) -> &Arc<LiveFeed> {
        self.journal.live()
    }

    /// Ready when the deployment is to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// From here on it cannot be stopped any more. False if it was before.
    pub fn commit(&self) -> bool {
        self.stopper.disarm()
    }

    /// It ends with a release that is kept, and is not live.
    pub fn stage(&mut self) {
        self.staged = true;
    }

    /// Its processes were restarted.
    pub fn restarted(&mut self) {
        self.restarted = true;
    }

    /// Adds something to the error that ends it.
    pub fn add_to_error(&mut self, name: &str, value: Value) {
        self.more.insert(name.to_owned(), value);
    }

    /// What was put back was not put back because of it.
    pub fn forget_rollback(&mut self) {
        self.more.remove("rolled_back_to");
    }

    /// How its peers did.
    pub fn peers(&mut self, results: Vec<Value>) {
        self.peers = results;
    }

    /// Writes an event.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn emit(&mut self, event: &Event) -> Result<(), Error> {
        let entry = self.journal.append(event)?;
        self.record.apply(&entry);
        Ok(())
    }

    /// Keeps what an installation printed last, for the error that ends the deployment.
    pub fn keep_output(&mut self, output: InstallOutput) {
        if !output.lines.is_empty() {
            self.output = Some(output);
        }
    }

    /// Tells who watches how far the upload is.
    pub fn upload(&self, upload: Upload) {
        self.journal.upload(upload);
    }

    /// Makes what was written so far survive a power loss.
    ///
    /// # Errors
    /// When the disk reports an error.
    pub fn sync(&self) -> Result<(), Error> {
        self.journal.sync()
    }

    /// Runs one phase between its `start` and its `done` or `error`.
    ///
    /// # Errors
    /// What the work refuses.
    pub fn phase<T>(
        &mut self,
        phase: Phase,
        work: impl FnOnce(&mut Attempt) -> Result<(T, Facts), Refusal>,
    ) -> Result<T, Refusal> {
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
            Err(refusal) => {
                let message = Some(refusal.message.clone());
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
                Err(refusal)
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

    /// Ends the deployment: the terminal event, the record, and then the component is free.
    pub fn end(mut self, outcome: Result<(), Refusal>) {
        self.finish(outcome);
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
        self.emit(&Event::Phase(PhaseEvent {
            phase,
            status,
            at,
            elapsed_ms,
            message,
            facts,
        }))?;
        let id = self.record.deployment_id;
        self.registry.index.put(id, Summary::from(&self.record));
        self.registry.store.write_record(&self.record, false)
    }

    fn finish(&mut self, outcome: Result<(), Refusal>) {
        self.ended = true;
        let id = self.record.deployment_id;
        let event = match &outcome {
            Ok(()) => {
                let mut result = self.record.result(self.staged, now_ms());
                if let (true, Some(message)) = (self.restarted, result["message"].as_str()) {
                    result["message"] = format!("{message}, restarted").into();
                }
                if !self.peers.is_empty() {
                    result["peer_results"] = std::mem::take(&mut self.peers).into();
                }
                Event::Done(result)
            }
            Err(refusal) => Event::Error(Box::new(self.failure(refusal))),
        };
        // Nobody is told anything that the next start would not say too, nor of an end before the component is free: the
        // entry and the record are on disk, then the component is free, then it is said. A disk that fails here must not
        // keep the end from the watchers, so it is said all the same.
        let (entry, written) = self.journal.seal(&event);
        self.record.apply(&entry);
        let written = written.and_then(|()| self.journal.sync());
        checkpoint("recorded");
        let store = &self.registry.store;
        let written = written.and_then(|()| store.write_record(&self.record, true));
        // The mark goes last: as long as it is there, the next start looks after this deployment.
        let written = written.and_then(|()| store.unmark(id));
        checkpoint("ended");
        self.registry.index.put(id, Summary::from(&self.record));
        if let Err(error) = &written {
            log::error(&format!("ending deployment {id}: {error}"));
        } else {
            self.hold = None;
        }
        self.journal.publish(&entry);
        let of = format!("deployment {id} of {}", self.record.project);
        match outcome {
            Ok(()) => log::info(&format!(
                "{of} is done after {} ms",
                self.record.elapsed_ms.unwrap_or(0)
            )),
            Err(refusal) => log::warn(&format!("{of} failed: {refusal}")),
        }
    }

    fn failure(&mut self, refusal: &Refusal) -> Failure {
        if !self.peers.is_empty() {
            let results = std::mem::take(&mut self.peers);
            self.more.insert("peer_results".into(), results.into());
        }
        Failure {
            message: refusal.message.clone(),
            code: refusal.code.word().to_owned(),
            phase: self.phase.map(|phase| phase.word().to_owned()),
            deployment_id: Some(self.record.deployment_id.to_string()),
            install_output: self.output.take(),
            more: std::mem::take(&mut self.more),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            let why = "deploying: the worker ended unexpectedly, which is a bug; the server's log has more";
            self.finish(Err(Refusal::new(Code::Internal, why)));
        }
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
            "its first event is none of a deployment",
        )
    })?;
    store.write_record(&record, false)?;
    Ok((journal, record))
}

/// Lets a test see what a panic in a phase leaves behind.
#[cfg(debug_assertions)]
fn panic_if_asked(phase: Phase) {
    if std::env::var("GANGPLANK_TEST_PANIC").is_ok_and(|asked| asked == phase.word()) {
        panic!("the test asked for a panic in phase {}", phase.word());
    }
}

/// A place where a test parks the server, to kill it there: it says that it is reached, and goes no further.
#[cfg(debug_assertions)]
pub fn checkpoint(name: &str) {
    let Ok(asked) = std::env::var("GANGPLANK_TEST_CHECKPOINT") else {
        return;
    };
    if let Some(file) = asked
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('='))
    {
        // The test waits for this file; what goes wrong here is for it to notice.
        let _ = std::fs::write(file, name);
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, in a program that is not a test's.
#[cfg(not(debug_assertions))]
pub const fn checkpoint(_name: &str) {}
