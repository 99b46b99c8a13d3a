//! The sockets under ureq: TCP, TLS over TCP, and unix sockets, each with an eye on early answers.
//!
//! A server may answer before it has read the whole request: 401, 409, 413. ureq would go on writing, and the answer would
//! be lost behind a broken pipe, or never be looked for while the server does not read. Here every write first looks for
//! input, and a write that has to wait for room waits for input too. Once there is an answer, whatever is still written is
//! swallowed and [`Transfer::answered`] ends the request's body, so that ureq turns to reading at once.
//!
//! An answer that begins with a status of 2xx is not a refusal: a Harper server sends the head of its event stream while the
//! payload still arrives. It ends nothing and is read after the request, [`Transfer::accepted`]. But a `deployment` event in
//! it comes from a server that knows the upload by its key and reads no further, and an `error` from a Harper server that
//! reads no further either, so that those end the upload too.
//!
//! Under TLS, input is not yet an answer: session tickets arrive unasked. So [`Look`], above TLS, decrypts what has arrived
//! without waiting for more, and only decrypted bytes count. A write below TLS that has to wait while input waits too keeps
//! the rest in [`ClientStream::unsent`], which gives [`Look`] its turn.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ureq::Error;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

use crate::client::state::{LOOKED_AT, Transfer};
use crate::system::poll::{PollFd, PollFlags, wait};
use crate::system::socket::{peek, receive, send, set_send_buffer};

/// While a good answer has begun and there is no room for writing, it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Opens the socket.
#[derive(Debug)]
pub(crate) struct SocketConnector {
    /// The unix socket, or none for the addresses that ureq found.
    pub(crate) path: Option<PathBuf>,
    pub(crate) state: Arc<Transfer>,
}

impl Connector<()> for SocketConnector {
    type Out = ClientStream;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<ClientStream>, Error> {
        let stream = Arc::new(match &self.path {
            Some(path) => StreamKind::Unix(UnixStream::connect(path)?),
            None => StreamKind::Tcp(connect_tcp(details)?),
        });
        let handle: Weak<StreamKind> = Arc::downgrade(&stream);
        (details.register_shutdown)(handle)?;
        Ok(Some(ClientStream {
            stream,
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            state: Arc::clone(&self.state),
            tls: details.needs_tls(),
            unsent: Vec::new(),
        }))
    }
}

/// Tries the addresses in their order, each with its even share of the time that is left.
fn connect_tcp(details: &ConnectionDetails) -> Result<TcpStream, Error> {
    // Only a configuration without a connect timeout has none here; ours has one.
    let total = details.timeout.not_zero().map_or(CONNECT_MAX, |left| *left);
    let started = std::time::Instant::now();
    let mut failed = Error::HostNotFound;
    for (at, address) in details.addrs.iter().enumerate() {
        let left = total.saturating_sub(started.elapsed());
        let others = u32::try_from(details.addrs.len() - at).unwrap_or(1);
        // Zero is refused by `connect_timeout`; a millisecond fails soon enough.
        let share = (left / others).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                if address.ip().is_loopback() {
                    set_send_buffer(&stream, LOCAL_UNSENT)?;
                }
                return Ok(stream);
            }
            Err(error) => failed = Error::Io(error),
        }
    }
    Err(failed)
}

/// What waits on a connection within this machine, which needs no more to be quick. The system would take megabytes at once:
/// behind a tunnel they would all be sent before anybody could tell that it is slow.
const LOCAL_UNSENT: usize = 128 << 10;

/// For a configuration that sets none.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A unix socket's host is only a name for the `Host` field.
#[derive(Debug)]
pub(crate) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// Takes an address as it stands. ureq's own resolver makes a thread for each name, since nothing interrupts a name's
/// resolution, and for an address, too.
#[derive(Debug, Default)]
pub(crate) struct AddressResolver(DefaultResolver);

impl Resolver for AddressResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (scheme, authority) = (uri.scheme(), uri.authority());
        let named = scheme.zip(authority);
        let named = named.and_then(|(scheme, of)| DefaultResolver::host_and_port(scheme, of));
        match named.and_then(|named| named.parse().ok()) {
            Some(address) => {
                let mut addresses = self.empty();
                addresses.push(address);
                Ok(addresses)
            }
            None => self.0.resolve(uri, config, timeout),
        }
    }
}

/// Puts [`Look`] above whatever the connection became.
#[derive(Debug)]
pub(crate) struct LookConnector(pub(crate) Arc<Transfer>);

impl<In: Transport> Connector<In> for LookConnector {
    type Out = Look<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Look<In>>, Error> {
        self.0.set_connected();
        Ok(chained.map(|inner| Look {
            inner,
            state: Arc::clone(&self.0),
            pending: false,
        }))
    }
}

#[derive(Debug)]
enum StreamKind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for StreamKind {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            StreamKind::Tcp(stream) => stream.as_fd(),
            StreamKind::Unix(stream) => stream.as_fd(),
        }
    }
}

