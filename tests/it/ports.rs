//! Ports for servers of tests, and addresses at which nobody is.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The system gives ports from here on to whoever connects or wants any.
const EPHEMERAL: u32 = 32_768;

/// How many lie below those, and above what is well known.
const COUNT: u32 = 12_000;

/// A port that stays free until the test uses it, also while its server is away.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::SeqCst) + std::process::id() * 7 % COUNT;
        let port = u16::try_from(EPHEMERAL - COUNT + n % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An address of this machine at which nobody listens.
pub(crate) fn nobodys() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
