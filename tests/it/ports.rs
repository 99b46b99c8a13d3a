//! Ports for servers of tests, and addresses at which nobody is.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// From here on the system gives ports to whoever connects or wants any; well below them are the well-known ones.
const EPHEMERAL: u16 = 32_768;
const FIRST: u16 = EPHEMERAL - 12_000;

/// So many ports in a row belong to one process. It keeps the first one's UDP port as the sign of that, which no test wants.
const BLOCK: u16 = 40;

/// What this process has, and how many ports of the newest block are used.
static BLOCKS: Mutex<(Vec<UdpSocket>, u16)> = Mutex::new((Vec::new(), BLOCK));

/// A port that stays free until the test uses it, also while its server is away, and although other processes test beside it.
pub(crate) fn free_port() -> u16 {
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (mine, used) = &mut *blocks;
    loop {
        if *used == BLOCK {
            mine.push(new_block());
            *used = 0;
        }
        let first = mine[mine.len() - 1].local_addr().unwrap().port();
        let port = first + *used;
        *used += 1;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn new_block() -> UdpSocket {
    let mut firsts = (FIRST..EPHEMERAL - BLOCK).step_by(usize::from(BLOCK));
    let free = firsts.find_map(|first| UdpSocket::bind(("127.0.0.1", first)).ok());
    free.expect("some ports are free")
}

/// An address of this machine at which nobody listens.
pub(crate) fn nobodys() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
