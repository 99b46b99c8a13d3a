//! What every connection of ours keeps to, whomever it asks.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

/// Says who asks, takes no way but the one that was named (no proxy, no redirect), and leaves the judgement of a status to who
/// asks.
pub(super) fn config() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("gangplank/", env!("CARGO_PKG_VERSION")))
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
}
