//! How a server comes to belong to a fleet.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::error::{Doing, Error};
use crate::api::fleet::HostName;
use crate::api::name::{Project, Secret};
use crate::client::etcd::{CALL_MAX, EtcdOptions, EtcdStore};
use crate::client::kv::KvStore;
use crate::engine::deployer::Deployer;
use crate::engine::holders::PayloadFetcher;
use crate::engine::member::{
    FleetHoldings, FleetLocal, FleetMember, FleetMemory, FleetTimes, MemberSeat, TrustCheck,
};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::lead::{FleetLeader, LeaderTimes};
use crate::engine::rollout::publish::FleetPublisher;
use crate::engine::rollout::trust::{self, FleetTrust};
use crate::engine::settings::FleetSettings;
use crate::server::state::ServerState;
use crate::store::tokens::Tokens;
use crate::system::{host, log, threads};

/// The stack of the thread that belongs to a fleet, which speaks TLS and writes JSON.
const STACK_BYTES: usize = 512 << 10;
/// The name that the token of the fleet has among a root's own.
const TOKEN_NAME: &str = "fleet";

/// A secret that stands alone in a file.
fn secret(file: &Path) -> Result<Secret, Error> {
    let doing = || format!("reading {}", file.display());
    let text = fs::read_to_string(file).doing(doing)?;
    match text.trim() {
        "" => Err(Error::new(doing(), "it is empty")),
        text => Ok(Secret::new(text)),
    }
}

/// Lets the other hosts in, for payloads alone.
pub(super) fn let_hosts_in(settings: &FleetSettings, tokens: &Tokens) -> Result<(), Error> {
    tokens.share(TOKEN_NAME, &secret(&settings.token_file)?)
}

/// What a server does for its fleet: it is one of its hosts, and leads rollouts that nobody leads.
pub(super) struct FleetDuty {
    member: FleetMember,
    leader: Arc<FleetLeader>,
}

/// What this host is called in its fleet.
fn host_name(settings: &FleetSettings) -> Result<HostName, Error> {
    if let Some(name) = &settings.name {
        return Ok(name.clone());
    }
    let name = host::name();
    let what = || format!("joining the fleet as {name}");
    name.parse::<HostName>()
        .map_err(|why| Error::new(what(), format!("{why}; --fleet-name says another one")))
}

/// The etcd that the hosts share.
fn store(
    settings: &FleetSettings,
    name: &HostName,
    silence: Duration,
) -> Result<Arc<dyn KvStore>, Error> {
    let user = settings.user.as_ref();
    let user = user.map(|(user, file)| Ok::<_, Error>((user.clone(), secret(file)?)));
    Ok(Arc::new(EtcdStore::new(EtcdOptions {
        endpoints: settings.endpoints.clone(),
        spread_by: name.to_string(),
        user: user.transpose()?,
        ca: settings.ca.clone(),
        certificate: settings.certificate.clone(),
        call_max: CALL_MAX,
        silence,
    })?))
}

/// The host that this server is in its fleet, by which its operations are done from now on. Nothing is asked yet.
pub(super) fn member(settings: &FleetSettings, state: &ServerState) -> Result<FleetDuty, Error> {
    let name = host_name(settings)?;
    let times = FleetTimes::of_server();
    let store = store(settings, &name, times.silence)?;
    let fetcher = PayloadFetcher::new(secret(&settings.token_file)?, settings.host_ca.clone());
    let local = FleetLocal::new(Arc::clone(&state.deployer), fetcher, name.clone());
    let root = state
        .server_mark()
        .variable()
        .1
        .to_string_lossy()
        .into_owned();
    let trust = settings
        .trust
        .as_deref()
        .map(FleetTrust::load)
        .transpose()?;
    let vouched_by = trust.clone();
    let trust = trust.map(|trust| {
        let check = move |project: &Project, value: &[u8]| trust.check(project, value);
        Arc::new(check) as TrustCheck
    });
    let key = settings
        .signing_key
        .as_deref()
        .map(trust::load_key)
        .transpose()?;
    let stop = state.deployer.stop_signal();
    let seat = MemberSeat {
        store: Arc::clone(&store),
        keys: settings.keys.clone(),
        host: name.clone(),
        url: settings.url.clone(),
        labels: settings.labels.clone(),
        root,
        takes_over: settings.takes_over,
        trust,
        times,
    };
    let member = FleetMember::new(seat, Arc::new(local))?;
    let seat = FleetSeat {
        store,
        keys: settings.keys.clone(),
        host: name,
        url: settings.url.clone(),
    };
    let publisher = FleetPublisher::new(seat, (key, vouched_by), stop.clone());
    let publisher = publisher.looking_for(times.settle);
    let memory = FleetMemory::file(state.known.store.root());
    let publisher = remembering(publisher, memory, member.holdings());
    let publisher = Arc::new(publisher);
    let leads = LeaderTimes::lasting(times.lease / 2);
    let leader = Arc::new(FleetLeader::new(
        Arc::clone(&publisher),
        leads,
        stop.clone(),
    ));
    // A server belongs to one fleet from its start on.
    let _ = state.fleet.set(publisher);
    let _ = state.pins.set(member.pins());
    state.deployer.tell_of_payloads(member.holdings());
    Ok(FleetDuty { member, leader })
}

/// A publisher that counts on from what this host remembers, and whose payloads this host keeps.
fn remembering(
    publisher: FleetPublisher,
    memory: PathBuf,
    holdings: FleetHoldings,
) -> FleetPublisher {
    let remembered = move |project: &Project| {
        // One that cannot be read kept the server from starting.
        let memory = FleetMemory::load(&memory).unwrap_or_default();
        let applied = memory.projects.get(project);
        applied.map_or(0, |applied| applied.generation)
    };
    let keep = move |project: &Project, sha256: &str| holdings.publishes(project, sha256);
    publisher
        .remembering(Arc::new(remembered))
        .keeping(Arc::new(keep))
}

/// Belongs to the fleet from now on, whether etcd answers or not.
pub(super) fn belong(duty: FleetDuty, deployer: &Deployer) {
    let FleetDuty { member, leader } = duty;
    let stop = deployer.stop_signal().clone();
    let joins = threads::spawn("fleet", STACK_BYTES, move || member.run(&stop));
    let leads = threads::spawn("fleet-lead", STACK_BYTES, move || leader.run());
    if let Err(error) = joins.and(leads) {
        log::error(&format!("fleet: making a thread for it: {error}"));
    }
}
