//! What a browser says of a request, which a page of somebody else cannot unsay.
//!
//! A browser keeps a password of `Basic` and sends it along with whatever any page makes it ask, forms with a file included.
//! So a request that a page of another site made is refused, and a browser is never asked for a password that it would keep.

use crate::api::error::{Code, Refusal};
use crate::server::gate::ClientAddress;
use crate::server::http::Exchange;

/// Whether a request says that it is a browser's.
pub(in crate::server) fn is_browser(exchange: &Exchange) -> bool {
    let has = |name| exchange.header(name).is_some();
    has("Origin")
        || has("Sec-Fetch-Site")
        || has("Sec-Fetch-Mode")
        || exchange
            .header("User-Agent")
            .is_some_and(|agent| agent.contains("Mozilla/"))
}

/// Refuses what a page of another site made a browser ask. `tls`: the TCP listeners of this server speak TLS.
pub(in crate::server) fn refuse_other_sites(exchange: &Exchange, tls: bool) -> Result<(), Refusal> {
    let tls = tls && exchange.client() != ClientAddress::Local;
    let (site, origin) = (exchange.header("Sec-Fetch-Site"), exchange.header("Origin"));
    let from = if !site.is_none_or(is_own_site) {
        format!("'Sec-Fetch-Site' is '{}'", site.unwrap_or_default())
    } else if !origin.is_none_or(|origin| is_own(origin, exchange.header("Host"), tls)) {
        let (origin, host) = (origin.unwrap_or_default(), exchange.header("Host"));
        format!(
            "'Origin' is '{origin}', and 'Host' is '{}'",
            host.unwrap_or_default()
        )
    } else {
        return Ok(());
    };
    let why = format!(
        "{} {}: a page of another site made this request: {from}",
        exchange.method(),
        exchange.path()
    );
    Err(Refusal::new(Code::Forbidden, why))
}

/// `none` is a person, who typed the address or chose a bookmark.
fn is_own_site(site: &str) -> bool {
    matches!(site, "same-origin" | "none")
}

/// Whether a page of this origin comes from the host that is asked. Without TLS here there may be a proxy that speaks it, so
/// that both schemes can be right.
fn is_own(origin: &str, host: Option<&str>, tls: bool) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        // `null`: of a file, of a sandbox, or after a redirect.
        return false;
    };
    let default = match scheme.to_ascii_lowercase().as_str() {
        "https" => 443,
        "http" if !tls => 80,
        _ => return false,
    };
    match (
        address(authority, default),
        host.and_then(|host| address(host, default)),
    ) {
        (Some((name, port)), Some((own, own_port))) => {
            name.eq_ignore_ascii_case(own) && port == own_port
        }
        _ => false,
    }
}

/// A host's name and its port.
fn address(authority: &str, default: u16) -> Option<(&str, u16)> {
    let after_name = authority.rfind(']').map_or(0, |end| end + 1);
    let (name, port) = match authority[after_name..].rfind(':') {
        Some(colon) => authority.split_at(after_name + colon),
        None => (authority, ""),
    };
    let port = match port.strip_prefix(':') {
        None | Some("") => default,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
    };
    (!name.is_empty()).then_some((name, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_with_the_host() {
        // The origin, the host, and whether it is its own: without TLS here, and with it.
        let table = [
            ("http://h:9925", Some("h:9925"), true, false),
            ("https://h:9925", Some("h:9925"), true, true),
            ("HTTP://H:9925", Some("h:9925"), true, false),
            (
                "https://Deploy.Example.com",
                Some("deploy.example.COM"),
                true,
                true,
            ),
            ("https://h", Some("h:443"), true, true),
            ("https://h:443", Some("h"), true, true),
            ("http://h", Some("h:80"), true, false),
            ("http://[::1]:9925", Some("[::1]:9925"), true, false),
            ("https://[::1]", Some("[::1]"), true, true),
            ("null", Some("h"), false, false),
            ("", Some("h"), false, false),
            ("h", Some("h"), false, false),
            ("http://h:9925", None, false, false),
            ("http://h:9926", Some("h:9925"), false, false),
            ("http://h", Some("h:9925"), false, false),
            ("https://h", Some("h:80"), false, false),
            ("http://h.evil", Some("h"), false, false),
            ("http://evil.h", Some("h"), false, false),
            (
                "http://127.0.0.1:9925",
                Some("localhost:9925"),
                false,
                false,
            ),
            ("file://h", Some("h"), false, false),
            ("chrome-extension://h", Some("h"), false, false),
            ("http://h:x", Some("h:x"), false, false),
            ("http://h:+80", Some("h"), false, false),
            ("http://:80", Some(":80"), false, false),
        ];
        for (origin, host, plain, tls) in table {
            assert_eq!(is_own(origin, host, false), plain, "{origin} {host:?}");
            assert_eq!(
                is_own(origin, host, true),
                tls,
                "{origin} {host:?} with TLS"
            );
        }
    }
}
