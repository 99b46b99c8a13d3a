//! A tarball from somebody else's server: one GET, its redirects, and the bytes as they come.
//!
//! Redirects are followed here and not by ureq, since each one is a question of whom to trust: there are few of them,
//! credentials go to the first host alone, and they are never followed from TLS to a connection without it.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, select_biased};
use rustls::ClientConfig;
use ureq::Agent;
use ureq::http::{HeaderMap, Response};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, RustlsConnector, TcpConnector};
use ureq::{Body, Timeout};

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::api::package::PackageUrl;
use crate::client::agent;
use crate::client::tls::{self, TlsConnector};
use crate::client::{CONNECT_MAX, SILENCE_MAX};
use crate::system::stop::Stop;

/// As many redirects as anybody needs: a name that changed, a mirror, a store of files.
const REDIRECTS_MAX: usize = 5;
/// What one read takes.
const PIECE_LEN: usize = 64 << 10;
/// So many pieces wait for a disk that is slow for a moment.
const PIECES_MAX: usize = 4;
/// The longest URL of a redirect.
const LOCATION_MAX: usize = 8 << 10;

/// What is asked for.
pub(crate) struct DownloadRequest {
    url: PackageUrl,
    /// The value of `Authorization`, for the first host.
    authorization: Option<Secret>,
    /// The certificates that are trusted; without them those that this program was built with.
    trust: Option<ClientConfig>,
}

impl DownloadRequest {
    pub(crate) fn new(url: PackageUrl, authorization: Option<Secret>) -> DownloadRequest {
        DownloadRequest {
            url,
            authorization,
            trust: None,
        }
    }

    /// Trusts the certificates of a PEM file's text, and only these.
    ///
    /// # Errors
    /// When it holds none.
    pub(crate) fn trust(&mut self, pem: &[u8]) -> Result<(), String> {
        self.trust = Some(tls::trusting_pem(pem, None)?);
        Ok(())
    }
}

/// What a download begins with.
#[derive(Debug, Clone, Default)]
pub(crate) struct DownloadHead {
    /// How long it says it is.
    pub(crate) total: Option<u64>,
    /// It is a page for people.
    pub(crate) is_html: bool,
    /// Some connection on the way had no TLS.
    pub(crate) unverified: bool,
}

enum DownloadNotice {
    Head(DownloadHead),
    Bytes(Vec<u8>),
    End,
    Failed(String),
}

/// Why there is no more of a download.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// It went wrong.
    Failed(String),
    /// The [`Stop`] was pulled.
    Stopped,
    /// Its time was over.
    TimedOut,
}

/// A download on its way. Dropping it ends it, wherever it stands.
pub(crate) struct TarballDownload {
    notices: Receiver<DownloadNotice>,
    agent: Agent,
    stop: Stop,
    deadline: Instant,
    /// What the head said, and how much has come.
    total: Option<u64>,
    bytes: u64,
}

impl Drop for TarballDownload {
    fn drop(&mut self) {
        // The thread is not waited for: it may be inside a name's resolution, which nothing interrupts.
        self.agent.clone().shutdown();
    }
}

impl TarballDownload {
    /// Begins a download, which ends by the stop and by the deadline at the latest.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn begin(
        mut request: DownloadRequest,
        stop: Stop,
        deadline: Instant,
    ) -> Result<TarballDownload, Error> {
        let agent = agent(request.trust.take());
        let (sender, notices) = bounded(PIECES_MAX);
        let job = DownloadJob {
            agent: agent.clone(),
            sender,
        };
        std::thread::Builder::new()
            .name("download".into())
            .spawn(move || job.run(request))
            .doing(|| "starting the thread download".into())?;
        Ok(TarballDownload {
            notices,
            agent,
            stop,
            deadline,
            total: None,
            bytes: 0,
        })
    }

    /// Waits for the head of an answer with the bytes.
    ///
    /// # Errors
    /// When there is none; as all of them without anything that is secret.
    pub(crate) fn head(&mut self) -> Result<DownloadHead, DownloadError> {
        match self.next()? {
            DownloadNotice::Head(head) => {
                self.total = head.total;
                Ok(head)
            }
            DownloadNotice::Failed(why) => Err(DownloadError::Failed(why)),
            DownloadNotice::Bytes(_) | DownloadNotice::End => Err(gone()),
        }
    }

    /// The next bytes; none at the proper end.
    ///
    /// # Errors
    /// When they end too early.
    pub(crate) fn piece(&mut self) -> Result<Option<Vec<u8>>, DownloadError> {
        match self.next()? {
            DownloadNotice::Bytes(bytes) => {
                self.bytes += bytes.len() as u64;
                Ok(Some(bytes))
            }
            DownloadNotice::End => match self.total {
                Some(total) if total != self.bytes => Err(self.cut("the answer ended")),
                _ => Ok(None),
            },
            DownloadNotice::Failed(why) => Err(self.cut(&why)),
            DownloadNotice::Head(_) => Err(gone()),
        }
    }

    fn cut(&self, why: &str) -> DownloadError {
        let of = self
            .total
            .map_or_else(String::new, |total| format!(" of {total}"));
        DownloadError::Failed(format!("{why} after {}{of} bytes", self.bytes))
    }

    fn next(&self) -> Result<DownloadNotice, DownloadError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        select_biased! {
            recv(self.stop.channel()) -> _ => Err(DownloadError::Stopped),
            recv(after(left)) -> _ => Err(DownloadError::TimedOut),
            recv(self.notices) -> notice => notice.map_err(|_| gone()),
        }
    }
}

