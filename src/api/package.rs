//! `package`: what a server fetches itself instead of getting a payload. This is the one parser of its forms.
//!
//! | form | what is fetched |
//! | --- | --- |
//! | `npm:NAME[@RANGE]`, `NAME[@RANGE]` | a package from npm's registry |
//! | `https://HOST/x.tgz[#sha256=HEX]`, `http://` | a tarball |
//! | `git+https://`, `git+ssh://`, `git+http://`, `git://`, each with `[#REF]` | a git repository |
//! | `USER/REPO[#REF]`, `github:USER/REPO[#REF]` | a git repository at GitHub |
//! | `file:PATH` | a directory or a tarball of the server's own |
//!
//! What is taken becomes arguments of programs, so the parser takes only what cannot be anything else there: no part begins
//! with a dash, and no URL has a transport that is a command. A URL may carry credentials: they are kept apart from what is
//! shown, and no fault quotes the text that it is about.

mod url;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::api::name::Secret;
use crate::api::package::url::url;
pub use crate::api::package::url::{PackageUrl, UrlCredentials};

/// The longest spec: longer than any URL that a program takes.
const LEN_MAX: usize = 2048;
/// The longest name of a package, as npm has it.
const NPM_NAME_LEN_MAX: usize = 214;
/// The longest name of a branch or a tag: that of a file.
const REF_LEN_MAX: usize = 255;
/// How long a commit's name is: SHA-1 or SHA-256 in hex.
const COMMIT_LENS: [usize; 2] = [40, 64];

/// What a server is to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSpec {
    /// As it came, credentials included.
    text: Secret,
    /// As it may be shown.
    identifier: String,
    /// Where it comes from.
    pub source: PackageSource,
    /// What its URL said of who asks.
    pub credentials: Option<UrlCredentials>,
}

/// Where a package comes from. No URL in it has credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageSource {
    /// A package of npm's registry: its name, and which versions may come.
    Npm { name: String, range: Option<String> },
    /// A tarball, and the SHA-256 that it must have, in hex.
    Tarball {
        url: PackageUrl,
        sha256: Option<String>,
    },
    /// A git repository, and the branch, the tag or the commit.
    Git {
        url: PackageUrl,
        reference: Option<String>,
    },
    /// A directory or a tarball of the server's own.
    File(PathBuf),
}

/// Why a text is not a package. It quotes nothing of the text, which may have a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPackage(&'static str);

