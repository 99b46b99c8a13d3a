//! Asking a URL whether whoever serves it is well.

use std::time::Duration;

use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::api::error::{Doing, Error};
use crate::client::agent;

/// The status that a URL answers a GET with, within a time. Redirects are not followed, and any certificate will do: what is
/// asked is a process of this host about itself.
///
/// # Errors
/// When there is no answer in time.
pub(crate) fn probe(url: &str, limit: Duration) -> Result<u16, Error> {
    let config = agent::config()
        .max_idle_connections(0)
        .tls_config(TlsConfig::builder().disable_verification(true).build())
        .timeout_global(Some(limit))
        .build();
    let answer = Agent::new_with_config(config)
        .get(url)
        .call()
        .doing(|| format!("asking {url}"))?;
    Ok(answer.status().as_u16())
}