fn gone() -> DownloadError {
    DownloadError::Failed("the thread that downloads ended unexpectedly".into())
}

pub(super) fn agent(trust: Option<ClientConfig>) -> Agent {
    let config = agent::config()
        .max_idle_connections(0)
        .timeout_resolve(Some(CONNECT_MAX))
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_per_read(Some(SILENCE_MAX))
        .timeout_per_write(Some(SILENCE_MAX))
        .build();
    let connector = TcpConnector::default()
        .chain(TlsConnector(trust.map(Arc::new)))
        .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, DefaultResolver::default())
}

/// Where one request of a download goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    is_tls: bool,
    /// In lower case, without the port that goes without saying.
    authority: String,
    path: String,
}

impl Hop {
    fn new(scheme: &str, authority: &str, path: &str) -> Hop {
        let is_tls = scheme == "https";
        let authority = authority.to_ascii_lowercase();
        let default = if is_tls { ":443" } else { ":80" };
        let authority = authority.strip_suffix(default).unwrap_or(&authority);
        Hop {
            is_tls,
            authority: authority.to_owned(),
            path: path.to_owned(),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }

    fn is_host_of(&self, other: &Hop) -> bool {
        (self.is_tls, &self.authority) == (other.is_tls, &other.authority)
    }

    /// Where a redirect leads, if it may be followed with these credentials or without.
    fn follow(&self, location: &str, has_credentials: bool) -> Result<Hop, &'static str> {
        let next = self.to(location)?;
        match has_credentials && self.is_tls && !next.is_tls {
            true => Err("it redirects to a connection without TLS, where credentials do not go"),
            false => Ok(next),
        }
    }

    /// Where a `Location` of its answer leads.
    fn to(&self, location: &str) -> Result<Hop, &'static str> {
        let location = location.split('#').next().unwrap_or_default();
        let graphic = location.bytes().all(|byte| byte.is_ascii_graphic());
        if location.is_empty() || location.len() > LOCATION_MAX || !graphic {
            return Err("it redirects to something that is not a URL");
        }
        let own = if self.is_tls { "https" } else { "http" };
        let (scheme, rest) = match location.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                (scheme.to_ascii_lowercase(), rest)
            }
            _ => match location.strip_prefix("//") {
                Some(rest) => (own.to_owned(), rest),
                None => return Ok(self.beside(location)),
            },
        };
        if !matches!(&*scheme, "http" | "https") {
            return Err("it redirects to something other than HTTP");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // Whatever it says of who asks is the other server's and not ours.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        if authority.is_empty() {
            return Err("it redirects to something that is not a URL");
        }
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        Ok(Hop::new(&scheme, authority, &path))
    }

    fn beside(&self, location: &str) -> Hop {
        let own = self.path.split('?').next().unwrap_or_default();
        let path = match location.as_bytes().first() {
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{own}{location}"),
            _ => {
                let dir = own.rfind('/').map_or("/", |at| &own[..=at]);
                without_dots(&format!("{dir}{location}"))
            }
        };
        Hop {
            path,
            ..self.clone()
        }
    }
}

/// A path and its query, where `.` and `..` lead to: not every server resolves them.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = path.split('/').skip(1).peekable();
    while let Some(part) = rest.next() {
        let is_last = rest.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    parts.pop();
                }
                // What it leads to is a directory.
                parts.extend(is_last.then_some(""));
            }
            part => parts.push(part),
        }
    }
    format!("/{}{query}", parts.join("/"))
}

/// The thread of one download.
struct DownloadJob {
    agent: Agent,
    sender: Sender<DownloadNotice>,
}

impl DownloadJob {
    fn run(self, request: DownloadRequest) {
        let last = match self.answer(request) {
            Ok((head, response)) => match self.sender.send(DownloadNotice::Head(head)) {
                Ok(()) => self.bytes(response),
                // Nobody wants it any longer.
                Err(_) => return,
            },
            Err(why) => DownloadNotice::Failed(why),
        };
        let _ = self.sender.send(last);
    }

