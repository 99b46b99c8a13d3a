//! TLS with the certificates of a file: those of authorities, and a server's own.
//!
//! `openssl req -x509` makes a certificate that is an authority's by its form. A verifier refuses it as that of a server,
//! though whoever names the very file means just this. So a certificate that is byte for byte in the file is trusted for
//! its names as long as it is valid; all others need a chain to one of the file.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::tls::ClientCert;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

/// A configuration that trusts the certificates of a PEM file's text, and no others, and shows a certificate if it has one.
pub(crate) fn trusting_pem(
    pem: &[u8],
    identity: Option<&ClientCert>,
) -> Result<ClientConfig, String> {
    let known: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let known = known.map_err(|error| error.to_string())?;
    match known.is_empty() {
        true => Err("there is none in it".to_owned()),
        false => trusting(known, identity),
    }
}

fn trusting(
    known: Vec<CertificateDer<'static>>,
    identity: Option<&ClientCert>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(known.iter().cloned());
    let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let chain = chain.build().map_err(|error| error.to_string())?;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KnownVerifier { known, chain }));
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let shown = identity.certs().iter();
    let shown = shown.map(|one| CertificateDer::from(one.der().to_vec()));
    let key = identity.private_key().der().to_vec();
    let key = PrivateKeyDer::try_from(key).map_err(str::to_owned)?;
    let config = builder.with_client_auth_cert(shown.collect(), key);
    config.map_err(|error| error.to_string())
}

/// Trusts what the file holds, and what a chain leads to from there.
#[derive(Debug)]
struct KnownVerifier {
    known: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for KnownVerifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self
            .chain
            .verify_server_cert(server, between, name, ocsp, now)
        {
            Err(refused) => refused,
            verified => return verified,
        };
        // Its time is looked at before its form.
        let is_over = matches!(
            &refused,
            Error::InvalidCertificate(
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            )
        );
        if is_over || !self.known.contains(server) {
            return Err(refused);
        }
        match verify_server_name(&ParsedCertificate::try_from(server)?, name) {
            Err(_) if common_name(server).is_some_and(|common| is_name(&common, name)) => {}
            verified => verified?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, server, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, server, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn is_name(common: &str, name: &ServerName<'_>) -> bool {
    common.eq_ignore_ascii_case(&name.to_str())
}

/// The common name of a certificate that has no alternative names, as curl takes it too: without `-addext`, openssl writes
/// no other.
fn common_name(certificate: &[u8]) -> Option<String> {
    const ALTERNATIVE_NAMES: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    if memchr::memmem::find(certificate, ALTERNATIVE_NAMES).is_some() {
        return None;
    }
    let (_, certificate, _) = der(certificate)?;
    let (_, mut fields, _) = der(certificate)?;
    // The version, if it is not the first; the number, the algorithm, the issuer, the time, and then the subject.
    let (tag, _, rest) = der(fields)?;
    if tag == 0xa0 {
        fields = rest;
    }
    for _ in 0..4 {
        fields = der(fields)?.2;
    }
    let (_, subject, _) = der(fields)?;
    let at = memchr::memmem::find(subject, COMMON_NAME)?;
    let (_, text, _) = der(&subject[at + COMMON_NAME.len()..])?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

/// The first element: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        // So many bytes of length; a certificate has less than 16 MiB.
        let count = usize::from(first & 0x7f);
        let digits = rest.get(..count).filter(|_| count <= 3)?;
        length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = &rest[count..];
    }
    let content = rest.get(..length)?;
    Some((tag, content, &rest[length..]))
}

/// Speaks TLS by a configuration of ours, where there is one; else ureq does.
pub(crate) struct TlsConnector(pub(crate) Option<Arc<ClientConfig>>);

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let (Some(transport), Some(config), true) = (&chained, &self.0, details.needs_tls()) else {
            return Ok(chained.map(Either::A));
        };
        debug_assert!(!transport.is_tls());
        let host = details.uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| ureq::Error::Tls("the host is not a name that a certificate can have"))?;
        let mut session = ClientConnection::new(Arc::clone(config), name)?;
        let Some(transport) = chained else {
            return Ok(None);
        };
        let mut socket =
            TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        session.complete_io(&mut socket)?;
        Ok(Some(Either::B(TlsTransport {
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            stream: StreamOwned::new(session, socket),
        })))
    }
}

/// A connection that speaks TLS.
pub(crate) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
