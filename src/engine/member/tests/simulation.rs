//! A fleet at a real etcd whose hosts have their own side in memory: each is a member and a leader as a server is, over its own
//! connections, and deploys nothing. `make fleet N=1000` says how long it takes and what it costs; `make test` has a small one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::api::fleet::{EVERYBODY, FleetDocument, HostStatus, RolloutOrder};
use crate::client::etcd::{CALL_MAX, EtcdOptions, EtcdStore};
use crate::client::kv::{KvChange, KvCondition, KvNews, KvRange, KvTransaction, KvWrite};
use crate::engine::member::*;
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::lead::{FleetLeader, LeaderTimes};
use crate::engine::rollout::publish::FleetPublisher;
use crate::etcd_server::EtcdServer;
use crate::system::stop::{self, Stopper};
use crate::system::threads;

/// Enough for a thread that writes JSON over TCP, also in a debug build.
const STACK_BYTES: usize = 256 << 10;
/// Nothing here takes longer; what does has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// A real deployment takes at least so long in each of its states, so that each of them is told.
const STATE_LASTS: Duration = Duration::from_millis(100);

/// The own side of a host that deploys nothing, and goes through all that a deployment tells.
#[derive(Default)]
struct SimulatedSide {
    memory: Mutex<FleetMemory>,
    live: Mutex<Option<DeploymentId>>,
}

impl LocalHost for SimulatedSide {
    fn load(&self) -> Result<FleetMemory, Error> {
        Ok(self.memory.lock().unwrap().clone())
    }

    fn save(&self, memory: &FleetMemory) -> Result<(), Error> {
        *self.memory.lock().unwrap() = memory.clone();
        Ok(())
    }

    fn live(&self, _: &Project) -> Option<DeploymentId> {
        *self.live.lock().unwrap()
    }

    fn has_payload(&self, _: &str) -> bool {
        false
    }

    fn make(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<(), FleetFailure> {
        for state in [
            HostState::Fetching,
            HostState::Building,
            HostState::Activating,
        ] {
            tell(state);
            match state {
                HostState::Fetching => drop((order.holders)()),
                HostState::Building => (order.has_payload)(),
                _ => {}
            }
            crossbeam_channel::select_biased! {
                recv(stop.channel()) -> _ => {}
                recv(crossbeam_channel::after(STATE_LASTS)) -> _ => {}
            }
        }
        *self.live.lock().unwrap() = Some(order.desired.deployment_id);
        Ok(())
    }
}

/// A host, which may run or not.
struct SimulatedHost {
    name: HostName,
    side: Arc<SimulatedSide>,
    running: Option<(Stopper, Vec<JoinHandle<()>>)>,
}

impl SimulatedHost {
    fn new(n: usize) -> SimulatedHost {
        SimulatedHost {
            name: format!("h{n}").parse().unwrap(),
            side: Arc::default(),
            running: None,
        }
    }

    /// Starts what a server starts for its fleet (`server/joining.rs`).
    fn start(&mut self, urls: &str, times: FleetTimes) {
        let keys = FleetKeys::default();
        let store: Arc<dyn KvStore> = Arc::new(client(urls, self.name.as_str(), times.silence));
        let url = format!("http://{}:9925", self.name);
        let (stopper, stop) = stop::pair().unwrap();
        let seat = FleetSeat {
            store: Arc::clone(&store),
            keys: keys.clone(),
            host: self.name.clone(),
            url: url.clone(),
        };
        let publisher = FleetPublisher::new(seat, (None, None), stop.clone());
        let leads = LeaderTimes::lasting(times.lease / 2);
        let leader = Arc::new(FleetLeader::new(Arc::new(publisher), leads, stop.clone()));
        let seat = MemberSeat {
            store,
            keys,
            host: self.name.clone(),
            url,
            labels: BTreeMap::new(),
            root: format!("root-of-{}", self.name),
            takes_over: false,
            trust: None,
            times,
        };
        let member = FleetMember::new(seat, self.side.clone()).unwrap();
        let running = vec![
            threads::spawn("fleet", STACK_BYTES, move || member.run(&stop)).unwrap(),
            threads::spawn("fleet-lead", STACK_BYTES, move || leader.run()).unwrap(),
        ];
        self.running = Some((stopper, running));
    }
}

/// Stops hosts, all at once.
fn stop_all(hosts: &mut [SimulatedHost]) {
    let (stoppers, threads): (Vec<_>, Vec<_>) = hosts
        .iter_mut()
        .filter_map(|host| host.running.take())
        .unzip();
    drop(stoppers);
    for thread in threads.into_iter().flatten() {
        thread.join().unwrap();
    }
}

fn client(urls: &str, name: &str, silence: Duration) -> EtcdStore {
    EtcdStore::new(EtcdOptions {
        endpoints: urls.split(',').map(str::to_owned).collect(),
        spread_by: name.to_owned(),
        user: None,
        ca: None,
        certificate: None,
        call_max: CALL_MAX,
        silence,
    })
    .unwrap()
}

/// What etcd has done and sent until now, by its own count.
#[derive(Default, Clone, Copy)]
struct EtcdCount {
    requests: f64,
    sent_mb: f64,
    cpu_s: f64,
}

/// The sum of what etcd counts under names that begin so.
fn counted<const N: usize>(url: &str, names: [&str; N]) -> [f64; N] {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    names.map(|name| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    })
}

