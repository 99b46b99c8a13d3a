//! The page: three files that are part of the program. Whoever asks gets them, for they say nothing of this server; what the
//! page shows it asks for by the operations, with a token.

use crate::server::answers::tagged;
use crate::server::http::{Answer, Exchange};

/// Nothing from elsewhere, nothing that is written into the page, and nobody's frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The type and the text of the file at a path; none if the page has none there.
fn file(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => (
            "text/javascript; charset=utf-8",
            include_str!("page/page.js"),
        ),
        _ => return None,
    })
}

/// Answers with a file of the page; none if there is none at the path.
pub(super) fn page(exchange: &Exchange, path: &str) -> Option<Answer> {
    let (content_type, text) = file(path)?;
    let mut answer = tagged(exchange, content_type, text.as_bytes());
    let headers = [
        ("Content-Security-Policy", POLICY),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_owned()));
    answer.headers.extend(headers);
    Some(answer)
}
