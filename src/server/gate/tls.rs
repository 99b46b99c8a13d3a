//! TLS on the TCP listeners: the certificate, which may be renewed while the server runs, and one connection's session.
//!
//! rustls does no input or output of its own. A [`TlsSession`] reads and writes the socket without waiting, so that the loops
//! that wait stay what they are; what it holds back of what was written it tells ([`TlsSession::unsent`]), and that is asked
//! before every wait.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use crate::api::error::{Doing, Error};
use crate::server::gate::socket::Socket;
use crate::system::socket::{receive, send};

/// The first byte of whatever begins a TLS session (RFC 8446, 5.1: a handshake record). No HTTP method begins with it.
pub(crate) const HELLO: u8 = 0x16;

/// A certificate and its key, from files that are read again when the server is told so.
#[derive(Debug)]
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    config: Mutex<Arc<ServerConfig>>,
}

impl Certificate {
    /// Reads a chain of certificates and their key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read or holds nothing of its kind, or the two do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Certificate, Error> {
        let config = Mutex::new(read(cert, key)?);
        Ok(Certificate {
            cert: cert.to_owned(),
            key: key.to_owned(),
            config,
        })
    }

    /// Reads the files again, for the connections that come from now on.
    ///
    /// # Errors
    /// As [`Certificate::load`]; what was loaded before goes on then.
    pub fn reload(&self) -> Result<(), Error> {
        let fresh = read(&self.cert, &self.key)?;
        *self.lock() = fresh;
        Ok(())
    }

    /// Begins a session with a client that has just connected.
    pub(crate) fn begin(&self) -> io::Result<TlsSession> {
        let config = Arc::clone(&self.lock());
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsSession(Box::new(tls)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<ServerConfig>> {
        // One pointer replaces another, which cannot be done by half.
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let what = || format!("reading the certificate {}", cert.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| plain(error, "certificate"))
        .doing(what)?;
    if chain.is_empty() {
        return Err(Error::new(what(), "it has no PEM certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| plain(error, "private key"))
        .doing(|| format!("reading the key {}", key.display()))?;
    let both = || {
        format!(
            "using the certificate {} with the key {}",
            cert.display(),
            key.display()
        )
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .doing(both)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "they do not belong together".to_owned(),
            other => other.to_string(),
        })
        .map_err(|why| Error::new(both(), why))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The reason in words that say what was looked for.
fn plain(error: pem::Error, kind: &str) -> io::Error {
    match error {
        pem::Error::Io(error) => error,
        pem::Error::NoItemsFound => io::Error::other(format!("it has no PEM {kind}")),
        other => io::Error::other(other),
    }
}

/// One connection's encryption.
#[derive(Debug)]
pub(crate) struct TlsSession(Box<ServerConnection>);

impl TlsSession {
    /// Reads what there is: nothing yet is `None`, the end is 0. When it is nothing, nothing is held back.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.0.reader().into_first_chunk() {
                // The client has said that this is its end.
                Ok([]) => return Ok(Some(0)),
                Ok(bytes) => {
                    let taken = bytes.len().min(buffer.len());
                    buffer[..taken].copy_from_slice(&bytes[..taken]);
                    self.0.reader().consume(taken);
                    return Ok(Some(taken));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.0.read_tls(&mut Wire(socket)) {
                // The end of the connection without the client's word: the next look at the plain text says so.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.flush(socket)?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = self.0.process_new_packets() {
                // The alert tells the client why; whether it arrives changes nothing here.
                let _ = self.flush(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.flush(socket)?;
        }
    }

    /// Takes what fits, and writes of it what the socket takes; `None` if nothing fits now.
    pub(crate) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<Option<usize>> {
        // What was taken before goes first, so that no more than one buffer is ever between the two.
        if !self.flush(socket)? {
            return Ok(None);
        }
        if bytes.is_empty() {
            return Ok(Some(0));
        }
        let taken = self.0.writer().write(bytes)?;
        self.flush(socket)?;
        Ok(Some(taken))
    }

    /// Whether something that was taken is still to be written.
    pub(crate) fn unsent(&self) -> bool {
        self.0.wants_write()
    }

    /// Tells the client that nothing more comes.
    pub(crate) fn end(&mut self, socket: &Socket) {
        self.0.send_close_notify();
        // Its loss is the client's to notice: the lengths of the answer are complete.
        let _ = self.flush(socket);
    }

    /// Writes what the socket takes now, and returns whether that is all.
    fn flush(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Wire(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The socket under a session, read and written without waiting.
struct Wire<'a>(&'a Socket);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        receive(self.0, buffer)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0, bytes)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
