use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::api::error::Code;
use crate::api::fleet::{
    Alive, Desired, EVERYBODY, FleetDocument, FleetKeys, HostEntry, HostName, HostState,
    HostStatus, Rollout, RolloutState,
};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{FleetOptions, Options, Restart, WaveSize};
use crate::client::kv::testing::MemoryStore;
use crate::client::kv::{
    CasOutcome, KvError, KvListing, KvRange, KvStore, KvTransaction, KvTrouble, KvWatch, LeaseId,
};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::claim::HeldClaim;
use crate::engine::rollout::lead::{FleetLeader, LeaderTimes};
use crate::engine::rollout::members::HostRemoval;
use crate::engine::rollout::publish::{BeforeThat, FleetPublisher, Publication};
use crate::engine::rollout::step::{LeaderMemory, LeaderStep, step};
use crate::engine::rollout::trust::{FleetTrust, load_key};
use crate::engine::rollout::view::{FleetHost, FleetView, HostStanding};
use crate::formats::signature;
use crate::system::stop::{self, Stop};

fn app() -> Project {
    "app".parse().unwrap()
}

fn id(n: u64) -> DeploymentId {
    DeploymentId::after(None, n, [0; 10])
}

fn host(n: usize) -> HostName {
    format!("h{n}").parse().unwrap()
}

/// A store whose next transactions are done, but answered as if that were not known.
#[derive(Clone, Default)]
struct ForgetfulStore {
    inner: MemoryStore,
    forgets: Arc<AtomicU32>,
}

impl KvStore for ForgetfulStore {
    fn list(&self, range: &KvRange) -> Result<KvListing, KvError> {
        self.inner.list(range)
    }
    fn watch(&self, ranges: &[KvRange], after: i64) -> Result<KvWatch, KvError> {
        self.inner.watch(ranges, after)
    }
    fn cas(&self, transaction: &KvTransaction) -> Result<CasOutcome, KvError> {
        let outcome = self.inner.cas(transaction);
        let less = |n: u32| n.checked_sub(1);
        match self
            .forgets
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        {
            Ok(_) => Err(KvError::new(KvTrouble::Unknown, "no answer")),
            Err(_) => outcome,
        }
    }
    fn put(&self, key: &str, value: &[u8], lease: Option<&LeaseId>) -> Result<i64, KvError> {
        self.inner.put(key, value, lease)
    }
    fn alive(&self, lease: Option<&LeaseId>, ttl: Duration) -> Result<LeaseId, KvError> {
        self.inner.alive(lease, ttl)
    }
    fn delete(&self, range: &KvRange) -> Result<i64, KvError> {
        self.inner.delete(range)
    }
}

/// A fleet of hosts `h0`, `h1`... in a store in memory.
#[derive(Clone, Default)]
struct TestFleet {
    store: ForgetfulStore,
    keys: FleetKeys,
}

impl TestFleet {
    fn of(hosts: usize) -> TestFleet {
        let fleet = TestFleet::default();
        for n in 0..hosts {
            let labels = BTreeMap::from([("half".to_owned(), (n % 2).to_string())]);
            let entry = HostEntry::new(format!("http://h{n}"), None, labels, 0, String::new());
            fleet.put(&fleet.keys.host(&host(n)), &entry);
            fleet.here(n, true);
        }
        fleet
    }

    fn put(&self, key: &str, document: &impl FleetDocument) {
        self.store
            .put(key, &document.write().unwrap(), None)
            .unwrap();
    }

    fn here(&self, n: usize, is_here: bool) {
        let key = self.keys.alive(&host(n));
        let alive = Alive::new("b".into(), String::new(), "0".into(), BTreeMap::new());
        match is_here {
            true => self.put(&key, &alive),
            false => drop(self.store.delete(&KvRange::key(key)).unwrap()),
        }
    }

    fn says(&self, n: usize, generation: u64, state: HostState) {
        let why = Some("because".to_owned());
        let status = HostStatus::new(generation, None, state, None, None, why, 1, None);
        self.put(&self.keys.status(&host(n), &app()), &status);
    }

    fn seat(&self, n: usize) -> FleetSeat {
        FleetSeat {
            store: Arc::new(self.store.clone()),
            keys: self.keys.clone(),
            host: host(n),
            url: format!("http://h{n}"),
        }
    }

    fn publisher(&self, n: usize) -> FleetPublisher {
        FleetPublisher::new(self.seat(n), (None, None), Stop::never())
    }