impl fmt::Display for BadPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PackageSpec {
    /// Reads a spec.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<PackageSpec, BadPackage> {
        if text.is_empty() {
            return Err(BadPackage("is not allowed to be empty"));
        }
        if text.len() > LEN_MAX {
            return Err(BadPackage("must not be longer than 2048 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(BadPackage("must not have control characters in it"));
        }
        if text.starts_with('-') {
            return Err(BadPackage("must not begin with a dash"));
        }
        let (source, credentials) = parse(text)?;
        Ok(PackageSpec {
            text: Secret::new(text),
            identifier: identifier(text, &source),
            source,
            credentials,
        })
    }

    /// As it came, for the request that asks a server for it.
    pub fn reveal(&self) -> &str {
        self.text.reveal()
    }

    /// As it may be shown, without credentials.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// What a component of it is called if nobody says so: the last part of its name or its path.
    pub fn project_name(&self) -> &str {
        let path = match &self.source {
            PackageSource::Npm { name, .. } => name,
            PackageSource::Tarball { url, .. } | PackageSource::Git { url, .. } => {
                url.path().split('?').next().unwrap_or_default()
            }
            PackageSource::File(path) => path.to_str().unwrap_or_default(),
        };
        let last = path.trim_end_matches('/').rsplit('/').next();
        let last = last.unwrap_or_default();
        let endings = [".git", ".tgz", ".tar.gz", ".tar"];
        let ending = endings.iter().find_map(|end| last.strip_suffix(end));
        ending.unwrap_or(last)
    }

    /// Whether it is something of the server's own.
    pub fn is_local(&self) -> bool {
        matches!(self.source, PackageSource::File(_))
    }

    /// Whether it comes over a connection that anybody on the way can change, and nothing in the spec tells whether they did.
    pub fn is_unverified(&self) -> bool {
        match &self.source {
            PackageSource::Tarball { url, sha256 } => url.scheme == "http" && sha256.is_none(),
            PackageSource::Git { url, reference } => {
                matches!(url.scheme, "http" | "git") && !reference.as_deref().is_some_and(is_commit)
            }
            PackageSource::Npm { .. } | PackageSource::File(_) => false,
        }
    }
}

/// Whether a reference names a commit by all of its digits.
pub fn is_commit(reference: &str) -> bool {
    COMMIT_LENS.contains(&reference.len()) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

type Parsed = (PackageSource, Option<UrlCredentials>);

fn parse(text: &str) -> Result<Parsed, BadPackage> {
    if let Some(spec) = text.strip_prefix("npm:") {
        return npm(spec);
    }
    if let Some(path) = text.strip_prefix("file:") {
        return file(path);
    }
    if let Some(repository) = text.strip_prefix("github:") {
        return github(repository);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme {
            "https" => tarball("https", rest),
            "http" => tarball("http", rest),
            "git+https" => git("https", rest),
            "git+http" => git("http", rest),
            "git+ssh" | "ssh" => git("ssh", rest),
            "git" => git("git", rest),
            _ => Err(BadPackage(
                "must have one of these schemes: https, http, git+https, git+http, git+ssh, git, npm, file",
            )),
        };
    }
    let is_path = ["./", "../", "/", "~"]
        .iter()
        .any(|start| text.starts_with(start));
    if is_path || matches!(text, "." | "..") {
        return Err(BadPackage(
            "is a path: a directory or a payload is deployed by its own name, and one on the server as file:PATH",
        ));
    }
    match text.starts_with('@') || !text.contains('/') {
        true => npm(text),
        false => github(text),
    }
}

fn npm(spec: &str) -> Result<Parsed, BadPackage> {
    let at = spec.get(1..).and_then(|rest| rest.find('@'));
    let (name, range) = match at.map(|at| spec.split_at(at + 1)) {
        Some((name, range)) => (name, Some(&range[1..])),
        None => (spec, None),
    };
    let part = |part: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let begins = part
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        begins && part.bytes().all(known)
    };
    let good = match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(name),
    };
    if !good || name.len() > NPM_NAME_LEN_MAX || is_npm_file(name) {
        return Err(BadPackage(
            "must be a name of npm's, a URL, or USER/REPO of GitHub; a name has letters, digits, '-', '.' and '_'",
        ));
    }
    // A version, a range of them, or a tag. What has a colon or a slash is for npm a place to fetch from.
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+^~<>=*| ".contains(&byte);
    let is_range =
        |range: &str| !range.trim().is_empty() && range.bytes().all(known) && !is_npm_file(range);
    if range.is_some_and(|range| !is_range(range)) {
        return Err(BadPackage(
            "must have a version, a range or a tag behind its '@'",
        ));
    }
    let source = PackageSource::Npm {
        name: name.to_owned(),
        range: range.map(str::to_owned),
    };
    Ok((source, None))
}

/// Whether npm takes it for a file, by its beginning or its ending: it would be one of the directory that npm runs in.
fn is_npm_file(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let endings = [".tgz", ".tar", ".tar.gz"];
    text.starts_with('.') || endings.iter().any(|end| text.ends_with(end))
}

fn file(path: &str) -> Result<Parsed, BadPackage> {
    // `file:///srv/x` and `file:/srv/x` are one file.
    let path = match path.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(BadPackage("must not have a host in a file: URL")),
        None => path,
    };
    let path = Path::new(path);
    let up = path.components().any(|one| one == Component::ParentDir);
    if !path.is_absolute() || up {
        return Err(BadPackage(
            "must have an absolute path without '..' behind file:",
        ));
    }
    Ok((PackageSource::File(path.to_owned()), None))
}

fn github(repository: &str) -> Result<Parsed, BadPackage> {
    let (path, reference) = split_fragment(repository);
    let part = |part: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let begins = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        part.bytes().next().is_some_and(begins) && part.bytes().all(known)
    };
    let (user, name) = path.split_once('/').unwrap_or_default();
    let name = name.strip_suffix(".git").unwrap_or(name);
    if !part(user) || !part(name) {
        return Err(BadPackage(
            "must be a name of npm's, a URL, or USER/REPO of GitHub",
        ));
    }
    let (url, _) = url("https", &format!("github.com/{user}/{name}.git"))?;
    let reference = reference.map(self::reference).transpose()?;
    Ok((PackageSource::Git { url, reference }, None))
}

