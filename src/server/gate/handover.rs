//! Connections on their way from the gate to the thread that answers them.
//!
//! The HTTP server behind the gate gets the head alone, with the connection's number in it. The thread that answers
//! that request takes the connection by this number, and from then on reads the body and writes the answer itself.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::server::gate::GateState;
use crate::server::gate::connection::Connection;
use crate::server::gate::refused::Refused;
use crate::system::log;

/// For the server behind to hand out a request: it takes milliseconds, and some seconds on a machine that is overloaded.
const HANDOVER_TIME: Duration = Duration::from_secs(30);

/// Connections that nobody has taken yet.
#[derive(Default)]
pub struct PendingConnections(Mutex<HashMap<u64, Connection>>);

impl PendingConnections {
    fn put(&self, connection: Connection) {
        self.lock().insert(connection.number(), connection);
    }

    /// Takes a connection, if it is there and nobody else has taken it.
    pub fn take(&self, number: u64) -> Option<Connection> {
        self.lock().remove(&number)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        // A map is whole after each of its changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a connection to the thread that answers it. Returns when it is taken, or refused because no thread took it.
pub(super) fn run(shared: &GateState, connection: Connection, head: &[u8]) {
    let number = connection.number();
    let inner = match shared.connect() {
        Ok(inner) => inner,
        Err(error) => {
            log::error(&format!("asking the server behind the gate: {error}"));
            return connection.refuse(&busy());
        }
    };
    shared.pending.put(connection);
    let why = match ask(inner, head) {
        Ok(()) => busy(),
        Err(refused) => refused,
    };
    if let Some(connection) = shared.pending.take(number) {
        connection.refuse(&why);
    }
}

fn busy() -> Refused {
    Refused::full("the server cannot take a request now; try again")
}

/// Sends the head, and waits until the server behind closes the connection: the thread that takes a request does so, and so
/// does the system for a server that died. Only a head that it does not understand is answered by this way.
fn ask(mut inner: UnixStream, head: &[u8]) -> Result<(), Refused> {
    let mut said = [0; "HTTP/1.1 400".len()];
    let asked = inner
        .set_read_timeout(Some(HANDOVER_TIME))
        .and_then(|()| inner.write_all(head))
        .and_then(|()| inner.read_exact(&mut said));
    match asked {
        Ok(()) if said.ends_with(b" 400") => Err(Refused::new(
            400,
            "the head of the request: it is malformed",
        )),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            log::error("the server behind the gate does not hand out a request");
            Ok(())
        }
        _ => Ok(()),
    }
}
