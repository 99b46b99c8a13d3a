//! A link between a client and a server: a proxy that counts what the client sends, and lets 100 Mbit/s of it through where
//! that is asked for.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

/// Bytes a second of one that is slow.
pub(crate) const RATE: u64 = 100_000_000 / 8;

/// What is passed on at once: a millisecond's worth.
const PIECE: usize = 12_500;

/// So much of the link's time is made up for if the processor was busy with something else.
const LATE: Duration = Duration::from_millis(50);

/// What waits in the proxy's socket: a link has no memory of megabytes.
const WAITING: usize = 64 << 10;

/// A link that is there.
pub(crate) struct Link {
    /// Where clients find it.
    pub(crate) address: String,
    sent: Arc<AtomicU64>,
}

impl Link {
    /// How many bytes clients have sent through it.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Begins to pass connections on to a server, at this rate if there is one.
pub(crate) fn start(server: &str, rate: Option<u64>) -> Link {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    if rate.is_some() {
        // Before it listens it cannot be set with std; connections that are accepted later have it all the same.
        set_socket_recv_buffer_size(&listener, WAITING).unwrap();
    }
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&server).unwrap();
            let (mut down, mut up) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let count = Arc::clone(&count);
            thread::spawn(move || pass(client, server, rate, &count));
            thread::spawn(move || {
                // Who breaks a connection off is seen by its own side.
                let _ = io::copy(&mut down, &mut up);
                let _ = up.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    Link { address, sent }
}

fn pass(mut from: TcpStream, mut to: TcpStream, rate: Option<u64>, count: &AtomicU64) {
    let mut piece = [0; PIECE];
    // When the link is free again.
    let mut free = Instant::now();
    while let Ok(read @ 1..) = from.read(&mut piece) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if let Some(rate) = rate {
            let now = Instant::now();
            // A link sends on while this process waits for a processor.
            free = free.max(now - LATE) + Duration::from_nanos(read as u64 * 1_000_000_000 / rate);
            thread::sleep(free.saturating_duration_since(now));
        }
        if to.write_all(&piece[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