    /// Follows the redirects to an answer with bytes.
    fn answer(&self, request: DownloadRequest) -> Result<(DownloadHead, Response<Body>), String> {
        let DownloadRequest {
            url,
            mut authorization,
            ..
        } = request;
        let whole = url.reveal();
        let path = whole.get(url.origin().len()..).unwrap_or("/");
        let mut hop = Hop::new(url.scheme, &url.authority, path);
        let mut head = DownloadHead::default();
        for _ in 0..=REDIRECTS_MAX {
            head.unverified |= !hop.is_tls;
            let mut get = self.agent.get(hop.url()).header("Accept", "*/*");
            if let Some(authorization) = &authorization {
                get = get.header("Authorization", authorization.reveal());
            }
            let response = get.call().map_err(|error| words(error, &hop))?;
            let status = response.status().as_u16();
            let location = header(response.headers(), "location");
            match (status, location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next = hop.follow(&location, authorization.is_some());
                    let next = next.map_err(|why| format!("{}: {why}", hop.authority))?;
                    if !next.is_host_of(&hop) {
                        authorization = None;
                    }
                    hop = next;
                }
                (200, _) => {
                    let media = header(response.headers(), "content-type").unwrap_or_default();
                    let media = media.split(';').next().unwrap_or_default().trim();
                    head.is_html = media.eq_ignore_ascii_case("text/html");
                    head.total = header(response.headers(), "content-length")
                        .and_then(|length| length.trim().parse().ok());
                    return Ok((head, response));
                }
                (status, _) => return Err(refused(status, &hop, authorization.is_some())),
            }
        }
        Err(format!(
            "{}: it redirects more than {REDIRECTS_MAX} times",
            url.authority
        ))
    }

    fn bytes(&self, response: Response<Body>) -> DownloadNotice {
        let mut reader = response.into_body().into_reader();
        loop {
            let mut piece = vec![0; PIECE_LEN];
            match reader.read(&mut piece) {
                Ok(0) => return DownloadNotice::End,
                Ok(len) => {
                    piece.truncate(len);
                    if self.sender.send(DownloadNotice::Bytes(piece)).is_err() {
                        return DownloadNotice::End;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return DownloadNotice::Failed(reason(error.into())),
            }
        }
    }
}

fn refused(status: u16, hop: &Hop, authorized: bool) -> String {
    let phrase = ureq::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let what = format!("{} answered {status} {phrase}", hop.authority);
    match (status, authorized) {
        (401 | 403, false) => format!(
            "{what}; GANGPLANK_FETCH_AUTHORIZATION in the component's environment says who asks"
        ),
        _ => what,
    }
}

fn words(error: ureq::Error, hop: &Hop) -> String {
    format!("{}: {}", hop.authority, reason(error))
}

pub(super) fn reason(error: ureq::Error) -> String {
    // What the body's reader and TLS wrap into an I/O error comes out again.
    let error = match error {
        ureq::Error::Io(error) => ureq::Error::from(error),
        error => error,
    };
    let seconds = |time: Duration| time.as_secs();
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed".into()
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "no such host".into(),
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            format!("timed out: no connection in {} s", seconds(CONNECT_MAX))
        }
        ureq::Error::Timeout(_) => {
            format!("timed out: nothing came for {} s", seconds(SILENCE_MAX))
        }
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        error => error.to_string(),
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_it_says() {
        let from = Hop::new("https", "H.example:443", "/a/b?c=/d");
        // The Location, and where it leads: another host, TLS or not.
        let table = [
            ("https://h.example/x", Ok(("https://h.example/x", true))),
            ("HTTPS://H.EXAMPLE:443/x", Ok(("https://h.example/x", true))),
            (
                "https://h.example:8443/x",
                Ok(("https://h.example:8443/x", false)),
            ),
            ("http://h.example/x", Ok(("http://h.example/x", false))),
            ("https://other/x#y", Ok(("https://other/x", false))),
            ("https://u:p@other", Ok(("https://other/", false))),
            ("https://h.example@other/x", Ok(("https://other/x", false))),
            ("//other?x=1", Ok(("https://other/?x=1", false))),
            (
                "/x?y=https://z",
                Ok(("https://h.example/x?y=https://z", true)),
            ),
            ("x", Ok(("https://h.example/a/x", true))),
            ("?x=1", Ok(("https://h.example/a/b?x=1", true))),
            ("./x", Ok(("https://h.example/a/x", true))),
            (
                "../d/./x?y=../z",
                Ok(("https://h.example/d/x?y=../z", true)),
            ),
            ("../../../x/..", Ok(("https://h.example/", true))),
            ("", Err(())),
            ("https://", Err(())),
            ("https://u@/x", Err(())),
            ("file:///etc/passwd", Err(())),
            ("/x y", Err(())),
            ("/x\u{e4}", Err(())),
        ];
        for (location, expected) in table {
            let found = from.to(location).map_err(|_| ());
            let found = found.map(|hop| (hop.url(), hop.is_host_of(&from)));
            let expected = expected.map(|(url, same): (&str, bool)| (url.to_owned(), same));
            assert_eq!(found, expected, "{location}");
        }
    }

    #[test]
    fn credentials_never_leave_tls() {
        let (tls, plain) = (Hop::new("https", "h", "/x"), Hop::new("http", "h", "/x"));
        let table = [
            (&tls, "http://h/x", true, false),
            (&tls, "http://other/x", true, false),
            (&tls, "http://h/x", false, true),
            (&tls, "https://other/x", true, true),
            (&plain, "http://other/x", true, true),
            (&plain, "https://h/x", true, true),
        ];
        for (from, location, has_credentials, follows) in table {
            let found = from.follow(location, has_credentials).is_ok();
            assert_eq!(found, follows, "{} to {location}", from.url());
        }
    }
}