    fn read<T: FleetDocument>(&self, key: String) -> T {
        let found = self.store.list(&KvRange::key(key)).unwrap();
        T::read(&found.entries[0].value).unwrap()
    }

    fn desired(&self) -> Desired {
        self.read(self.keys.desired(&app()))
    }

    fn rollout(&self) -> Rollout {
        self.read(self.keys.rollout(&app()))
    }

    fn view(&self) -> FleetView {
        FleetView::read(&self.seat(0), &app()).unwrap()
    }

    /// Publishes deployment `n` from a host, as a deployment does.
    fn publish(&self, from: usize, n: u64, options: &FleetOptions) -> Result<u64, (Code, String)> {
        let publisher = self.publisher(from);
        let publish = || {
            let by = (Some("ann".to_owned()), options);
            let claim = publisher.claim(&app(), id(n), by)?;
            let what = publication(n, from, options);
            publisher.publish(&app(), &claim, (&what, Some(options)))
        };
        let refused = |refusal: crate::api::error::Refusal| (refusal.code, refusal.message);
        publish()
            .map(|published| published.generation)
            .map_err(refused)
    }

    /// A step of the leader, with its writing done. None when it waits or has ended.
    fn step(&self, now: Instant, memory: &mut LeaderMemory) -> LeaderStep {
        let view = self.view();
        let (rollout, desired) = (view.rollout.unwrap().0, view.desired.unwrap().0);
        let next = step((&rollout, &desired), &view.hosts, now, memory);
        if let LeaderStep::Write(rollout) = &next {
            self.put(&self.keys.rollout(&app()), &**rollout);
        }
        next
    }

    /// The hosts that may go, by their numbers in their order.
    fn open(&self) -> Vec<usize> {
        let (view, rollout) = (self.view(), self.rollout());
        let deployment = self.desired().deployment_id;
        let may = |one: &&FleetHost| rollout.opens(deployment, &one.name) == Some(true);
        let open = view.hosts.iter().filter(may);
        open.map(|one| one.name.as_str()[1..].parse().unwrap())
            .collect()
    }
}

fn publication(n: u64, from: usize, options: &FleetOptions) -> Publication {
    Publication {
        deployment_id: id(n),
        sha256: format!("{n:064x}"),
        size: n,
        options: Options::default(),
        restart: Restart::Auto,
        origin: (host(from), Some(format!("http://h{from}"))),
        user: Some("ann".into()),
        message: None,
        source: None,
        rollback_of: None,
        labels: options.labels.clone(),
        before: BeforeThat::Current,
    }
}

fn options(canary: u64, wave: u64) -> FleetOptions {
    FleetOptions {
        canary: Some(canary),
        wave: Some(WaveSize::Hosts(wave)),
        soak_s: Some(30),
        host_timeout_s: Some(600),
        ..FleetOptions::default()
    }
}

fn times() -> LeaderTimes {
    LeaderTimes::lasting(30 * SECOND)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_rollout_goes_from_canary_over_waves_to_its_end() {
    let fleet = TestFleet::of(6);
    assert_eq!(fleet.publish(0, 1, &options(1, 2)), Ok(1));
    let (mut memory, mut now) = (LeaderMemory::default(), Instant::now());
    for (expected, state) in [
        (1, RolloutState::Canary),
        (3, RolloutState::Wave),
        (5, RolloutState::Wave),
        (6, RolloutState::Wave),
    ] {
        let open = fleet.open();
        assert_eq!((open.len(), fleet.rollout().state), (expected, state));
        // Not before all of them are live.
        let step = fleet.step(now, &mut memory);
        assert!(matches!(step, LeaderStep::Wait(Some(_))), "{step:?}");
        for n in &open {
            fleet.says(*n, 1, HostState::Live);
        }
        if expected == 6 {
            break;
        }
        assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
        assert_eq!(fleet.rollout().state, RolloutState::Soak);
        now += 29 * SECOND;
        let until = LeaderStep::Wait(Some(now + SECOND));
        assert_eq!(fleet.step(now, &mut memory), until);
        assert_eq!(fleet.open().len(), expected, "nobody goes while it soaks");
        now += SECOND;
        assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    }
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    let rollout = fleet.rollout();
    assert_eq!(rollout.state, RolloutState::Done);
    // Who joins later may go.
    assert_eq!(rollout.below.as_deref(), Some(EVERYBODY));
    assert_eq!(fleet.step(now, &mut memory), LeaderStep::End);
    let end = fleet.view().end(id(1)).unwrap().unwrap();
    assert_eq!(end, "app is live on all 6 hosts");
}

#[test]
fn a_bad_canary_stops_it_and_the_others_never_begin() {
    let fleet = TestFleet::of(6);
    fleet.publish(0, 1, &options(1, 2)).unwrap();
    let (mut memory, now) = (LeaderMemory::default(), Instant::now());
    let canary = fleet.open()[0];
    fleet.says(canary, 1, HostState::RolledBack);
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    let rollout = fleet.rollout();
    assert_eq!((rollout.state, rollout.open), (RolloutState::Stopped, 1));
    let reason = rollout.reason.unwrap();
    assert_eq!(reason, format!("1 host failed: h{canary}: because"));
    assert_eq!(fleet.open(), [canary]);
    assert_eq!(fleet.step(now, &mut memory), LeaderStep::End);
    let refusal = fleet.view().end(id(1)).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::ReplicateFailed);
    assert!(
        refusal
            .message
            .contains("it was stopped; 0 of 6 hosts are live")
    );
}