impl ShutdownHandle for StreamKind {
    fn shutdown(&self) {
        // It fails only if the connection is down already, which is what is wanted.
        let _ = match self {
            StreamKind::Tcp(stream) => stream.shutdown(Shutdown::Both),
            StreamKind::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) struct ClientStream {
    stream: Arc<StreamKind>,
    buffers: LazyBuffers,
    state: Arc<Transfer>,
    tls: bool,
    /// Encrypted bytes that found no room while there was something to read. Bounded by what one write above TLS makes,
    /// since each further one begins with reading.
    unsent: Vec<u8>,
}

/// Waits until one of `wanted` is true of the socket: (readable, writable), where readable includes its end.
fn ready(
    stream: &StreamKind,
    wanted: PollFlags,
    limit: Option<Duration>,
) -> Result<(bool, bool), io::Error> {
    let mut fds = [PollFd::new(stream, wanted)];
    wait(&mut fds, limit)?;
    let found = fds[0].revents();
    let input = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
    Ok((found.intersects(input), found.contains(PollFlags::OUT)))
}

/// How long one wait may last.
fn limit(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    if timeout.after.is_not_happening() {
        Ok(None)
    } else if timeout.after.is_zero() {
        Err(Error::Timeout(timeout.reason))
    } else {
        Ok(Some(*timeout.after))
    }
}

/// Judges what has come of an answer, and leaves it there.
fn look_at(stream: &StreamKind, state: &Transfer) {
    let mut bytes = [0; LOOKED_AT];
    match peek(stream, &mut bytes) {
        Ok(Some(n)) => state.judge(&bytes[..n]),
        Ok(None) => {}
        // Nothing can be read any longer.
        Err(_) => state.judge(&[]),
    }
}

/// Writes until all is written, or there is something to read that has to be looked at first; says how much it wrote.
fn push(
    stream: &StreamKind,
    state: &Transfer,
    tls: bool,
    bytes: &[u8],
    timeout: NextTimeout,
) -> Result<usize, Error> {
    let timeout = timeout.for_write();
    let limit = limit(timeout)?;
    let mut at = 0;
    let mut waited = Duration::ZERO;
    while at < bytes.len() {
        if !tls && state.accepted() && !state.settled() {
            look_at(stream, state);
            if state.answered() {
                break;
            }
        }
        // Under TLS what was looked at is no longer there, else it would end each further wait at once.
        let watched = !state.settled() && (tls || !state.accepted());
        let (wanted, slice) = match watched {
            true => (PollFlags::IN | PollFlags::OUT, limit),
            false if state.settled() => (PollFlags::OUT, limit),
            false => (PollFlags::OUT, Some(LOOK_AGAIN)),
        };
        let (readable, writable) = ready(stream, wanted, slice)?;
        if readable && watched {
            if !tls {
                look_at(stream, state);
                if state.accepted() {
                    continue;
                }
                break;
            }
            if !writable {
                break;
            }
        }
        if !writable && !readable && slice != limit {
            waited += LOOK_AGAIN;
            if limit.is_none_or(|limit| waited < limit) {
                continue;
            }
        }
        // A connection that has broken counts as readable whatever was asked; sending says how.
        if !writable && !readable {
            return Err(Error::Timeout(timeout.reason));
        }
        match send(stream, &bytes[at..]) {
            Ok(sent) => at += sent.unwrap_or(0),
            // The other side is gone. If it left an answer, reading finds it, and else it finds the error.
            Err(error) if is_gone(&error) => {
                state.set_answered();
                break;
            }
            Err(error) => return Err(Error::Io(error)),
        }
    }
    Ok(at)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl ClientStream {
    /// Writes what could not be written before.
    fn push_unsent(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let sent = push(&self.stream, &self.state, self.tls, &self.unsent, timeout)?;
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Waits for input; under TLS it goes on writing what is unsent, since the answer may depend on it.
    fn wait(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let read = timeout.for_read();
        let limit = limit(read)?;
        loop {
            let unsent = !self.unsent.is_empty() && !self.state.answered();
            let wanted = if unsent {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            match ready(&self.stream, wanted, limit)? {
                (true, _) => return Ok(()),
                (false, true) => self.push_unsent(timeout)?,
                (false, false) => return Err(Error::Timeout(read.reason)),
            }
        }
    }
}

impl Transport for ClientStream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.state.answered() {
            return Ok(());
        }
        if !self.unsent.is_empty() {
            self.unsent
                .extend_from_slice(&self.buffers.output()[..amount]);
            return self.push_unsent(timeout);
        }
        let output = &self.buffers.output()[..amount];
        let sent = push(&self.stream, &self.state, self.tls, output, timeout)?;
        if sent < amount {
            if self.tls {
                self.unsent.extend_from_slice(&output[sent..]);
            } else {
                self.state.set_answered();
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        loop {
            if self.state.hasty.load(Ordering::Acquire) {
                if !ready(&self.stream, PollFlags::IN, Some(Duration::ZERO))?.0 {
                    return Err(Error::Io(io::ErrorKind::WouldBlock.into()));
                }
            } else {
                self.wait(timeout)?;
            }
            if let Some(n) = receive(&self.stream, self.buffers.input_append_buf())? {
                self.buffers.input_appended(n);
                return Ok(n > 0);
            }
        }
    }

    fn is_open(&mut self) -> bool {
        !self.state.answered()
    }
}

/// Above TLS: looks for decrypted bytes before each write.
#[derive(Debug)]
pub(crate) struct Look<T> {
    inner: T,
    state: Arc<Transfer>,
    /// Bytes of the answer are in the buffer that nobody has been told of.
    pending: bool,
}

impl<T: Transport> Look<T> {
    fn look(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        self.state.hasty.store(true, Ordering::Release);
        let looked = self.inner.await_input(timeout);
        self.state.hasty.store(false, Ordering::Release);
        match looked {
            Ok(some) => {
                self.pending |= some;
                self.state.judge(self.inner.buffers().input());
                if !some {
                    self.state.settle();
                }
                Ok(())
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<T: Transport> Transport for Look<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.inner.is_tls() && !self.state.answered() && !self.state.settled() {
            self.look(timeout)?;
        }
        if self.state.answered() {
            return Ok(());
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if std::mem::take(&mut self.pending) {
            return Ok(true);
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
