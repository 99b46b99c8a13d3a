//! A link between a client and a server: a proxy that counts what the client sends, and lets so much of it through in a second
//! as is asked for.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

/// Bytes a second.
pub(crate) const MEGABIT: u64 = 1_000_000 / 8;

/// What is passed on at once: a millisecond's worth, and at most so much.
const PIECE: u64 = 256 << 10;

/// So much of the link's time is made up for if the processor was busy with something else.
const LATE: Duration = Duration::from_millis(50);

/// What waits in the proxy's socket: a link has no memory of megabytes. A quick one holds some milliseconds' worth.
const WAITING: u64 = 64 << 10;
const WAITING_PART: u64 = 200;

/// A link that is there.
pub(crate) struct Link {
    /// Where clients find it.
    pub(crate) address: String,
    sent: Arc<AtomicU64>,
    rate: Option<u64>,
}

impl Link {
    /// Bytes a second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.unwrap_or(u64::MAX)
    }

    /// How many bytes clients have sent through it.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// An address of this machine by which others would reach it, if it has one.
pub(crate) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: this only asks the system which address it would send from. That network is one of examples.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Begins to pass connections on to a server, at this rate if there is one.
pub(crate) fn start(server: &str, rate: Option<u64>) -> Link {
    start_at(Ipv4Addr::LOCALHOST.into(), server, rate)
}

/// The same at this address, for who comes from this machine alone.
pub(crate) fn start_at(at: IpAddr, server: &str, rate: Option<u64>) -> Link {
    let listener = TcpListener::bind((at, 0)).unwrap();
    if let Some(rate) = rate {
        // Before it listens it cannot be set with std; connections that are accepted later have it all the same.
        let waiting = WAITING.max(rate / WAITING_PART);
        set_socket_recv_buffer_size(&listener, waiting as usize).unwrap();
    }
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    thread::spawn(move || {
        while let Ok((client, from)) = listener.accept() {
            if from.ip() != at {
                continue;
            }
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
    Link {
        address,
        sent,
        rate,
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, rate: Option<u64>, count: &AtomicU64) {
    let piece = rate.map_or(PIECE, |rate| (rate / 1000).min(PIECE));
    let mut piece = vec![0; piece as usize];
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