#[test]
fn failures_up_to_the_limit_do_not_stop_it() {
    let fleet = TestFleet::of(4);
    let some = FleetOptions {
        max_failures: Some(1),
        soak_s: Some(0),
        ..options(1, 3)
    };
    fleet.publish(0, 1, &some).unwrap();
    let (mut memory, now) = (LeaderMemory::default(), Instant::now());
    fleet.says(fleet.open()[0], 1, HostState::Failed);
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    let open = fleet.open();
    assert_eq!(open.len(), 4, "without a soak the wave comes at once");
    for n in &open[1..] {
        fleet.says(*n, 1, HostState::Live);
    }
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    assert_eq!(fleet.rollout().state, RolloutState::Done);
    // All the same it is no success.
    assert!(fleet.view().end(id(1)).unwrap().is_err());
}

#[test]
fn a_host_that_takes_too_long_has_failed_and_one_that_is_off_has_not() {
    let fleet = TestFleet::of(3);
    fleet.publish(0, 1, &options(3, 1)).unwrap();
    let (mut memory, now) = (LeaderMemory::default(), Instant::now());
    let open = fleet.open();
    fleet.here(open[2], false);
    fleet.says(open[0], 1, HostState::Live);
    fleet.says(open[1], 1, HostState::Building);
    let until = LeaderStep::Wait(Some(now + 600 * SECOND));
    assert_eq!(fleet.step(now, &mut memory), until);
    let late = now + 600 * SECOND;
    assert!(matches!(
        fleet.step(late, &mut memory),
        LeaderStep::Write(_)
    ));
    let rollout = fleet.rollout();
    assert_eq!(rollout.state, RolloutState::Stopped);
    let reason = format!("1 host failed: h{}: timed out after 600 s", open[1]);
    assert_eq!(rollout.reason, Some(reason));
}

#[test]
fn canaries_that_are_off_are_replaced_and_the_rollout_ends_without_them() {
    let fleet = TestFleet::of(4);
    fleet.publish(0, 1, &options(1, 4)).unwrap();
    let (mut memory, mut now) = (LeaderMemory::default(), Instant::now());
    let off = fleet.open()[0];
    fleet.here(off, false);
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    let open = fleet.open();
    assert_eq!(
        (open.len(), fleet.rollout().state),
        (2, RolloutState::Canary)
    );
    fleet.says(open[1], 1, HostState::Live);
    fleet.step(now, &mut memory);
    now += 30 * SECOND;
    fleet.step(now, &mut memory);
    for n in &fleet.open()[2..] {
        fleet.says(*n, 1, HostState::Live);
    }
    fleet.step(now, &mut memory);
    assert_eq!(fleet.rollout().state, RolloutState::Done);
    let refusal = fleet.view().end(id(1)).unwrap().unwrap_err();
    let expected = format!("3 of 4 hosts are live; h{off} is absent");
    assert!(refusal.message.ends_with(&expected), "{}", refusal.message);
    // It is back, and catches up.
    fleet.here(off, true);
    fleet.says(off, 1, HostState::Live);
    assert!(fleet.view().end(id(1)).unwrap().is_ok());
}

