//! The page: three files that are part of the program. Whoever asks gets them, for they say nothing of this server; what the
//! page shows it asks for by the operations, with a token.

use std::fmt::Write;

use sha2::{Digest, Sha256};

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
    let mut tag = String::from("\"");
    for byte in &Sha256::digest(text)[..8] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    let known = exchange.header("If-None-Match");
    let is_known = known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag));
    let headers = [
        ("ETag", tag.as_str()),
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    Some(Answer {
        status: if is_known { 304 } else { 200 },
        content_type,
        headers: headers.map(|(name, value)| (name, value.to_owned())).into(),
        body: if is_known {
            Vec::new()
        } else {
            text.as_bytes().to_vec()
        },
    })
}
