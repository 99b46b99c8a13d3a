//! A tarball by its URL.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::error::Refusal;
use crate::api::event::Event;
use crate::api::name::Secret;
use crate::api::package::PackageUrl;
use crate::client::download::{DownloadError, DownloadRequest, TarballDownload};
use crate::engine::attempt::Attempt;
use crate::engine::child_env::value_of;
use crate::engine::fetch::FetchRequest;
use crate::engine::fetch::payload::FetchedPayload;
use crate::system::child::act_as;
use crate::system::files::open_at_once;

/// The variable of the component's environment that says who asks for a tarball.
const AUTHORIZATION: &str = "GANGPLANK_FETCH_AUTHORIZATION";
/// The variable that names the certificates to trust, as OpenSSL, Go and curl read it. An authority of one's own is common
/// where packages are kept, and whoever sets it means every program that asks.
const CERTIFICATES: &str = "SSL_CERT_FILE";
/// What is read of such a file: many times what all public authorities have.
const CERTIFICATES_MAX: u64 = 4 << 20;

/// Fetches a tarball.
pub(super) fn fetch(
    request: &FetchRequest<'_>,
    (url, sha256): (&PackageUrl, Option<&str>),
    attempt: &mut Attempt,
    payload: &mut FetchedPayload<'_>,
) -> Result<(), Refusal> {
    let mut asked = DownloadRequest::new(url.clone(), authorization(request)?);
    if let Some(path) = certificates(request) {
        let failed = |why| {
            let path = path.display();
            request.failed(format!(
                "reading certificates from {path} ({CERTIFICATES}): {why}"
            ))
        };
        let pem = act_as(request.account, || read(path)).map_err(|why| failed(why.to_string()))?;
        asked.trust(&pem).map_err(failed)?;
    }
    let refused = |error| match error {
        DownloadError::Failed(why) => request.failed(why),
        DownloadError::Stopped => request.stopped(),
        DownloadError::TimedOut => request.timed_out(),
    };
    let mut download = TarballDownload::begin(asked, request.stop.clone(), request.deadline)?;
    let head = download.head().map_err(refused)?;
    if head.is_html {
        // That is what the address of a repository in a browser brings.
        return Err(request.failed(
            "the answer is an HTML page and not a tarball; a git repository is written git+https://",
        ));
    }
    payload.expect(head.total)?;
    if head.unverified && sha256.is_none() && !request.package.is_unverified() {
        let warning = format!(
            "{} was redirected to a connection that others can change, without a hash to know it by",
            request.package.identifier()
        );
        attempt.emit(&Event::Warning(warning))?;
    }
    while let Some(piece) = download.piece().map_err(refused)? {
        payload.add(&piece, attempt)?;
    }
    payload.tell(attempt);
    match (sha256, payload.sha256()) {
        (Some(expected), found) if expected != found => Err(request.failed(format!(
            "its SHA-256 is {found} and not {expected} as it should be"
        ))),
        _ => Ok(()),
    }
}

/// The file of the certificates that are trusted, where one is named.
fn certificates<'a>(request: &FetchRequest<'a>) -> Option<&'a Path> {
    let set = value_of(request.environment, CERTIFICATES)?;
    (!set.is_empty()).then(|| Path::new(set))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    let file = open_at_once(path)?;
    file.take(CERTIFICATES_MAX).read_to_end(&mut pem)?;
    Ok(pem)
}

/// What says who asks: the URL's own credentials, or those of the component's environment.
fn authorization(request: &FetchRequest<'_>) -> Result<Option<Secret>, Refusal> {
    if let Some(own) = &request.package.credentials {
        let both = format!("{}:{}", own.username.reveal(), own.password.reveal());
        return Ok(Some(Secret::new(format!(
            "Basic {}",
            STANDARD.encode(both)
        ))));
    }
    let set = value_of(request.environment, AUTHORIZATION).map(OsStr::to_str);
    let fits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    match set {
        None | Some(Some("")) => Ok(None),
        Some(Some(text)) if fits(text) => Ok(Some(Secret::new(text))),
        Some(_) => Err(request.failed(format!("{AUTHORIZATION} does not fit into a header"))),
    }
}