#[test]
fn a_pinned_host_is_left_alone_and_a_held_one_has_failed() {
    let fleet = TestFleet::of(3);
    fleet.publish(0, 1, &options(3, 1)).unwrap();
    let (mut memory, now) = (LeaderMemory::default(), Instant::now());
    fleet.says(0, 0, HostState::Pinned);
    fleet.says(1, 1, HostState::Live);
    fleet.says(2, 1, HostState::Live);
    fleet.step(now, &mut memory);
    assert_eq!(fleet.rollout().state, RolloutState::Done);
    fleet.publish(0, 2, &options(3, 1)).unwrap();
    // What it held of an earlier one says nothing of this one, which it has not seen yet.
    fleet.says(1, 1, HostState::Held);
    let step = fleet.step(now, &mut memory);
    assert!(matches!(step, LeaderStep::Wait(Some(_))), "{step:?}");
    for generation in [2, 9] {
        fleet.says(1, generation, HostState::Held);
        assert_eq!(
            fleet
                .view()
                .hosts
                .iter()
                .filter(|one| one.standing(2) == HostStanding::Failed)
                .count(),
            1
        );
    }
    fleet.step(now, &mut memory);
    assert_eq!(fleet.rollout().state, RolloutState::Stopped);
}

#[test]
fn of_two_who_deploy_the_second_is_told_of_the_first_before_its_upload() {
    let fleet = TestFleet::of(2);
    let options = options(1, 1);
    let one = fleet.publisher(0);
    let claim = one
        .claim(&app(), id(1), (Some("ann".into()), &options))
        .unwrap();
    let (code, why) = fleet.publish(1, 2, &options).unwrap_err();
    assert_eq!(code, Code::Busy);
    let said = format!(
        "app is being deployed to the fleet from h0 for ann: deployment {}",
        id(1)
    );
    assert_eq!(why, said);
    // Its end gives the claim back.
    drop(claim);
    assert_eq!(fleet.publish(1, 2, &options), Ok(1));
    // While its rollout goes on, another one has to say that it takes its place.
    let (code, why) = fleet.publish(0, 3, &options).unwrap_err();
    assert_eq!(code, Code::Busy);
    assert!(
        why.contains("generation 1 is live on 0 of 2 hosts"),
        "{why}"
    );
    let replacing = FleetOptions {
        replace: true,
        ..options
    };
    assert_eq!(fleet.publish(0, 3, &replacing), Ok(2));
    let refusal = fleet.view().end(id(2)).unwrap().unwrap_err();
    assert!(refusal.message.contains("generation 2 took its place"));
}

#[test]
fn of_two_claims_of_which_one_ended_one_publishes() {
    let fleet = TestFleet::of(1);
    let options = options(1, 1);
    let (one, two) = (fleet.publisher(0), fleet.publisher(1));
    let first = HeldClaim::take(&one.seat, &app(), id(1), None).unwrap();
    fleet.store.inner.end_leases();
    let second = HeldClaim::take(&two.seat, &app(), id(2), None).unwrap();
    let how = |n| publication(n, 0, &options);
    let late = one.publish(&app(), &first, (&how(1), Some(&options)));
    assert_eq!(late.unwrap_err().code, Code::Conflict);
    assert!(
        two.publish(&app(), &second, (&how(2), Some(&options)))
            .is_ok()
    );
    // The first one's end does not take the second one's claim away.
    drop(first);
    let busy = HeldClaim::take(&one.seat, &app(), id(3), None).map(drop);
    assert_eq!(busy.unwrap_err().code, Code::Busy);
}

#[test]
fn an_outcome_that_is_not_known_is_settled_by_reading() {
    let fleet = TestFleet::of(1);
    let options = options(1, 1);
    let publisher = fleet.publisher(0);
    let claim = publisher.claim(&app(), id(1), (None, &options)).unwrap();
    fleet.store.forgets.store(1, Ordering::SeqCst);
    let what = publication(1, 0, &options);
    let published = publisher.publish(&app(), &claim, (&what, Some(&options)));
    assert_eq!(published.unwrap().generation, 1);
    // The claim of whoever got no answer is its own.
    drop(claim);
    fleet.says(0, 1, HostState::Live);
    fleet.step(Instant::now(), &mut LeaderMemory::default());
    fleet.store.forgets.store(1, Ordering::SeqCst);
    assert_eq!(fleet.publish(0, 2, &options), Ok(2));
    // The same again is another generation, and not taken for the one before.
    fleet.store.forgets.store(0, Ordering::SeqCst);
    assert_eq!(
        publisher
            .publish_current(&app(), None, None)
            .unwrap()
            .generation,
        3
    );
}