impl EtcdCount {
    fn read(url: &str) -> EtcdCount {
        let [requests, sent, cpu_s] = counted(
            url,
            [
                "grpc_server_handled_total",
                "etcd_network_client_grpc_sent_bytes_total",
                "process_cpu_seconds_total",
            ],
        );
        EtcdCount {
            requests,
            sent_mb: sent / 1e6,
            cpu_s,
        }
    }
}

/// The memory of a process that is in use, in MB.
fn resident_mb(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kb = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    kb.unwrap().parse::<u64>().unwrap() / 1000
}

/// The fleet.
struct Simulation {
    etcd: EtcdServer,
    store: EtcdStore,
    keys: FleetKeys,
    hosts: Vec<SimulatedHost>,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        stop_all(&mut self.hosts);
    }
}

impl Simulation {
    /// Makes generation `n` wanted: everywhere at once, or in waves of a quarter behind one host.
    fn publish(&self, n: u64, in_waves: bool) {
        let id = DeploymentId::after(None, n, [0; 10]);
        let names = self.hosts.iter().map(|host| host.name.clone());
        let (open, below, state) = match in_waves {
            true => (1, RolloutOrder::new(id, names).below(1), "canary"),
            false => (self.hosts.len(), EVERYBODY.to_owned(), "wave"),
        };
        let wave = match in_waves {
            true => self.hosts.len().div_ceil(4),
            false => self.hosts.len(),
        };
        let rollout = format!(
            r#"{{"v":1,"generation":{n},"canary":1,"wave":{wave},"max_failures":0,"soak_s":0,"open":{open},"below":"{below}","state":"{state}","host_timeout_s":600}}"#
        );
        let sha256 = "ab".repeat(32);
        let desired = format!(
            r#"{{"v":1,"generation":{n},"deployment_id":"{id}","sha256":"{sha256}","size":1,"origin":"h0"}}"#
        );
        let project = project();
        let put = |key, value: String| KvWrite::Put {
            key,
            value: value.into_bytes(),
            lease: None,
        };
        let desired_key = self.keys.desired(&project);
        let before = self.store.list(&KvRange::key(&*desired_key)).unwrap();
        let condition = match before.entries.first() {
            Some(entry) => KvCondition::Modified(desired_key.clone(), entry.modified),
            None => KvCondition::Absent(desired_key.clone()),
        };
        let outcome = self.store.cas(&KvTransaction {
            conditions: vec![condition],
            writes: vec![
                put(desired_key, desired),
                put(self.keys.rollout(&project), rollout),
            ],
        });
        assert!(matches!(outcome, Ok(crate::client::kv::CasOutcome::Won(_))));
    }

