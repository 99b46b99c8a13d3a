//! Asking a host for a payload over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{after, select_biased};

use crate::api::error::{Code, Error, Refusal};
use crate::api::name::Secret;
use crate::client::{Client, Notice, Target, TargetCredentials};
use crate::engine::holders::{AskHolder, HolderAnswer, PartialPayload, PayloadHolder};
use crate::system::stop::Stop;

/// A payload of which nothing comes for so long does not come any longer from this host; another one may be quicker.
const SILENCE: Duration = Duration::from_secs(30);

/// The hosts of the fleet.
pub(super) struct FleetHosts {
    /// Of role `fleet`.
    pub(super) token: Secret,
    /// The certificates that are trusted.
    pub(super) ca: Option<PathBuf>,
}

impl FleetHosts {
    fn client(&self, holder: &PayloadHolder) -> Result<Client, Error> {
        let target = Target::parse(&holder.url);
        let target = target.map_err(|why| Error::new(format!("asking {}", holder.name), why))?;
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
        loop {
            let notice = select_biased! {
                recv(stop.channel()) -> _ => {
                    return Err(Refusal::new(Code::Cancelled, "fetching a payload: stopped"));
                }
                recv(asked.notices()) -> notice => notice,
                recv(after(SILENCE)) -> _ => {
                    let why = format!("timed out: nothing came for {} s", SILENCE.as_secs());
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
                Ok(Notice::Sent | Notice::Head(_) | Notice::Record(_)) => {}
                Err(_) => return Ok(HolderAnswer::Broken("its request ended".to_owned())),
            }
        }
    }
}