#[test]
fn without_etcd_nothing_begins() {
    let fleet = TestFleet::of(1);
    fleet.store.inner.fail(Some(KvTrouble::Unavailable));
    let (code, _) = fleet.publish(0, 1, &options(1, 1)).unwrap_err();
    assert_eq!(code, Code::FleetUnavailable);
    fleet.store.inner.fail(Some(KvTrouble::NoSpace));
    let (code, why) = fleet.publish(0, 1, &options(1, 1)).unwrap_err();
    assert_eq!(code, Code::FleetUnavailable);
    assert!(why.contains("space exceeded"), "{why}");
    fleet.store.inner.fail(None);
    let nobody = FleetOptions {
        labels: BTreeMap::from([("half".to_owned(), "2".to_owned())]),
        ..options(1, 1)
    };
    let (code, why) = fleet.publish(0, 1, &nobody).unwrap_err();
    assert_eq!(code, Code::NotFound);
    assert!(why.contains("with half=2"), "{why}");
}

#[test]
fn a_generation_is_above_all_that_any_host_has_heard_of() {
    let fleet = TestFleet::of(2);
    fleet.publish(0, 1, &options(2, 1)).unwrap();
    // etcd was put back: the hosts know more than it does.
    fleet.says(1, 12, HostState::Held);
    // A host that lies does not use up the numbers.
    fleet.says(0, u64::MAX, HostState::Live);
    let published = fleet.publisher(0).publish_current(&app(), None, None);
    let published = published.unwrap();
    assert_eq!((published.generation, published.deployment_id), (13, id(1)));
    assert_eq!(fleet.rollout().below.as_deref(), Some(EVERYBODY));
}

#[test]
fn numbers_that_nobody_means_end_no_leader() {
    let fleet = TestFleet::of(2);
    fleet.publish(0, 1, &options(1, 1)).unwrap();
    let mut rollout = fleet.rollout();
    rollout.soak_s = u64::MAX;
    rollout.host_timeout_s = u64::MAX;
    rollout.wave = u64::MAX;
    fleet.put(&fleet.keys.rollout(&app()), &rollout);
    let (mut memory, now) = (LeaderMemory::default(), Instant::now());
    let step = fleet.step(now, &mut memory);
    assert!(matches!(step, LeaderStep::Wait(Some(_))), "{step:?}");
    for n in 0..2 {
        fleet.says(n, 1, HostState::Live);
    }
    assert!(matches!(fleet.step(now, &mut memory), LeaderStep::Write(_)));
    let step = fleet.step(now, &mut memory);
    assert!(matches!(step, LeaderStep::Wait(Some(_))), "{step:?}");
    // Nor is there a generation behind the last one.
    let mut desired = fleet.desired();
    desired.generation = u64::MAX;
    fleet.put(&fleet.keys.desired(&app()), &desired);
    let (code, why) = fleet.publish(0, 2, &options(1, 1)).unwrap_err();
    assert_eq!(code, Code::Conflict);
    assert!(why.contains("the last generation"), "{why}");
}

#[test]
fn a_rollback_goes_everywhere_at_once_and_not_back_again() {
    let fleet = TestFleet::of(4);
    let odd = FleetOptions {
        labels: BTreeMap::from([("half".to_owned(), "1".to_owned())]),
        ..options(2, 1)
    };
    let none = fleet.publisher(0).roll_back(&app(), None, None);
    assert_eq!(none.unwrap_err().code, Code::NotFound);
    fleet.publish(0, 1, &odd).unwrap();
    assert_eq!(
        fleet.view().count(),
        (0, 2),
        "only the hosts with the label"
    );
    let again = FleetOptions {
        replace: true,
        ..odd
    };
    fleet.publish(3, 2, &again).unwrap();
    let back = fleet
        .publisher(2)
        .roll_back(&app(), Some("bad".into()), None)
        .unwrap();
    assert_eq!(
        (back.generation, back.deployment_id, back.hosts),
        (3, id(1), 2)
    );
    let desired = fleet.desired();
    assert_eq!(desired.rollback_of, Some(id(2)));
    assert_eq!((desired.origin, desired.size), (host(0), 1));
    assert_eq!(fleet.rollout().below.as_deref(), Some(EVERYBODY));
    let twice = fleet
        .publisher(0)
        .roll_back(&app(), None, None)
        .unwrap_err();
    assert_eq!(twice.code, Code::NotFound);
}

