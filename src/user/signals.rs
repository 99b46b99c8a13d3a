//! SIGINT, SIGTERM and SIGHUP as something to wait for, while there is something to wait for.

use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Caught};

use crate::error::{Doing, Error};

/// Catches the signals until it is dropped; from then on they do nothing, as the program is about to end.
#[derive(Debug)]
pub(crate) struct Signals {
    channel: Receiver<()>,
    handle: Handle,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals, Error> {
        let doing = || "catching signals".to_owned();
        let mut caught = Caught::new([SIGINT, SIGTERM, SIGHUP]).doing(doing)?;
        let handle = caught.handle();
        // One is enough: the first one ends the command.
        let (sender, channel) = crossbeam_channel::bounded(1);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for _ in caught.forever() {
                    let _ = sender.try_send(());
                }
            })
            .doing(doing)?;
        Ok(Signals { channel, handle })
    }

    /// For `select!`.
    pub(crate) fn channel(&self) -> &Receiver<()> {
        &self.channel
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}