fn tarball(scheme: &'static str, rest: &str) -> Result<Parsed, BadPackage> {
    let (rest, fragment) = split_fragment(rest);
    let (url, credentials) = url(scheme, rest)?;
    if url.path().ends_with(".git") {
        return Err(BadPackage(
            "is the URL of a git repository: write git+https:// in place of https://",
        ));
    }
    let sha256 = match fragment.map(|text| text.strip_prefix("sha256=").unwrap_or_default()) {
        None => None,
        Some(hex) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(hex.to_ascii_lowercase())
        }
        Some(_) => {
            return Err(BadPackage(
                "may have #sha256= and 64 hexadecimal digits behind the URL of a tarball, and nothing else",
            ));
        }
    };
    Ok((PackageSource::Tarball { url, sha256 }, credentials))
}

fn git(scheme: &'static str, rest: &str) -> Result<Parsed, BadPackage> {
    let (rest, fragment) = split_fragment(rest);
    let rest = match scheme {
        "ssh" => with_path(rest),
        _ => rest.to_owned(),
    };
    let (url, credentials) = url(scheme, &rest)?;
    if url.path().contains('?') {
        return Err(BadPackage(
            "must not have a query in the URL of a git repository",
        ));
    }
    if credentials.is_some() && scheme == "git" {
        return Err(BadPackage(
            "must not have credentials over git://, which has none",
        ));
    }
    let reference = fragment.map(reference).transpose()?;
    Ok((PackageSource::Git { url, reference }, credentials))
}

/// `git@host:user/repo`, as people write it for ssh, has a colon in place of the first slash.
fn with_path(rest: &str) -> String {
    let end = rest.find('/').unwrap_or(rest.len());
    // Before the `@` it stands before a password.
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let colon = rest[host..end]
        .rfind(':')
        .map(|at| host + at)
        .filter(|at| !rest[*at..].contains(']'));
    match colon {
        Some(at) if !rest[at + 1..end].bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{}/{}", &rest[..at], &rest[at + 1..])
        }
        _ => rest.to_owned(),
    }
}

fn split_fragment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment)),
        None => (text, None),
    }
}

/// A branch, a tag or a commit, by git's own rules and stricter ones: nothing of it can be an option or a refspec.
fn reference(text: &str) -> Result<String, BadPackage> {
    let odd = |one: char| one.is_whitespace() || one.is_control() || "~^:?*[\\\"'".contains(one);
    let bad = text.is_empty()
        || text.len() > REF_LEN_MAX
        || text.starts_with(['-', '/', '.', '+', '@'])
        || text.ends_with(['/', '.'])
        || text.contains("..")
        || text.contains("@{")
        || text.contains("//")
        || text.contains(odd);
    match bad {
        true => Err(BadPackage(
            "must have a branch, a tag or a commit behind its '#'",
        )),
        false => Ok(text.to_owned()),
    }
}