#[test]
fn what_hosts_have_and_etcd_lacks_is_published_only_by_who_says_so() {
    let fleet = TestFleet::of(2);
    fleet.says(1, 12, HostState::Held);
    let (code, why) = fleet.publish(0, 1, &options(2, 1)).unwrap_err();
    assert_eq!(code, Code::Conflict);
    assert!(
        why.contains("generation 12") && why.contains("--adopt"),
        "{why}"
    );
    let adopts = FleetOptions {
        adopt: true,
        ..options(2, 1)
    };
    assert_eq!(fleet.publish(0, 1, &adopts), Ok(13));
    // What this host remembers counts as what the others say.
    let fleet = TestFleet::of(1);
    let publisher = fleet.publisher(0).remembering(Arc::new(|_| 7));
    let refused = publisher.claim(&app(), id(1), (None, &options(1, 1)));
    assert_eq!(refused.err().unwrap().code, Code::Conflict);
}

#[test]
fn a_host_that_is_removed_is_expected_no_longer() {
    let fleet = TestFleet::of(2);
    fleet.publish(0, 1, &options(2, 1)).unwrap();
    let publisher = fleet.publisher(0);
    publisher.remove_host(&host(1)).unwrap();
    assert_eq!(publisher.hosts().unwrap().len(), 1);
    assert_eq!(fleet.view().count(), (0, 1));
    assert_eq!(
        publisher.remove_host(&host(1)).unwrap_err().code,
        Code::NotFound
    );
    // One that has said something stays in the table until it is removed once more.
    let again = TestFleet::of(2);
    again.publish(0, 1, &options(2, 1)).unwrap();
    again.says(1, 1, HostState::Live);
    let publisher = again.publisher(0);
    for (removal, rows) in [(HostRemoval::Removed, 2), (HostRemoval::Forgotten, 1)] {
        assert_eq!(publisher.remove_host(&host(1)), Ok(removal));
        assert_eq!(publisher.hosts().unwrap().len(), rows);
        assert_eq!(again.view().rows().len(), rows);
        assert_eq!(again.view().count(), (0, 1), "it is not expected");
    }
    assert_eq!(publisher.projects().unwrap(), [app()]);
}

