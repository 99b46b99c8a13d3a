//! etcd, spoken to by its JSON gateway, which every etcd since 3.4 has at `/v3`.
//!
//! A call goes to one of the endpoints; which one is first is decided by the host's name, so that hosts spread over them. An
//! endpoint that does not answer gives way to the next one. What reads is asked again there at once. What writes is only if
//! it is known that nothing was sent: else its outcome is unknown, and whoever wrote has to look.

mod ask;
mod connect;
mod failure;
mod message;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::tls::TlsConfig;

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::client::etcd::ask::{Call, Etcd};
use crate::client::etcd::connect::{Times, agent, identity_of};
use crate::client::etcd::message::{
    DeleteRequest, GrantRequest, KeepRequest, KeyValue, LeaseResponse, PutRequest, RangeRequest,
    RangeResponse, Streamed, TxnRequest, TxnResponse, WriteResponse,
};
use crate::client::etcd::watch::HangUp;
use crate::client::kv::{
    CasOutcome, KvEntry, KvError, KvListing, KvRange, KvStore, KvTransaction, KvTrouble, KvWatch,
    LeaseId,
};
use crate::client::tls;
use crate::system::threads;

/// etcd needs 7 s to say that there is no leader. Below that it would be a mere silence.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(10);
/// Keys in one answer, unless their values are too large for that: with documents of 16 KiB it stays under what one answer may
/// have.
const PAGE: u64 = 500;
/// etcd takes no more writes in one transaction.
const OPERATIONS_MAX: usize = 128;
/// A burst of changes does not wait for who acts on them; a longer one is held back at etcd's socket.
const NEWS_MAX: usize = 64;
/// The stack of a watch's thread, which reads JSON of little depth, over TLS.
const STACK_BYTES: usize = 256 << 10;

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdOptions {
    /// Where, `http://host:port` or `https://host:port`.
    pub(crate) endpoints: Vec<String>,
    /// The host's name, which decides what endpoint is first.
    pub(crate) spread_by: String,
    /// Who logs in.
    pub(crate) user: Option<(String, Secret)>,
    /// The certificates that are trusted.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that is shown, and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// The longest wait for an answer.
    pub(crate) call_max: Duration,
    /// A watch of which nothing comes for so long is ended.
    pub(crate) silence: Duration,
}

/// An etcd, of one node or of several.
#[derive(Clone)]
pub(crate) struct EtcdStore(Arc<Etcd>);

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdStore({})", self.0.endpoints.join(","))
    }
}

impl EtcdStore {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When a certificate or a key cannot be read.
    pub(crate) fn new(options: EtcdOptions) -> Result<EtcdStore, Error> {
        let identity = options.certificate.as_ref();
        let identity = identity.map(|(certificate, key)| identity_of(certificate, key));
        let identity = identity.transpose()?;
        let trust = options.ca.as_deref().map(|file| {
            let doing = || format!("reading certificates from {}", file.display());
            let pem = fs::read(file).doing(doing)?;
            let config = tls::trusting_pem(&pem, identity.as_ref());
            Ok::<_, Error>(Arc::new(config.map_err(|why| Error::new(doing(), why))?))
        });
        let trust = trust.transpose()?;
        let has_certificate = identity.is_some();
        let tls = TlsConfig::builder().client_cert(identity).build();
        let spread = options.spread_by.bytes().fold(5381_usize, |hash, byte| {
            hash.wrapping_mul(33) ^ usize::from(byte)
        });
        let agent = agent(&tls, trust.as_ref(), Times::Call(options.call_max));
        Ok(EtcdStore(Arc::new(Etcd {
            current: AtomicUsize::new(spread % options.endpoints.len().max(1)),
            endpoints: options.endpoints,
            user: options.user,
            token: Mutex::new(None),
            tls,
            trust,
            has_certificate,
            silence: options.silence,
            agent,
        })))
    }
}

impl KvStore for EtcdStore {
    fn list(&self, range: &KvRange) -> Result<KvListing, KvError> {
        let mut listed = self.pages(range);
        if matches!(&listed, Err(error) if error.trouble == KvTrouble::Compacted) {
            // The history was cut between two pages.
            listed = self.pages(range);
        }
        listed
    }

    fn watch(&self, ranges: &[KvRange], after: i64) -> Result<KvWatch, KvError> {
        let (sender, news) = crossbeam_channel::bounded(NEWS_MAX);
        let etcd = Arc::clone(&self.0);
        let agent = agent(&etcd.tls, etcd.trust.as_ref(), Times::Silence(etcd.silence));
        let (own, ranges) = (agent.clone(), ranges.to_vec());
        let work = move || etcd.watch(&own, &ranges, after, &sender);
        threads::spawn("fleet-watch", STACK_BYTES, work).map_err(|error| {
            let why = format!("watching: making a thread for it: {error}");
            KvError::new(KvTrouble::Unavailable, why)
        })?;
        Ok(KvWatch {
            news,
            _guard: Box::new(HangUp(agent)),
        })
    }

