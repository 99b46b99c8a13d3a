//! Hosts whose own side is in memory.

mod simulation;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::api::fleet::{Alive, EVERYBODY, FleetDocument, HostEntry, HostStatus};
use crate::client::kv::testing::MemoryStore;
use crate::client::kv::{KvEntry, KvRange, KvTrouble};
use crate::system::stop::{self, Stopper};

/// What is wanted.
const SHA256: &str = "ab";
const PATIENCE: Duration = Duration::from_secs(60);

/// A host's side that deploys nothing.
#[derive(Default)]
pub(super) struct MemoryHost {
    memory: Mutex<FleetMemory>,
    live: Mutex<BTreeMap<Project, DeploymentId>>,
    /// What was made so, each with its try.
    made: Mutex<Vec<(u64, u64)>>,
    /// What the next tries end with.
    failures: Mutex<Vec<FleetFailure>>,
    disk_is_full: Mutex<bool>,
    /// How many components are being made so, and how many were at once.
    at_once: Mutex<(usize, usize)>,
    /// Nothing ends while somebody has it.
    hold: Mutex<()>,
}

impl LocalHost for MemoryHost {
    fn load(&self) -> Result<FleetMemory, Error> {
        Ok(self.memory.lock().unwrap().clone())
    }

    fn save(&self, memory: &FleetMemory) -> Result<(), Error> {
        if *self.disk_is_full.lock().unwrap() {
            return Err(Error::new("writing fleet.json", "No space left on device"));
        }
        *self.memory.lock().unwrap() = memory.clone();
        Ok(())
    }

    fn live(&self, project: &Project) -> Option<DeploymentId> {
        self.live.lock().unwrap().get(project).copied()
    }

    fn has_payload(&self, _: &str) -> bool {
        !self.made.lock().unwrap().is_empty()
    }

    fn make(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        _: &Stop,
    ) -> Result<(), FleetFailure> {
        tell(HostState::Building);
        let counts = |more: &dyn Fn(usize) -> usize| {
            let mut at_once = self.at_once.lock().unwrap();
            at_once.0 = more(at_once.0);
            at_once.1 = at_once.1.max(at_once.0);
        };
        counts(&|now| now + 1);
        drop(self.hold.lock().unwrap());
        counts(&|now| now - 1);
        let generation = order.desired.generation;
        let mut made = self.made.lock().unwrap();
        made.push((generation, order.attempt));
        let mut failures = self.failures.lock().unwrap();
        if let Some(failure) = failures.pop() {
            return Err(failure);
        }
        let id = DeploymentId::after(None, generation, [9; 10]);
        self.live.lock().unwrap().insert(order.project.clone(), id);
        Ok(())
    }
}

/// A host that runs, and its store.
struct TestHost {
    store: MemoryStore,
    local: Arc<MemoryHost>,
    keys: FleetKeys,
    name: HostName,
    stopper: Option<Stopper>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.stop();
    }
}

fn seat(store: &MemoryStore, name: &str, root: &str) -> MemberSeat {
    MemberSeat {
        store: Arc::new(store.clone()),
        keys: FleetKeys::default(),
        host: name.parse().unwrap(),
        url: format!("http://{name}:9925"),
        labels: BTreeMap::new(),
        root: root.to_owned(),
        takes_over: false,
        trust: None,
        times: FleetTimes {
            renew: Duration::from_millis(50),
            retries: [Duration::from_millis(20); 5],
            ..FleetTimes::default()
        },
    }
}

impl TestHost {
    fn start(store: &MemoryStore, local: Arc<MemoryHost>) -> TestHost {
        TestHost::with(seat(store, "one", "root-1"), store, local)
    }

    fn with(seat: MemberSeat, store: &MemoryStore, local: Arc<MemoryHost>) -> TestHost {
        let (keys, name) = (seat.keys.clone(), seat.host.clone());
        let member = FleetMember::new(seat, local.clone()).unwrap();
        let (stopper, stop) = stop::pair().unwrap();
        let thread = std::thread::spawn(move || member.run(&stop));
        TestHost {
            store: store.clone(),
            local,
            keys,
            name,
            stopper: Some(stopper),
            thread: Some(thread),
        }
    }