#[test]
fn what_is_published_is_signed_by_who_has_the_key() {
    let dir = std::env::temp_dir().join(format!("gangplank-trust-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (secret, public) = signature::generate().unwrap();
    let (_, other) = signature::generate().unwrap();
    for (name, text) in [("key", &secret), ("trust", &public), ("other", &other)] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let key = load_key(&dir.join("key")).unwrap();
    let trust = FleetTrust::load(&dir.join("trust")).unwrap();
    let stranger = FleetTrust::load(&dir.join("other")).unwrap();
    assert!(load_key(&dir.join("trust")).is_err() && FleetTrust::load(&dir.join("key")).is_err());
    let fleet = TestFleet::of(1);
    let value = || {
        let listed = fleet
            .store
            .list(&KvRange::key(fleet.keys.desired(&app())))
            .unwrap();
        listed.entries[0].value.clone()
    };
    let replacing = FleetOptions {
        replace: true,
        ..options(1, 1)
    };
    fleet.publish(0, 1, &replacing).unwrap();
    let unsigned = trust.check(&app(), &value()).unwrap_err();
    assert!(unsigned.contains("is not signed"), "{unsigned}");
    let publisher = FleetPublisher::new(fleet.seat(0), (Some(key), None), Stop::never());
    // What anybody may have written is not signed, nor gone back to.
    for refused in [
        publisher.publish_current(&app(), None, None),
        publisher.roll_back(&app(), None, None),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, Code::Conflict, "{refused}");
        assert!(refused.message.contains("is not signed"), "{refused}");
    }
    let deploy = |n| {
        let claim = publisher.claim(&app(), id(n), (None, &replacing)).unwrap();
        let what = publication(n, 0, &replacing);
        publisher.publish(&app(), &claim, (&what, None)).unwrap();
    };
    deploy(2);
    assert_eq!(fleet.desired().previous, None);
    deploy(3);
    assert_eq!(fleet.desired().previous.unwrap().generation, 2);
    let signed = value();
    assert_eq!(trust.check(&app(), &signed), Ok(()));
    assert!(
        stranger
            .check(&app(), &signed)
            .unwrap_err()
            .contains("signed by nobody")
    );
    assert!(trust.check(&"other".parse().unwrap(), &signed).is_err());
    let text = String::from_utf8(signed).unwrap();
    for (what, instead) in [
        ("\"generation\":3", "\"generation\":4"),
        ("\"drop\":false", "\"drop\":true"),
        ("\"v\":1", "\"v\":1,\"colour\":\"red\""),
    ] {
        let changed = text.replace(what, instead);
        assert!(changed != text, "{what} in {text}");
        assert!(
            trust.check(&app(), changed.as_bytes()).is_err(),
            "{instead}"
        );
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Waits until the rollout stands so.
fn await_rollout(fleet: &TestFleet, is: impl Fn(&Rollout) -> bool) {
    let ranges = [KvRange::prefix("gangplank/")];
    let mut watch = fleet.store.watch(&ranges, 0).unwrap();
    while !is(&fleet.rollout()) {
        let news = watch.news.recv_timeout(Duration::from_secs(60));
        if news.expect("nothing changes any more").is_err() {
            watch = fleet.store.watch(&ranges, 0).unwrap();
        }
    }
}

#[test]
fn a_leader_takes_a_rollout_to_its_end_and_another_one_goes_on_when_it_dies() {
    let fleet = TestFleet::of(3);
    let quick = FleetOptions {
        soak_s: Some(0),
        ..options(1, 2)
    };
    fleet.publish(0, 1, &quick).unwrap();
    let leader = |n: usize| {
        let (stopper, stop) = stop::pair().unwrap();
        let leader = Arc::new(FleetLeader::new(
            Arc::new(fleet.publisher(n)),
            times(),
            stop,
        ));
        (stopper, std::thread::spawn(move || leader.run()))
    };
    let (first, running) = leader(0);
    let canary = fleet.open()[0];
    let led = |n| {
        let ranges = [KvRange::prefix("gangplank/lead/")];
        let watch = fleet.store.watch(&ranges, 0).unwrap();
        while fleet
            .view()
            .lead
            .is_none_or(|(lead, _)| lead.host != host(n))
        {
            watch
                .news
                .recv_timeout(Duration::from_secs(60))
                .unwrap()
                .unwrap();
        }
    };
    led(0);
    // It ends in the midst of it, and gives its place back.
    drop(first);
    running.join().unwrap();
    fleet.says(canary, 1, HostState::Live);
    assert_eq!(
        fleet.open(),
        [canary],
        "without a leader nobody goes further"
    );
    let (second, running) = leader(1);
    led(1);
    await_rollout(&fleet, |rollout| rollout.open == 3);
    for n in fleet.open() {
        fleet.says(n, 1, HostState::Live);
    }
    await_rollout(&fleet, |rollout| rollout.state == RolloutState::Done);
    // One that fails and is to be taken back: what was wanted before is wanted again, everywhere.
    let taken_back = FleetOptions {
        rollback_on_failure: true,
        ..quick
    };
    assert_eq!(fleet.publish(1, 2, &taken_back), Ok(2));
    fleet.says(fleet.open()[0], 2, HostState::RolledBack);
    await_rollout(&fleet, |rollout| rollout.generation == 3);
    let desired = fleet.desired();
    assert_eq!(
        (desired.deployment_id, desired.rollback_of),
        (id(1), Some(id(2)))
    );
    drop(second);
    running.join().unwrap();
}

#[test]
fn a_leader_that_lost_its_lease_opens_nothing() {
    let fleet = TestFleet::of(3);
    let quick = FleetOptions {
        soak_s: Some(0),
        ..options(1, 2)
    };
    fleet.publish(0, 1, &quick).unwrap();
    let leader = Arc::new(FleetLeader::new(
        Arc::new(fleet.publisher(0)),
        times(),
        Stop::never(),
    ));
    let term = leader.take(&app()).unwrap().unwrap();
    assert!(leader.take(&app()).unwrap().is_none(), "one at a time");
    fleet.store.inner.end_leases();
    let mut next = fleet.rollout();
    next.open = 3;
    let modified = fleet.view().rollout.unwrap().1;
    leader.write(&app(), &term, (&next, modified)).unwrap();
    assert_eq!(fleet.rollout().open, 1);
    leader.led(&app(), &term).unwrap();
}
