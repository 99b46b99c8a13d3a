//! `GET /metrics`: what happens here in numbers, for a server that asks for them every few seconds and keeps them. No number
//! says which component it is of, and none is of some components alone, so a token that is limited to some does not get them.

mod exposition;

use serde::Serialize;
use serde_json::Value;

use crate::api::error::{Code, Error, Refusal};
use crate::api::record::DeploymentKind;
use crate::engine::metrics::{DeploymentMetrics, PHASE_BOUNDS_MS};
use crate::engine::processes::ProcessTotals;
use crate::server::auth::Caller;
use crate::server::http::{Answer, Exchange};
use crate::server::metrics::exposition::{Exposition, MetricKind};
use crate::server::state::ServerState;
use crate::system::memory;

const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers `GET /metrics`, in the form of OpenMetrics, or in the older one for who asks for text and does not know that.
pub(super) fn metrics(
    state: &ServerState,
    exchange: &Exchange,
    caller: &Caller,
) -> Result<Answer, Refusal> {
    caller.may_look("reading the metrics")?;
    if let Some(name) = caller.name().filter(|_| caller.is_limited()) {
        let why = format!(
            "reading the metrics: they are of all components, and the token '{name}' is limited to some"
        );
        return Err(Refusal::new(Code::Forbidden, why));
    }
    let accepted = exchange.header("Accept").unwrap_or_default();
    let is_open =
        accepted.contains("application/openmetrics-text") || !accepted.contains("text/plain");
    let mut to = Exposition::new(is_open);
    deployments(&mut to, state);
    components(&mut to, state.processes.totals()?);
    requests(&mut to, state);
    host(&mut to, state)?;
    Ok(Answer {
        status: 200,
        content_type: if is_open { OPEN } else { PLAIN },
        headers: vec![("Cache-Control", "no-store".to_owned())],
        body: to.end(),
    })
}

/// The word on the wire of a value that is one.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn deployments(to: &mut Exposition, state: &ServerState) {
    let metrics: &DeploymentMetrics = &state.known.metrics;
    to.family(
        MetricKind::Counter,
        "gangplank_deployments",
        "Deployments that have ended, by what they were and how they ended.",
    );
    for kind in DeploymentKind::ALL {
        for (status, count) in metrics.ended(kind) {
            to.sample(
                "_total",
                &[("kind", &word(kind)), ("status", &word(status))],
                count,
            );
        }
    }
    to.family(
        MetricKind::Counter,
        "gangplank_deployment_failures",
        "Deployments that did not end well, by the code of their error.",
    );
    for (code, count) in metrics.failed() {
        to.sample("_total", &[("code", code.word())], count);
    }
    let help = "Deployments that have begun and not ended.";
    to.gauge(
        "gangplank_deployments_running",
        help,
        state.deployer.running(),
    );
    let help = "Deployments that wait for one of the places of --max-deploys.";
    to.gauge("gangplank_deployments_queued", help, metrics.queued());
    phases(to, metrics);
    let help = "Bytes of the payloads that came and were unpacked.";
    to.counter("gangplank_received_bytes", help, metrics.received_bytes());
    let help = "Bytes of files that no payload had to bring, since they were here.";
    to.counter("gangplank_reused_bytes", help, metrics.reused_bytes());
    let help = "Bytes written into the journals of deployments.";
    to.counter("gangplank_journal_bytes", help, metrics.journal_bytes());
}

fn phases(to: &mut Exposition, metrics: &DeploymentMetrics) {
    to.family(
        MetricKind::Histogram,
        "gangplank_phase_duration_seconds",
        "How long the phases of deployments took, those that failed included.",
    );
    for (phase, times) in metrics.phases() {
        let phase = ("phase", phase.word());
        for (bound, count) in PHASE_BOUNDS_MS.into_iter().zip(times.at_most()) {
            let bound = format!("{:?}", seconds(bound));
            to.sample("_bucket", &[phase, ("le", &bound)], count);
        }
        let count = times.count();
        to.sample("_bucket", &[phase, ("le", "+Inf")], count);
        to.sample("_sum", &[phase], seconds(times.sum_ms()));
        to.sample("_count", &[phase], count);
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "so many milliseconds are 285,000 years"
)]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn components(to: &mut Exposition, totals: ProcessTotals) {
    to.family(
        MetricKind::Gauge,
        "gangplank_components",
        "Live components: all of their processes run (up), one does not (down), somebody has stopped them, or they have none (idle).",
    );
    for (state, count) in [
        ("up", totals.components_up),
        ("down", totals.components_down),
        ("stopped", totals.components_stopped),
        ("idle", totals.components_idle),
    ] {
        to.sample("", &[("state", state)], count);
    }
    to.family(
        MetricKind::Gauge,
        "gangplank_processes",
        "Processes of components that are to run: they do (up), or do not at the moment (down).",
    );
    to.sample("", &[("state", "up")], totals.up);
    to.sample("", &[("state", "down")], totals.down);
    let help = "How often a process was started again after it had exited.";
    to.counter("gangplank_process_restarts", help, totals.restarts);
}

fn requests(to: &mut Exposition, state: &ServerState) {
    let occupancy = state.occupancy.get().map(|ask| ask()).unwrap_or_default();
    let help = "Connections of clients that are open, this one included.";
    to.gauge("gangplank_connections", help, occupancy.connections);
    let help = "Connections that there may be at once.";
    to.gauge("gangplank_connections_limit", help, occupancy.limit);
    let help = "Connections that only watch events or logs.";
    to.gauge("gangplank_watchers", help, occupancy.watchers);
    to.family(
        MetricKind::Counter,
        "gangplank_http_answers",
        "Answers to requests, by the class of their status.",
    );
    for (class, count) in state.answers.classes() {
        to.sample("_total", &[("class", class)], count);
    }
    to.family(
        MetricKind::Counter,
        "gangplank_http_refusals",
        "Requests that were refused, by the code in their answer.",
    );
    for (code, count) in state.answers.refused() {
        to.sample("_total", &[("code", code.word())], count);
    }
}

fn host(to: &mut Exposition, state: &ServerState) -> Result<(), Error> {
    let help = "Bytes that are free on the disk of the root.";
    to.gauge(
        "gangplank_disk_free_bytes",
        help,
        state.known.store.disk_free()?,
    );
    if let Some(bytes) = memory::resident_bytes() {
        let help = "Memory of the server's own process.";
        to.gauge("gangplank_resident_memory_bytes", help, bytes);
    }
    let help = "Seconds since the start of the server.";
    to.gauge(
        "gangplank_uptime_seconds",
        help,
        state.started.elapsed().as_secs(),
    );
    let help = "Which program this is.";
    to.info(
        "gangplank_build",
        help,
        &[("version", env!("CARGO_PKG_VERSION"))],
    );
    Ok(())
}