    fn cas(&self, transaction: &KvTransaction) -> Result<CasOutcome, KvError> {
        let (conditions, writes) = (&transaction.conditions, &transaction.writes);
        let first = conditions.first().map_or("nothing", |one| one.key());
        let doing = format!("comparing and setting {first}");
        if conditions.len().max(writes.len()) > OPERATIONS_MAX {
            let why = format!("{doing}: etcd takes at most {OPERATIONS_MAX} of them at once");
            return Err(KvError::new(KvTrouble::Refused, why));
        }
        let call = Call {
            path: "/v3/kv/txn",
            doing: &doing,
            writes: true,
        };
        let answer: TxnResponse = self.0.ask(&call, &TxnRequest::new(conditions, writes))?;
        if answer.succeeded {
            return Ok(CasOutcome::Won(answer.header.revision));
        }
        let found = answer
            .responses
            .into_iter()
            .filter_map(|part| part.response_range);
        let found = found.flat_map(|range| range.kvs).map(|one| one.entry());
        let found: Result<Vec<KvEntry>, String> = found.collect();
        let found =
            found.map_err(|why| KvError::new(KvTrouble::Refused, format!("{doing}: {why}")))?;
        Ok(CasOutcome::Lost(found))
    }

    fn put(&self, key: &str, value: &[u8], lease: Option<&LeaseId>) -> Result<i64, KvError> {
        let call = Call {
            path: "/v3/kv/put",
            doing: &format!("setting {key}"),
            writes: true,
        };
        let answer: WriteResponse = self.0.ask(&call, &PutRequest::new(key, value, lease))?;
        Ok(answer.header.revision)
    }

    fn alive(&self, lease: Option<&LeaseId>, ttl: Duration) -> Result<LeaseId, KvError> {
        let Some(lease) = lease else {
            let call = Call {
                path: "/v3/lease/grant",
                doing: "asking for a lease",
                writes: false,
            };
            let ttl = ttl.as_secs().max(1).to_string();
            let answer: LeaseResponse = self.0.ask(&call, &GrantRequest { ttl })?;
            return Ok(LeaseId(answer.id.to_string()));
        };
        let call = Call {
            path: "/v3/lease/keepalive",
            doing: "renewing the lease",
            writes: false,
        };
        let answer: Streamed<LeaseResponse> = self.0.ask(&call, &KeepRequest { id: &lease.0 })?;
        // One that has ended is answered as well, without the time that it lasts.
        match answer.result.ttl > 0 {
            true => Ok(lease.clone()),
            false => Err(KvError::new(
                KvTrouble::Gone,
                "renewing the lease: it has ended",
            )),
        }
    }

    fn delete(&self, range: &KvRange) -> Result<i64, KvError> {
        let call = Call {
            path: "/v3/kv/deleterange",
            doing: &format!("removing {}", range.from),
            writes: true,
        };
        let answer: WriteResponse = self.0.ask(&call, &DeleteRequest::new(range))?;
        Ok(answer.header.revision)
    }
}

impl EtcdStore {
    /// All pages of a range, as of the first one's revision.
    fn pages(&self, range: &KvRange) -> Result<KvListing, KvError> {
        let doing = format!("listing {}", range.from);
        let call = Call {
            path: "/v3/kv/range",
            doing: &doing,
            writes: false,
        };
        let mut listing = KvListing {
            revision: 0,
            entries: Vec::new(),
        };
        let (mut from, mut page) = (range.from.clone().into_bytes(), PAGE);
        loop {
            let left = match range.limit {
                0 => page,
                limit => limit.saturating_sub(listing.entries.len() as u64).min(page),
            };
            let request = RangeRequest::page(range, &from, left, listing.revision);
            let answer: RangeResponse = match self.0.ask(&call, &request) {
                // Somebody wrote large values there.
                Err(error) if error.trouble == KvTrouble::TooLarge && left > 1 => {
                    page = (left / 4).max(1);
                    continue;
                }
                answer => answer?,
            };
            if listing.revision == 0 {
                listing.revision = answer.header.revision;
            }
            page = (page * 2).min(PAGE);
            let next = answer.kvs.last().filter(|_| answer.more);
            let next = next.map(KeyValue::next_key);
            for one in answer.kvs {
                let one = one.entry();
                let one =
                    one.map_err(|why| KvError::new(KvTrouble::Refused, format!("{doing}: {why}")))?;
                listing.entries.push(one);
            }
            let full = range.limit > 0 && listing.entries.len() as u64 >= range.limit;
            match next.filter(|_| !full) {
                Some(next) => from = next,
                None => return Ok(listing),
            }
        }
    }
}