    fn stop(&mut self) {
        drop(self.stopper.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn status(&self) -> Option<HostStatus> {
        let key = self.keys.status(&self.name, &app());
        let entry = self.entry(&key)?;
        Some(HostStatus::read(&entry.value).unwrap())
    }

    fn entry(&self, key: &str) -> Option<KvEntry> {
        let found = self.store.list(&KvRange::key(key)).ok()?;
        found.entries.into_iter().next()
    }

    /// Waits until the status is so.
    fn await_state(&self, generation: u64, state: HostState) -> HostStatus {
        let mut seen = None;
        await_that(&format!("{state:?} at {generation}"), || {
            seen = self.status();
            seen.as_ref()
                .is_some_and(|one| one.state == state && one.generation == generation)
        });
        seen.unwrap()
    }
}

fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never came to {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn app() -> Project {
    "app".parse().unwrap()
}

fn id(n: u64) -> DeploymentId {
    DeploymentId::after(None, n, [0; 10])
}

/// Publishes a generation, which everybody may go to.
fn publish(store: &MemoryStore, generation: u64, more: &str) {
    let keys = FleetKeys::default();
    let rollout = format!(
        r#"{{"v":1,"generation":{generation},"open":1,"below":"{EVERYBODY}","state":"wave"}}"#
    );
    let desired = format!(
        r#"{{"v":1,"generation":{generation},"deployment_id":"{}","sha256":"ab","size":1,"origin":"two"{more}}}"#,
        id(generation)
    );
    store
        .put(&keys.rollout(&app()), rollout.as_bytes(), None)
        .unwrap();
    store
        .put(&keys.desired(&app()), desired.as_bytes(), None)
        .unwrap();
}

fn failure(code: &str) -> FleetFailure {
    FleetFailure {
        refusal_code: code.to_owned(),
        message: format!("it is {code}"),
        phase: Some("install".to_owned()),
        rolled_back: false,
    }
}

#[test]
fn a_host_joins_and_follows_what_is_wanted() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    publish(&store, 2, "");
    let status = host.await_state(2, HostState::Live);
    assert_eq!((status.attempt, status.previous_live), (1, Some(id(1))));
    assert_eq!(*host.local.made.lock().unwrap(), [(1, 1), (2, 1)]);
    let entry = HostEntry::read(&host.entry(&host.keys.host(&host.name)).unwrap().value).unwrap();
    assert_eq!(entry.url, "http://one:9925");
    let alive = host.entry(&host.keys.alive(&host.name)).unwrap();
    assert!(alive.lease.is_some() && Alive::read(&alive.value).is_ok());
    let have = host.keys.have(SHA256, &host.name);
    await_that("an announced payload", || {
        host.entry(&have).is_some_and(|one| one.lease.is_some())
    });
    assert!(
        host.entry(&host.keys.status(&host.name, &app()))
            .unwrap()
            .lease
            .is_none()
    );
}

#[test]
fn a_lost_lease_is_taken_anew_with_all_that_went_with_it() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    let (alive, have) = (
        host.keys.alive(&host.name),
        host.keys.have(SHA256, &host.name),
    );
    let is_there = |key: &str| host.entry(key).is_some();
    await_that("an announced payload", || is_there(&have));
    store.end_leases();
    await_that("alive again", || is_there(&alive) && is_there(&have));
}

#[test]
fn a_host_that_was_off_goes_to_the_newest_and_a_restored_store_turns_nobody_back() {
    let store = MemoryStore::default();
    let mut host = TestHost::start(&store, Arc::default());
    publish(&store, 3, "");
    host.await_state(3, HostState::Live);
    host.stop();
    publish(&store, 4, "");
    publish(&store, 5, "");
    let mut host = TestHost::start(&store, host.local.clone());
    host.await_state(5, HostState::Live);
    publish(&store, 4, "");
    let held = host.await_state(5, HostState::Held);
    assert!(held.message.unwrap().contains("went back from 5 to 4"));
    host.stop();
    let host = TestHost::start(&store, host.local.clone());
    store
        .delete(&KvRange::prefix(host.keys.all_desired()))
        .unwrap();
    await_that("an emptied store", || {
        host.status()
            .is_some_and(|one| one.message.is_some_and(|why| why.contains("emptied")))
    });
    assert_eq!(*host.local.made.lock().unwrap(), [(3, 1), (5, 1)]);
    publish(&store, 6, "");
    host.await_state(6, HostState::Live);
}

#[test]
fn an_unknown_version_is_held() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    let key = host.keys.desired(&app());
    store.put(&key, br#"{"v":2,"generation":9}"#, None).unwrap();
    let held = host.await_state(1, HostState::Held);
    assert!(held.message.unwrap().contains("newer gangplank needed"));
}

#[test]
fn what_passes_is_tried_again_and_nothing_else() {
    for (code, tries) in [
        ("fetch_failed", 6),
        ("no_space", 4),
        ("payload_gone", 3),
        ("install_failed", 1),
        ("unhealthy", 1),
    ] {
        let store = MemoryStore::default();
        let local = Arc::<MemoryHost>::default();
        *local.failures.lock().unwrap() = vec![failure(code); 9];
        let host = TestHost::start(&store, local);
        publish(&store, 1, "");
        await_that(code, || {
            host.status()
                .is_some_and(|one| one.state == HostState::Failed && one.attempt == tries)
        });
        let status = host.status().unwrap();
        assert_eq!(
            (status.code.as_deref(), status.phase.as_deref()),
            (Some(code), Some("install"))
        );
        // A newer generation goes all the same.
        host.local.failures.lock().unwrap().clear();
        publish(&store, 2, "");
        host.await_state(2, HostState::Live);
        let made = host.local.made.lock().unwrap();
        assert_eq!(made.len() as u64, tries + 1, "{code}: {made:?}");
    }
}

#[test]
fn a_long_reason_and_odd_numbers_keep_no_host_from_going_on() {
    let store = MemoryStore::default();
    let local = Arc::<MemoryHost>::default();
    let long = FleetFailure {
        message: "ä".repeat(100_000),
        ..failure("install_failed")
    };
    *local.failures.lock().unwrap() = vec![long];
    let host = TestHost::start(&store, local);
    publish(&store, 1, "");
    let failed = host.await_state(1, HostState::Failed);
    assert_eq!(failed.message.unwrap().chars().count(), 2000);
    let rollout = format!(
        r#"{{"v":1,"generation":2,"open":{},"below":"{EVERYBODY}","state":"wave"}}"#,
        u64::MAX
    );
    publish(&store, 2, "");
    let key = host.keys.rollout(&app());
    store.put(&key, rollout.as_bytes(), None).unwrap();
    host.await_state(2, HostState::Live);
}

#[test]
fn without_a_store_all_that_is_here_stays_and_nothing_begins() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    store.fail(Some(KvTrouble::Unavailable));
    store.fail(None);
    publish(&store, 2, "");
    host.await_state(2, HostState::Live);
}