/// What is shown of a spec.
fn identifier(text: &str, source: &PackageSource) -> String {
    let (prefix, url, fragment) = match source {
        PackageSource::Npm { .. } | PackageSource::File(_) => return text.to_owned(),
        PackageSource::Tarball { url, sha256 } => {
            ("", url, sha256.as_ref().map(|hex| format!("sha256={hex}")))
        }
        // It has no credentials and is shorter.
        PackageSource::Git { .. } if !text.contains("://") => return text.to_owned(),
        PackageSource::Git { url, reference } if url.scheme == "git" => {
            ("", url, reference.clone())
        }
        PackageSource::Git { url, reference } => ("git+", url, reference.clone()),
    };
    let fragment = fragment.map_or_else(String::new, |fragment| format!("#{fragment}"));
    format!("{prefix}{}{fragment}", url.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &PackageSource) -> String {
        match source {
            PackageSource::Npm { name, range } => {
                format!("npm {name} {}", range.as_deref().unwrap_or("-"))
            }
            PackageSource::Tarball { url, sha256 } => {
                format!(
                    "tarball {} {}",
                    url.reveal(),
                    sha256.as_deref().unwrap_or("-")
                )
            }
            PackageSource::Git { url, reference } => {
                format!(
                    "git {} {}",
                    url.reveal(),
                    reference.as_deref().unwrap_or("-")
                )
            }
            PackageSource::File(path) => format!("file {}", path.display()),
        }
    }

    #[test]
    fn each_form_is_taken_for_what_it_is() {
        let hex = "AB".repeat(32);
        let with_hash = format!("https://h/x.tgz#sha256={hex}");
        let hashed = format!("tarball https://h/x.tgz {}", hex.to_lowercase());
        // The spec, what is fetched, what it is called without a name of its own.
        let table = [
            ("left-pad", "npm left-pad -", "left-pad"),
            ("npm:left-pad@1.3.0", "npm left-pad 1.3.0", "left-pad"),
            (
                "@my-org/app@^1 || >=2.0 <3",
                "npm @my-org/app ^1 || >=2.0 <3",
                "app",
            ),
            ("npm:@my-org/app@next", "npm @my-org/app next", "app"),
            ("https://h/x.tgz", "tarball https://h/x.tgz -", "x"),
            (&with_hash, &hashed, "x"),
            (
                "http://[::1]:80/a/x.tar.gz?v=1",
                "tarball http://[::1]:80/a/x.tar.gz?v=1 -",
                "x",
            ),
            (
                "https://H.example:8443/a/%2e",
                "tarball https://h.example:8443/a/%2e -",
                "%2e",
            ),
            (
                "git+https://h/u/app.git",
                "git https://h/u/app.git -",
                "app",
            ),
            (
                "git+https://h/u/app#v1.0/x",
                "git https://h/u/app v1.0/x",
                "app",
            ),
            (
                "git+http://h:8080/app.git#main",
                "git http://h:8080/app.git main",
                "app",
            ),
            (
                "git+ssh://git@h/u/app.git#a1b2c3d",
                "git ssh://git@h/u/app.git a1b2c3d",
                "app",
            ),
            (
                "git+ssh://git@h:u/app.git",
                "git ssh://git@h/u/app.git -",
                "app",
            ),
            (
                "git+ssh://git@h:2222/u/app",
                "git ssh://git@h:2222/u/app -",
                "app",
            ),
            ("git://h/app.git", "git git://h/app.git -", "app"),
            (
                "user/repo",
                "git https://github.com/user/repo.git -",
                "repo",
            ),
            (
                "github:user/my.repo.git#dev",
                "git https://github.com/user/my.repo.git dev",
                "my.repo",
            ),
            ("file:/srv/app", "file /srv/app", "app"),
            ("file:///srv/x.tgz", "file /srv/x.tgz", "x"),
        ];
        for (text, expected, name) in table {
            let spec = PackageSpec::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(shown(&spec.source), expected, "{text}");
            assert_eq!((spec.project_name(), spec.reveal()), (name, text));
            assert_eq!(spec.credentials, None);
        }
    }

    #[test]
    fn what_could_be_something_else_is_refused() {
        let long = format!("https://h/{}", "x".repeat(LEN_MAX));
        let table = [
            "",
            " ",
            "\n",
            "left-pad\n",
            "left\0pad",
            "https://h/x\r\nHost: evil",
            &long,
            // Options.
            "-x",
            "--upload-pack=touch /tmp/x",
            "npm:-x",
            "npm:--registry=http://h",
            "npm:@-s/x",
            "npm:@s/-x",
            "git+ssh://-oProxyCommand=touch/x",
            "git+ssh://-oProxyCommand=x@h/r",
            "git+ssh://u@-oProxyCommand=x/r",
            "git+https://-h/r",
            "git://--upload-pack=x/r",
            "user/repo#--upload-pack=x",
            "-user/repo",
            "user/-repo",
            "git+https://h/r#-x",
            "git+https://h/r#",
            "git+https://h/r#a b",
            "git+https://h/r#a:b",
            "git+https://h/r#+a",
            "git+https://h/r#a..b",
            "git+https://h/r#@{-1}",
            "git+https://h/r#semver:^1",
            "git+https://h/r#a\u{a0}b",
            // Transports that are commands or files.
            "ext::sh -c touch% /tmp/x",
            "git+ext://sh/x",
            "git+file:///etc",
            "fd::17",
            "git::https://h/r",
            "ftp://h/x",
            "javascript://h/x",
            "HTTPS://h/x",
            "git+https:h/r",
            "https:/h/x",
            // Places.
            ".",
            "..",
            "./x",
            "../x",
            "/srv/x",
            "~/x",
            "~user",
            "user/..",
            "user/.git",
            "../repo",
            "a/b/c",
            "user/",
            "file:",
            "file:x",
            "file:../x",
            "file:/srv/../etc",
            "file://host/x",
            "file:///srv/..",
            "https://h/../x",
            "https://h/a/%2E%2e/x",
            "https://h",
            "https://h/",
            "https:///x",
            "https://h:0/x",
            "https://h:99999/x",
            "https://h:x/x",
            "https://[::1/x",
            "https://[x]/x",
            "https://h o/x",
            "https://h/ä",
            // Names and versions.
            "npm:",
            "npm:x@",
            "npm:x@file:../y",
            "npm:x@git+https://h/r",
            "npm:x@npm:y@1",
            "x@http://h/y",
            "x@user/repo",
            "npm:_x",
            "npm:.x",
            "npm:a/b",
            "npm:@a",
            "npm:@/b",
            "npm:x y",
            "npm:x@1;id",
            "npm:x@$(id)",
            // Files, to npm.
            "x.tgz",
            "npm:x.TAR.GZ",
            "@s/x.tar",
            "x@.",
            "x@..",
            "npm:x@ ..",
            "npm:x@.x",
            "npm:x@1.tgz",
            // Hashes.
            "https://h/x.tgz#",
            "https://h/x.tgz#main",
            "https://h/x.tgz#sha256=",
            "https://h/x.tgz#sha256=zz",
            "https://h/x.tgz#sha512=ab",
            "https://h/u/r.git",
            "https://u:p@h/r.git",
            // Credentials where there is no place for them.
            "git://u:p@h/r",
            "git+ssh://u:p@h/r",
            "https://u:%00@h/x",
            "https://u:%zz@h/x",
            "https://u%3a:p@h/x",
        ];
        for text in table {
            let found = PackageSpec::parse(text);
            assert!(found.is_err(), "{text:?}: {found:?}");
            // A fault has nothing of the text.
            let why = found.unwrap_err().to_string();
            assert!(text.len() < 6 || !why.contains(text), "{text:?}: {why}");
        }
    }

    #[test]
    fn credentials_are_kept_apart() {
        // The spec, what is shown, the name, the password.
        let table = [
            ("https://u:p%40ss@h/x.tgz", "https://h/x.tgz", "u", "p@ss"),
            (
                "https://tok3n@h/x.tgz?sig=s3cret",
                "https://h/x.tgz?...",
                "tok3n",
                "",
            ),
            (
                "git+https://u:s3cret@h:8443/r.git#main",
                "git+https://h:8443/r.git#main",
                "u",
                "s3cret",
            ),
            ("git+http://:s3cret@h/r", "git+http://h/r", "", "s3cret"),
        ];
        for (text, identifier, username, password) in table {
            let spec = PackageSpec::parse(text).unwrap();
            assert_eq!(spec.identifier(), identifier);
            let found = spec.credentials.as_ref().unwrap();
            assert_eq!(
                (found.username.reveal(), found.password.reveal()),
                (username, password)
            );
            let debug = format!("{spec:?}");
            for secret in ["s3cret", "tok3n", "p@ss", "p%40ss"] {
                assert!(!debug.contains(secret), "{debug}");
            }
        }
        for text in [
            "left-pad@1",
            "user/repo#x",
            "git+ssh://git@h/r#x",
            "git://h/r",
            "file:/srv/x",
        ] {
            assert_eq!(PackageSpec::parse(text).unwrap().identifier(), text);
        }
    }

    #[test]
    fn what_anybody_on_the_way_can_change_is_known() {
        let commit = "a".repeat(40);
        let table = [
            ("http://h/x.tgz".to_owned(), true),
            (format!("http://h/x.tgz#sha256={}", "b".repeat(64)), false),
            ("https://h/x.tgz".to_owned(), false),
            ("git://h/r#main".to_owned(), true),
            (format!("git://h/r#{commit}"), false),
            ("git+http://h/r#a1b2c3d".to_owned(), true),
            ("git+ssh://h/r".to_owned(), false),
            ("left-pad".to_owned(), false),
        ];
        for (text, unverified) in table {
            assert_eq!(
                PackageSpec::parse(&text).unwrap().is_unverified(),
                unverified,
                "{text}"
            );
        }
    }
}
