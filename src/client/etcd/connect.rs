//! The connections to etcd: their certificates, and what ends a request that does not come to its end.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};

use crate::api::error::{Doing, Error};
use crate::client::agent;
use crate::client::tls::TlsConnector;

/// For the connection, TLS included, and for the name's resolution.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// An etcd that takes no byte of a watch's request for so long is stuck.
const WRITE_MAX: Duration = Duration::from_secs(8);

/// A certificate that is shown, and its key.
///
/// # Errors
/// When one of them cannot be read.
pub(super) fn identity_of(certificate: &Path, key: &Path) -> Result<ClientCert, Error> {
    let doing = || format!("reading the certificate {}", certificate.display());
    let pem = fs::read(certificate).doing(doing)?;
    let chain: Result<Vec<Certificate<'static>>, _> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .collect();
    let chain = chain.doing(doing)?;
    if chain.is_empty() {
        return Err(Error::new(doing(), "there is none in it"));
    }
    let doing = || format!("reading the key {}", key.display());
    let pem = fs::read(key).doing(doing)?;
    let key = PrivateKey::from_pem(&pem).doing(doing)?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// What ends a request that does not come to its end.
pub(super) enum Times {
    Call(Duration),
    Silence(Duration),
}

pub(super) fn agent(tls: &TlsConfig, trust: Option<&Arc<ClientConfig>>, times: Times) -> Agent {
    let config = agent::config()
        .tls_config(tls.clone())
        .timeout_resolve(Some(CONNECT_MAX))
        .timeout_connect(Some(CONNECT_MAX));
    let config = match times {
        Times::Call(longest) => config.timeout_global(Some(longest)),
        Times::Silence(longest) => config
            .max_idle_connections(0)
            .timeout_per_read(Some(longest))
            .timeout_per_write(Some(WRITE_MAX)),
    };
    let connector = TcpConnector::default()
        .chain(TlsConnector(trust.cloned()))
        .chain(RustlsConnector::default());
    Agent::with_parts(config.build(), connector, DefaultResolver::default())
}
