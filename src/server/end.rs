//! What ends a server, or makes it read its certificate again.

use std::sync::Arc;

use crossbeam_channel::{Receiver, select};

use crate::server::gate::Certificate;
use crate::system::log;
use crate::system::signals::Signal;

/// Why a server ends.
pub(super) enum ServerEnd {
    Signal,
    /// The next server has its sockets.
    Replaced,
}

/// Obeys signals until the end.
pub(super) fn wait_for_end(
    signals: &Receiver<Signal>,
    replaced: &Receiver<()>,
    certificate: Option<&Arc<Certificate>>,
) -> ServerEnd {
    loop {
        select! {
            // The channels are never closed: their threads live as long as the process.
            recv(signals) -> signal => match signal {
                Ok(Signal::Reload) => {}
                _ => return ServerEnd::Signal,
            },
            recv(replaced) -> _ => return ServerEnd::Replaced,
        }
        match certificate.map(|certificate| certificate.reload()) {
            Some(Ok(())) => log::info("read the certificate again"),
            Some(Err(error)) => log::error(&format!("{error}; the one from before goes on")),
            None => log::info("SIGHUP: without a certificate there is nothing to read again"),
        }
    }
}
