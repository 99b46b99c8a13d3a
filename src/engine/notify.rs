//! Telling others of the ends of deployments, by `--notify`. The end of a deployment puts a file down for each receiver
//! ([`Store::put_notice`]), and the receiver's own thread sends it: five tries over ten minutes, and again from the first one
//! after a start of the server. Nothing of this is in a deployment's way, and what one receiver does holds up no other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::api::error::{Doing, Error};
use crate::api::name::{DeploymentId, Secret};
use crate::api::notice::{self, NoticeUrl};
use crate::client::notice::NoticeReceiver;
use crate::store::Store;
use crate::system::hex;
use crate::system::log;
use crate::system::threads;

/// The waits after each try but the last: a restart of the receiver, one of its machine, and a short trouble of the network.
const WAITS: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(420),
];
/// How long one try may take: a receiver has only to write it down.
const TRY_MAX: Duration = Duration::from_secs(10);
/// TLS and a small body; the buffers are on the heap.
const STACK_BYTES: usize = 512 << 10;
/// How long the directory is let alone when it cannot be read.
const PAUSE: Duration = Duration::from_secs(60);
/// What names certificates that are to be trusted instead of those that this program was built with.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// How long is waited, and for what.
#[derive(Debug, Clone, Copy)]
struct Timing {
    waits: [Duration; WAITS.len()],
    limit: Duration,
}

impl Timing {
    fn new() -> Timing {
        let timing = Timing {
            waits: WAITS,
            limit: TRY_MAX,
        };
        #[cfg(debug_assertions)]
        let timing = timing.hurried();
        timing
    }

    /// Lets a test see all tries within its patience: what the waits are divided by, and the limit in milliseconds.
    #[cfg(debug_assertions)]
    fn hurried(self) -> Timing {
        let asked = std::env::var("GANGPLANK_TEST_NOTIFY").unwrap_or_default();
        let Some((divisor, limit)) = asked.split_once(',') else {
            return self;
        };
        Timing {
            waits: self.waits.map(|wait| wait / divisor.parse().unwrap_or(1)),
            limit: limit.parse().map_or(self.limit, Duration::from_millis),
        }
    }
}

/// One receiver, and where what it is to be told waits.
pub struct Notifier {
    store: Arc<Store>,
    receiver: NoticeReceiver,
    /// The name of its directory.
    name: String,
    timing: Timing,
}

/// A notice that waits.
struct WaitingNotice {
    tries: usize,
    /// None if it was told and cannot be removed.
    due: Option<Instant>,
}

/// Gets ready to tell these receivers, who know the server by what is in a file. From here on the ends of deployments are
/// put down for them.
///
/// # Errors
/// When the secret or the certificates cannot be used, or there is no place for the notices.
pub fn prepare(
    store: &Arc<Store>,
    urls: &[NoticeUrl],
    secret_file: Option<&Path>,
) -> Result<Vec<Notifier>, Error> {
    let secret = secret_file.map(read_secret).transpose()?;
    let file = std::env::var_os(CERTIFICATES).filter(|_| !urls.is_empty());
    let what = || format!("reading the certificates of {CERTIFICATES}");
    let pem = file.map(fs::read).transpose().doing(what)?;
    let notifier = |url: &NoticeUrl| {
        let receiver = NoticeReceiver::new(url.clone(), secret.clone(), pem.as_deref());
        Ok(Notifier {
            store: Arc::clone(store),
            receiver: receiver.doing(what)?,
            // Its URL is a secret, and the same one has the same directory after a restart.
            name: hex::encode(&Sha256::digest(url.reveal())[..8]),
            timing: Timing::new(),
        })
    };
    let notifiers: Vec<Notifier> = urls.iter().map(notifier).collect::<Result<_, Error>>()?;
    store.tell(notifiers.iter().map(|one| one.name.clone()).collect())?;
    Ok(notifiers)
}

fn read_secret(path: &Path) -> Result<Secret, Error> {
    let what = || {
        format!(
            "reading the secret of --notify-secret-file {}",
            path.display()
        )
    };
    let text = fs::read_to_string(path).doing(what)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::new(what(), "it is empty")),
        secret => Ok(Secret::new(secret)),
    }
}

impl Notifier {
    /// Tells what waits and what comes, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(self) -> Result<(), Error> {
        threads::spawn(format!("notify-{}", self.name), STACK_BYTES, move || {
            self.run()
        })
        .map(drop)
        .doing(|| "making a thread that tells of the ends of deployments".into())
    }

    fn run(&self) {
        let mut waiting: BTreeMap<DeploymentId, WaitingNotice> = BTreeMap::new();
        let mut seen = 0;
        loop {
            match self.store.notices(&self.name) {
                Ok(ids) => {
                    waiting.retain(|id, _| ids.binary_search(id).is_ok());
                    for id in ids {
                        waiting.entry(id).or_insert_with(|| WaitingNotice {
                            tries: 0,
                            due: Some(Instant::now()),
                        });
                    }
                }
                Err(error) => {
                    log::error(&error.to_string());
                    self.store.await_notices(&mut seen, Some(PAUSE));
                    continue;
                }
            }
            let next = waiting.iter_mut().filter(|(_, one)| one.due.is_some());
            let next = next.min_by_key(|(_, one)| one.due);
            let left = next.as_ref().and_then(|(_, one)| one.due);
            let left = left.map(|due| due.saturating_duration_since(Instant::now()));
            match next {
                Some((id, one)) if left == Some(Duration::ZERO) => self.deliver(*id, one),
                _ => self.store.await_notices(&mut seen, left),
            }
        }
    }

    /// Tries once.
    fn deliver(&self, id: DeploymentId, waiting: &mut WaitingNotice) {
        waiting.tries += 1;
        let sent = match self.store.read_notice(&self.name, id) {
            Ok(Some(body)) => {
                let delivery = notice::delivery_id(id);
                self.receiver.send(&delivery, &body, self.timing.limit)
            }
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        let to = format!(
            "telling {} of the end of deployment {id}",
            self.receiver.origin()
        );
        match (sent, self.timing.waits.get(waiting.tries - 1)) {
            (Ok(()), _) => {}
            (Err(why), Some(wait)) => {
                let seconds = wait.as_secs_f64();
                log::warn(&format!("{to}: {why}; it is tried again in {seconds} s"));
                waiting.due = Some(Instant::now() + *wait);
                return;
            }
            (Err(why), None) => {
                log::error(&format!(
                    "{to}: {why}; it is given up after {} tries",
                    waiting.tries
                ));
            }
        }
        waiting.due = None;
        if let Err(error) = self.store.remove_notice(&self.name, id) {
            log::warn(&format!("{error}; the next start tells it again"));
        }
    }
}