    /// Does something, and says what passes until so many hosts have written what is awaited.
    #[allow(clippy::print_stderr)]
    fn measure(
        &mut self,
        what: &str,
        expected: usize,
        act: impl FnOnce(&mut Simulation),
        is_it: impl Fn(&FleetKeys, &str, &[u8]) -> bool,
    ) {
        let ranges = [self.keys.statuses(), self.keys.alive_hosts()].map(KvRange::prefix);
        let revision = self.store.list(&ranges[1]).unwrap().revision;
        let mut watch = self.store.watch(&ranges, revision).unwrap();
        let url = self.etcd.url(0);
        let before = EtcdCount::read(&url);
        let (mut then, mut then_at, mut busiest) = (before, Instant::now(), 0.0_f64);
        let start = Instant::now();
        act(self);
        let (mut times, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
        let (mut writes, mut last_revision) = (0, revision);
        while times.len() < expected {
            let (have, of) = (times.len(), expected);
            assert!(start.elapsed() < PATIENCE, "{what}: {have} of {of}");
            match watch.news.recv_timeout(Duration::from_millis(200)) {
                Ok(Ok(KvNews::Changes(changes))) => {
                    for change in changes {
                        let KvChange::Put(entry) = change else {
                            continue;
                        };
                        writes += 1;
                        last_revision = last_revision.max(entry.modified);
                        if is_it(&self.keys, &entry.key, &entry.value) && seen.insert(entry.key) {
                            times.push(start.elapsed().as_secs_f64());
                        }
                    }
                }
                Ok(Err(_)) => watch = self.store.watch(&ranges, last_revision).unwrap(),
                _ => {}
            }
            if then_at.elapsed() >= Duration::from_secs(1) {
                let now = EtcdCount::read(&url);
                let rate = (now.requests - then.requests) / then_at.elapsed().as_secs_f64();
                (then, then_at, busiest) = (now, Instant::now(), busiest.max(rate));
            }
        }
        let (now, took) = (EtcdCount::read(&url), start.elapsed().as_secs_f64());
        let requests = now.requests - before.requests;
        let rate = requests / took;
        eprintln!(
            "fleet: {what}: {expected} hosts: the first after {:.2} s, half after {:.2} s, the last after {:.2} s; \
             etcd: {requests:.0} requests ({rate:.0} a second, {:.0} in the busiest one), {writes} writes of hosts, {:.1} MB sent, \
             {:.1} s of CPU; memory: etcd {} MB, the hosts {} MB",
            times[0],
            times[expected / 2],
            times[expected - 1],
            busiest.max(rate),
            now.sent_mb - before.sent_mb,
            now.cpu_s - before.cpu_s,
            resident_mb(&self.etcd.process_id(0).to_string()),
            resident_mb("self"),
        );
    }

    /// A rollout, until all hosts that run have told that they are live.
    fn roll_out(&mut self, what: &str, n: u64, in_waves: bool) {
        let running = self.hosts.iter().filter(|host| host.running.is_some());
        let running = running.count();
        self.measure(
            what,
            running,
            |fleet| fleet.publish(n, in_waves),
            is_live(n),
        );
    }

    /// Waits until the leader has ended the rollout.
    fn await_done(&self, n: u64) {
        let key = KvRange::key(self.keys.rollout(&project()));
        let watch = self.store.watch(std::slice::from_ref(&key), 1).unwrap();
        let start = Instant::now();
        loop {
            let found = self.store.list(&key).unwrap().entries;
            let rollout: serde_json::Value = serde_json::from_slice(&found[0].value).unwrap();
            if rollout["state"] == "done" {
                assert_eq!(rollout["generation"], n);
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{rollout}");
            let _ = watch.news.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn project() -> Project {
    "app".parse().unwrap()
}

/// Whether a key is the status of a host that is live at a generation.
fn is_live(generation: u64) -> impl Fn(&FleetKeys, &str, &[u8]) -> bool {
    move |keys, key, value| {
        let of = keys.of_status(key).map(|_| HostStatus::read(value));
        matches!(of, Some(Ok(status)) if status.state == HostState::Live && status.generation == generation)
    }
}

#[test]
fn a_fleet_follows_and_hosts_that_were_off_come_back_at_once() {
    let asked = std::env::var("GANGPLANK_FLEET").ok();
    let count = asked.map_or(4, |n| n.parse().expect("GANGPLANK_FLEET=N"));
    let Some(etcd) = EtcdServer::start() else {
        return;
    };
    let urls = etcd.urls();
    let mut fleet = Simulation {
        store: client(&urls, "onlooker", PATIENCE),
        keys: FleetKeys::default(),
        hosts: (0..count).map(SimulatedHost::new).collect(),
        etcd,
    };
    let is_alive = |keys: &FleetKeys, key: &str, _: &[u8]| key.starts_with(&keys.alive_hosts());
    let times = FleetTimes::default();
    let start = |hosts: &mut [SimulatedHost]| {
        hosts.iter_mut().for_each(|host| host.start(&urls, times));
    };
    fleet.measure("joining", count, |fleet| start(&mut fleet.hosts), is_alive);
    fleet.roll_out("everywhere at once", 1, false);
    fleet.await_done(1);
    fleet.roll_out("in four waves", 2, true);
    fleet.await_done(2);
    let back = (count * 3).div_ceil(10);
    stop_all(&mut fleet.hosts[count - back..]);
    fleet.roll_out("while some are off", 3, false);
    let come_back = |fleet: &mut Simulation| start(&mut fleet.hosts[count - back..]);
    fleet.measure("coming back at once", back, come_back, is_live(3));
    fleet.await_done(3);
}

#[test]
fn a_silent_watch_is_begun_anew_and_the_lease_goes_on() {
    let Some(etcd) = EtcdServer::start() else {
        return;
    };
    let mut host = SimulatedHost::new(1);
    let times = FleetTimes {
        silence: Duration::from_millis(300),
        ..FleetTimes::default()
    };
    host.start(&etcd.urls(), times);
    let (start, url) = (Instant::now(), etcd.url(0));
    let counts = [
        "grpc_server_started_total{grpc_method=\"Watch\"",
        "grpc_server_started_total{grpc_method=\"LeaseGrant\"",
    ];
    // Two of them are the first ones; three rounds make the rest, each of the host's own or of those for who leads.
    while counted(&url, counts)[0] < 8.0 {
        assert!(start.elapsed() < PATIENCE, "nothing is watched anew");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(counted(&url, counts)[1], 1.0);
    stop_all(std::slice::from_mut(&mut host));
}
