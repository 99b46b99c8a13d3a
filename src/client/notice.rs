//! One notice, sent to whoever wants to hear of it: one POST, no redirect, and no answer but its status.

use std::time::Duration;

use rustls::ClientConfig;
use ureq::Agent;

use crate::api::name::Secret;
use crate::api::notice::NoticeUrl;
use crate::client::download;
use crate::client::tls;
use crate::formats::hmac::hmac_sha256;

/// Somebody who is told.
pub(crate) struct NoticeReceiver {
    url: NoticeUrl,
    secret: Option<Secret>,
    agent: Agent,
}

impl NoticeReceiver {
    /// A receiver that knows the sender by a secret, if there is one. The certificates of a PEM file's text are trusted, or
    /// those that this program was built with.
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub(crate) fn new(
        url: NoticeUrl,
        secret: Option<Secret>,
        pem: Option<&[u8]>,
    ) -> Result<NoticeReceiver, String> {
        let trust: Option<ClientConfig> =
            pem.map(|pem| tls::trusting_pem(pem, None)).transpose()?;
        let agent = download::agent(trust);
        Ok(NoticeReceiver { url, secret, agent })
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> &str {
        self.url.origin()
    }

    /// Sends one. Only a status of the 2xx family says that it was taken.
    ///
    /// # Errors
    /// Why it was not, without anything that is secret.
    pub(crate) fn send(&self, id: &str, body: &[u8], limit: Duration) -> Result<(), String> {
        let mut request = self
            .agent
            .post(self.url.reveal())
            .config()
            .timeout_global(Some(limit))
            .build()
            .header("Content-Type", "application/json")
            .header("X-Gangplank-Delivery", id);
        if let Some(secret) = &self.secret {
            let code = hmac_sha256(secret.reveal().as_bytes(), body);
            request = request.header("X-Gangplank-Signature", format!("sha256={code}"));
        }
        let status = match request.send(body) {
            Ok(answer) => answer.status().as_u16(),
            Err(ureq::Error::Timeout(_)) => {
                return Err(format!(
                    "it did not answer within {} s",
                    limit.as_secs_f64()
                ));
            }
            Err(error) => return Err(download::reason(error)),
        };
        match status {
            200..=299 => Ok(()),
            300..=399 => Err(format!(
                "it answers {status}, and a redirect is not followed"
            )),
            _ => Err(format!("it answers {status}")),
        }
    }
}
