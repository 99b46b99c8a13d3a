//! One call: at an endpoint that answers, and with a token if etcd wants one.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use crate::api::name::Secret;
use crate::client::etcd::failure::{EtcdFailure, EtcdRefusal, of_transport};
use crate::client::etcd::message::{LoginRequest, LoginResponse};
use crate::client::kv::{KvError, KvTrouble};

/// No answer is longer.
const ANSWER_MAX: u64 = 32 << 20;

/// What all calls share.
pub(super) struct Etcd {
    pub(super) endpoints: Vec<String>,
    pub(super) current: AtomicUsize,
    pub(super) user: Option<(String, Secret)>,
    pub(super) token: Mutex<Option<String>>,
    pub(super) tls: TlsConfig,
    pub(super) trust: Option<Arc<ClientConfig>>,
    pub(super) has_certificate: bool,
    pub(super) silence: Duration,
    pub(super) agent: Agent,
}

/// A call: where it goes, what is said of it, and whether it changes something.
pub(super) struct Call<'a> {
    pub(super) path: &'static str,
    pub(super) doing: &'a str,
    pub(super) writes: bool,
}

/// Why one try at one endpoint failed.
enum TryFailed {
    LogIn(String),
    /// Its users are switched off.
    NoUsers,
    /// The next endpoint may do it.
    Elsewhere(KvError),
    For(KvError),
}

impl Etcd {
    pub(super) fn endpoint(&self) -> (usize, &str) {
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        (at, &self.endpoints[at])
    }

    /// From now on the next endpoint is asked, if nobody has turned to it before.
    pub(super) fn turn(&self, from: usize) {
        let next = (from + 1) % self.endpoints.len();
        let order = Ordering::Relaxed;
        let _ = self.current.compare_exchange(from, next, order, order);
    }

    pub(super) fn token(&self) -> Option<String> {
        self.token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks, at each endpoint once if need be, and logs in once if need be.
    pub(super) fn ask<A: DeserializeOwned>(
        &self,
        call: &Call,
        request: &impl Serialize,
    ) -> Result<A, KvError> {
        let doing = call.doing;
        let body = serde_json::to_vec(request).map_err(|error| {
            KvError::new(
                KvTrouble::Refused,
                format!("{doing}: writing the request: {error}"),
            )
        })?;
        if self.user.is_some() && self.token().is_none() {
            self.log_in(doing)?;
        }
        let (mut tries, mut logins) = (1, 0);
        loop {
            let (at, endpoint) = self.endpoint();
            match self.try_at(endpoint, call, &body) {
                Ok(answer) => return Ok(answer),
                Err(TryFailed::LogIn(message)) => {
                    if self.user.is_none() {
                        let why = format!("{message}: it wants a user and a password");
                        return Err(KvError::new(KvTrouble::Denied, why));
                    }
                    if logins > 0 {
                        return Err(KvError::new(KvTrouble::Denied, message));
                    }
                    logins += 1;
                    self.log_in(doing)?;
                }
                Err(TryFailed::For(error)) => return Err(error),
                Err(TryFailed::NoUsers) => {
                    let why = format!("{doing}: etcd's users are switched off");
                    return Err(KvError::new(KvTrouble::Refused, why));
                }
                Err(TryFailed::Elsewhere(error)) => {
                    self.turn(at);
                    if tries >= self.endpoints.len()
                        || (call.writes && error.trouble == KvTrouble::Unknown)
                    {
                        return Err(error);
                    }
                    tries += 1;
                }
            }
        }
    }

    fn try_at<A: DeserializeOwned>(
        &self,
        endpoint: &str,
        call: &Call,
        body: &[u8],
    ) -> Result<A, TryFailed> {
        let doing = format!("{} at {endpoint}", call.doing);
        let doing = doing.as_str();
        let is_tls = endpoint.starts_with("https:");
        let broken = |error| {
            let error = of_transport(doing, error, is_tls, self.has_certificate);
            TryFailed::Elsewhere(error)
        };
        let request = self.agent.post(format!("{endpoint}{}", call.path));
        let request = match self.token() {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        let response = request.send(body).map_err(broken)?;
        let status = response.status().as_u16();
        let answer = whole(response.into_body()).map_err(|error| match error {
            // What is asked again for less is only what changes nothing.
            ureq::Error::Io(io) if io.kind() == ErrorKind::FileTooLarge && !call.writes => {
                let why = format!("{doing}: its answer is over {} MiB", ANSWER_MAX >> 20);
                TryFailed::For(KvError::new(KvTrouble::TooLarge, why))
            }
            error => broken(error),
        })?;
        let refused = |failure: EtcdFailure| match failure.judge(doing, call.writes) {
            EtcdRefusal::LogIn(message) => TryFailed::LogIn(message),
            EtcdRefusal::NoUsers => TryFailed::NoUsers,
            EtcdRefusal::Trouble(error) => match error.trouble {
                KvTrouble::Unavailable | KvTrouble::Unknown => TryFailed::Elsewhere(error),
                _ => TryFailed::For(error),
            },
        };
        if !(200..300).contains(&status) {
            return Err(refused(EtcdFailure::read(status, &answer)));
        }
        if let Some(failure) = EtcdFailure::in_stream(&answer) {
            return Err(refused(failure));
        }
        serde_json::from_slice(&answer).map_err(|error| {
            let why = format!("{doing}: its answer is not etcd's: {error}");
            TryFailed::For(KvError::new(KvTrouble::Refused, why))
        })
    }

    /// Fetches a token. Where users are switched off it goes on without.
    pub(super) fn log_in(&self, doing: &str) -> Result<(), KvError> {
        let Some((name, password)) = &self.user else {
            return Ok(());
        };
        let doing = format!("{doing}: logging in as {name}");
        let call = Call {
            path: "/v3/auth/authenticate",
            doing: &doing,
            writes: false,
        };
        let body = serde_json::to_vec(&LoginRequest {
            name,
            password: password.reveal(),
        });
        let body = body.map_err(|error| KvError::new(KvTrouble::Refused, error.to_string()))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut tries = 1;
        loop {
            let (at, endpoint) = self.endpoint();
            let denied = match self.try_at::<LoginResponse>(endpoint, &call, &body) {
                Ok(answer) => {
                    let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
                    *token = Some(answer.token);
                    return Ok(());
                }
                Err(TryFailed::NoUsers) => return Ok(()),
                Err(TryFailed::Elsewhere(error)) => {
                    self.turn(at);
                    if tries >= self.endpoints.len() {
                        return Err(error);
                    }
                    tries += 1;
                    continue;
                }
                // A wrong name or password is a refusal of the request.
                Err(TryFailed::For(error)) => error.message,
                Err(TryFailed::LogIn(message)) => message,
            };
            return Err(KvError::new(KvTrouble::Denied, denied));
        }
    }
}

/// The whole body of an answer.
pub(super) fn whole(body: Body) -> Result<Vec<u8>, ureq::Error> {
    let mut answer = Vec::new();
    let read = body
        .into_reader()
        .take(ANSWER_MAX + 1)
        .read_to_end(&mut answer)?;
    match read as u64 > ANSWER_MAX {
        true => Err(ureq::Error::Io(ErrorKind::FileTooLarge.into())),
        false => Ok(answer),
    }
}