#[test]
fn what_is_not_remembered_is_not_begun() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    *host.local.disk_is_full.lock().unwrap() = true;
    publish(&store, 2, "");
    let failed = host.await_state(2, HostState::Failed);
    assert!(failed.message.unwrap().contains("No space left"));
    assert_eq!(host.local.made.lock().unwrap().len(), 1);
    *host.local.disk_is_full.lock().unwrap() = false;
    host.await_state(2, HostState::Live);
}

#[test]
fn a_host_that_somebody_changed_by_hand_is_left_alone() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    host.local.live.lock().unwrap().insert(app(), id(99));
    publish(&store, 2, "");
    host.await_state(1, HostState::Pinned);
    assert_eq!(host.local.made.lock().unwrap().len(), 1);
}

#[test]
fn a_host_that_was_taken_out_goes_on_as_it_is() {
    let store = MemoryStore::default();
    let mut host = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    host.await_state(1, HostState::Live);
    let key = host.keys.host(&host.name);
    store.delete(&KvRange::key(&*key)).unwrap();
    publish(&store, 2, "");
    host.stop();
    let host = TestHost::start(&store, host.local.clone());
    publish(&store, 3, "");
    // It comes back when somebody takes it in again, and not by itself.
    store
        .put(&key, br#"{"v":1,"url":"","joined_at":1}"#, None)
        .unwrap();
    host.await_state(3, HostState::Live);
    let made: Vec<u64> = host
        .local
        .made
        .lock()
        .unwrap()
        .iter()
        .map(|one| one.0)
        .collect();
    assert!(!made.contains(&2) && made.ends_with(&[3]), "{made:?}");
}

#[test]
fn a_name_belongs_to_one_root() {
    let store = MemoryStore::default();
    let mut first = TestHost::start(&store, Arc::default());
    publish(&store, 1, "");
    first.await_state(1, HostState::Live);
    let second = |takes_over| {
        let seat = MemberSeat {
            takes_over,
            ..seat(&store, "one", "root-2")
        };
        FleetMember::new(seat, Arc::<MemoryHost>::default())
            .unwrap()
            .join()
    };
    let refused = second(true).unwrap_err();
    assert!(
        refused.message.ends_with("name in use by http://one:9925"),
        "{refused}"
    );
    first.stop();
    store.end_leases();
    let refused = second(false).unwrap_err();
    assert!(refused.message.contains("--fleet-takeover"), "{refused}");
    assert!(second(true).unwrap().is_some());
}

#[test]
fn of_many_components_some_are_changed_at_once() {
    let store = MemoryStore::default();
    let keys = FleetKeys::default();
    for n in 0..40 {
        let project: Project = format!("app{n}").parse().unwrap();
        let rollout =
            format!(r#"{{"v":1,"generation":1,"open":1,"below":"{EVERYBODY}","state":"wave"}}"#);
        let desired = format!(
            r#"{{"v":1,"generation":1,"deployment_id":"{}","sha256":"ab","size":1,"origin":"two"}}"#,
            id(n)
        );
        let put = |key: String, value: String| store.put(&key, value.as_bytes(), None).unwrap();
        put(keys.rollout(&project), rollout);
        put(keys.desired(&project), desired);
    }
    let local = Arc::<MemoryHost>::default();
    let held = local.hold.lock().unwrap();
    let host = TestHost::start(&store, local.clone());
    await_that("as many as may", || local.at_once.lock().unwrap().0 == 16);
    drop(held);
    await_that("all of them", || {
        host.local.made.lock().unwrap().len() == 40
    });
    assert_eq!(*host.local.at_once.lock().unwrap(), (0, 16));
}

#[test]
fn a_drop_and_labels_are_obeyed() {
    let store = MemoryStore::default();
    let host = TestHost::start(&store, Arc::default());
    publish(&store, 1, r#","labels":{"site":"eu"}"#);
    publish(&store, 2, r#","drop":true"#);
    host.await_state(2, HostState::Live);
    assert_eq!(*host.local.made.lock().unwrap(), [(2, 1)]);
}
