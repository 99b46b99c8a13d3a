//! Asking a host for a payload over HTTP.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select_biased};

use crate::api::error::{Code, Error, Refusal};
use crate::api::name::Secret;
use crate::client::{Client, Notice, Target, TargetCredentials};
use crate::engine::holders::{AskHolder, HolderAnswer, PartialPayload, PayloadHolder};
use crate::system::stop::Stop;

/// A payload of which nothing comes for so long does not come any longer from this host; another one may be quicker.
const SILENCE: Duration = Duration::from_secs(30);
/// A host that sends fewer bytes a second over that time gives way to another one, which goes on from there.
const SLOWEST: u64 = 16 << 10;

/// The hosts of the fleet.
pub(super) struct FleetHosts {
    /// Of role `fleet`.
    token: Secret,
    /// The certificates that are trusted.
    ca: Option<PathBuf>,
    silence: Duration,
}

impl FleetHosts {
    pub(super) fn new(token: Secret, ca: Option<PathBuf>) -> FleetHosts {
        FleetHosts {
            token,
            ca,
            silence: SILENCE,
        }
    }

    fn client(&self, holder: &PayloadHolder) -> Result<Client, Error> {
        let target = Target::parse(&holder.url);
        let doing = || format!("asking {}", holder.name);
        let target = target.map_err(|why| Error::new(doing(), why))?;
        // Whoever may say what it has must not lead this host to the sockets of this machine.
        if target.socket().is_some() {
            return Err(Error::new(doing(), "its URL is that of a unix socket"));
        }
        let client = Client::new(target)?;
        let client = client.with_credentials(&TargetCredentials::Bearer(self.token.clone()))?;
        match &self.ca {
            Some(ca) => client.with_roots(ca),
            None => Ok(client),
        }
    }
}

impl AskHolder for FleetHosts {
    fn ask(
        &self,
        holder: &PayloadHolder,
        part: &mut PartialPayload,
        stop: &Stop,
    ) -> Result<HolderAnswer, Refusal> {
        let begun = self
            .client(holder)
            .and_then(|client| client.payload_by_hash(&part.sha256, part.length));
        let asked = match begun {
            Ok(asked) => asked,
            Err(error) => return Ok(HolderAnswer::Broken(error.to_string())),
        };
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let notice = select_biased! {
                recv(stop.channel()) -> _ => {
                    return Err(Refusal::new(Code::Cancelled, "fetching a payload: stopped"));
                }
                recv(asked.notices()) -> notice => notice,
                recv(after(self.silence)) -> _ => {
                    let why = format!("timed out: nothing came for {} s", self.silence.as_secs());
                    return Ok(HolderAnswer::Broken(why));
                }
            };
            match notice {
                Ok(Notice::Head(200)) => part.begins_at(&holder.name, 0)?,
                Ok(Notice::Head(206)) => part.begins_at(&holder.name, part.length)?,
                Ok(Notice::Bytes(bytes)) => {
                    if !part.take(&bytes)? {
                        return Ok(HolderAnswer::Ended);
                    }
                    came += bytes.len() as u64;
                    if since.elapsed() >= self.silence {
                        if came < SLOWEST.saturating_mul(self.silence.as_secs().max(1)) {
                            let why =
                                format!("it is too slow: {came} bytes in {:?}", since.elapsed());
                            return Ok(HolderAnswer::Broken(why));
                        }
                        (since, came) = (Instant::now(), 0);
                    }
                }
                Ok(Notice::Ended) => return Ok(HolderAnswer::Ended),
                Ok(Notice::Answer(answer)) => {
                    return Ok(match answer.status {
                        404 => HolderAnswer::Lacks,
                        503 => HolderAnswer::Busy,
                        _ => HolderAnswer::Broken(match answer.judge(None) {
                            Ok(_) => "its answer is not a payload".to_owned(),
                            Err(failed) => failed.message,
                        }),
                    });
                }
                Ok(Notice::Broken(_, error)) => return Ok(HolderAnswer::Broken(error.to_string())),
                Ok(Notice::Sent | Notice::Head(_) | Notice::Records(_)) => {}
                Err(_) => return Ok(HolderAnswer::Broken("its request ended".to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::engine::holders::WantedPayload;
    use crate::store::Store;

    #[test]
    fn a_host_that_is_slow_or_none_at_all_is_left_for_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let slow = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment\r\nContent-Length: 1000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let dir = std::env::temp_dir().join(format!("gangplank-slow-{}", std::process::id()));
        let store = Store::open(&dir, Duration::ZERO).unwrap();
        std::fs::create_dir_all(store.fetched_payloads()).unwrap();
        let wanted = WantedPayload {
            project: "app",
            sha256: "ab",
            size: 1000,
        };
        let mut part = PartialPayload::open(&store, &wanted).unwrap();
        let hosts = FleetHosts {
            silence: Duration::from_millis(100),
            ..FleetHosts::new(Secret::new("x"), None)
        };
        for (url, why) in [
            (url, "it is too slow"),
            ("unix:/run/some.sock".to_owned(), "unix socket"),
            ("http://a\u{1b}[2J".to_owned(), "asking two"),
        ] {
            let name = "two".to_owned();
            let asked = hosts.ask(
                &PayloadHolder {
                    name,
                    url,
                    is_near: false,
                },
                &mut part,
                &Stop::never(),
            );
            match asked.unwrap() {
                HolderAnswer::Broken(said) => assert!(said.contains(why), "{said}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(part.length > 0, "another one goes on from there");
        slow.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
