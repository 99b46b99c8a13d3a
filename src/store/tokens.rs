//! Access tokens: who may do what.
//!
//! A token is 32 random bytes as 64 hex digits. Only its SHA-256 is kept, in `tokens.json`, and compared in constant time.
//! The file is read at each use, so that a change holds at once. A session of the page ([`sessions`]) stands for the token that it
//! was made with, and ends with it.

mod sessions;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api::error::{Doing, Error};
use crate::api::name::{Project, Secret};
use crate::store::tokens::sessions::{Issuer, Sessions};
use crate::system::files::{self, Durability, if_there};
use crate::system::hex;
use crate::system::time::now_ms;

pub use crate::store::tokens::sessions::PageSession;

/// What a token allows; each role but the first allows what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Payloads by their SHA-256, and nothing else: what the hosts of a fleet show each other. That it stands first means
    /// that it allows nothing of what the others do; they do not allow what it does either, but for the last.
    Fleet,
    /// Looking only.
    Read,
    /// All but payload downloads and tokens.
    Deploy,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's word.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Fleet => "fleet",
            Role::Read => "read",
            Role::Deploy => "deploy",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Role, String> {
        [Role::Fleet, Role::Read, Role::Deploy, Role::Admin]
            .into_iter()
            .find(|role| role.word() == word)
            .ok_or_else(|| "none of admin, deploy, read and fleet".to_owned())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    name: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    projects: Vec<Project>,
    sha256: String,
    created_at: u64,
}

impl Token {
    fn new(name: &str, role: Role, projects: &[Project], secret: &Secret) -> Token {
        Token {
            name: name.to_owned(),
            role,
            projects: projects.to_vec(),
            sha256: hash(secret.reveal()),
            created_at: now_ms(),
        }
    }

    fn identity(self) -> Identity {
        Identity {
            name: self.name,
            role: self.role,
            projects: self.projects,
            sha256: self.sha256,
            session: None,
        }
    }
}

/// The longest name of a token: it stands in records and in lines of the log.
const NAME_LEN_MAX: usize = 64;

/// Whoever showed a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The components that it is limited to; none: to any.
    pub projects: Vec<Project>,
    /// The token's hash: one that was made again under a name is another one.
    sha256: String,
    /// The session of the page that stands for the token, if one was shown.
    pub session: Option<PageSession>,
}

impl Identity {
    /// Somebody who came over the unix socket and shows a session now. No token can have this name.
    pub fn of_this_machine() -> Identity {
        Identity {
            name: "this machine".to_owned(),
            role: Role::Admin,
            projects: Vec::new(),
            sha256: String::new(),
            session: None,
        }
    }

    /// Whether it may have to do with a component at all.
    pub fn covers(&self, project: &Project) -> bool {
        self.projects.is_empty() || self.projects.contains(project)
    }
}

/// What an `Authorization` header shows.
#[derive(Debug)]
pub enum Credentials {
    /// A token.
    Bearer(Secret),
    /// A token's name and the token.
    Basic(String, Secret),
}

impl Credentials {
    /// Reads an `Authorization` header; none if it is neither `Bearer` nor `Basic`, or broken.
    pub fn parse(header: &str) -> Option<Credentials> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Credentials::Bearer(Secret::new(rest)));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (name, token) = text.split_once(':')?;
        Some(Credentials::Basic(name.to_owned(), Secret::new(token)))
    }
}

/// Watches whether credentials are somebody's, for as long as they are used.
pub struct TokenWatch {
    tokens: Arc<Tokens>,
    credentials: Credentials,
    /// The files in which they were found last: each change makes a new one.
    seen: Option<FileStamps>,
    /// When a session ends, in ms since the epoch.
    expires_at: Option<u64>,
}

/// Which files the tokens and the sessions are: device, inode and time of change; none where there is no file.
pub type FileStamps = [Option<(u64, u64, i64)>; 2];

impl TokenWatch {
    /// Which files the tokens are in now.
    pub fn stamps(&self) -> FileStamps {
        self.tokens.stamps()
    }

    /// Whether they still are, when the files are those of `now`. They are read only if they are others than before.
    pub fn holds(&mut self, now: FileStamps) -> bool {
        let expired = self.expires_at.is_some_and(|at| at <= now_ms());
        if now[0].is_some() && Some(now) == self.seen && !expired {
            return true;
        }
        let found = match self.tokens.check(&self.credentials) {
            Ok(found) => found,
            // A moment without descriptors revokes nothing; the next look tells.
            Err(_) => return true,
        };
        let session = found
            .as_ref()
            .and_then(|identity| identity.session.as_ref());
        self.expires_at = session.map(|session| session.expires_at);
        self.seen = found.is_some().then_some(now);
        found.is_some()
    }
}

/// The tokens of a root.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    admin_file: PathBuf,
    sessions: Sessions,
}

impl Tokens {
    /// The tokens of the root in `root`; nothing is read yet.
    pub fn of(root: &Path) -> Tokens {
        Tokens {
            file: root.join("tokens.json"),
            admin_file: root.join("admin.token"),
            sessions: Sessions::of(root),
        }
    }

    /// Makes an `admin` token if there is no token at all, and says in which file it is.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn ensure_admin(&self) -> Result<Option<&Path>, Error> {
        if !self.read()?.is_empty() {
            return Ok(None);
        }
        let secret = fresh()?;
        // The token's own file first: a crash between the two leaves a root that makes both again.
        replace(
            &self.admin_file,
            format!("{}\n", secret.reveal()).as_bytes(),
        )?;
        self.write(&[Token::new("admin", Role::Admin, &[], &secret)])?;
        Ok(Some(&self.admin_file))
    }

    /// Makes a token. Nobody can read it again.
    ///
    /// # Errors
    /// When there is one of that name, or the file cannot be read or written.
    pub fn add(&self, name: &str, role: Role, projects: &[Project]) -> Result<Secret, Error> {
        let what = || format!("adding the token '{name}'");
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(plain) {
            return Err(Error::new(
                what(),
                format!("a name has 1 to {NAME_LEN_MAX} visible characters and no colon"),
            ));
        }
        let _lock = self.lock()?;
        let mut tokens = self.read()?;
        if tokens.iter().any(|token| token.name == name) {
            return Err(Error::new(
                what(),
                "there is one of that name; revoke it first",
            ));
        }
        let secret = fresh()?;
        tokens.push(Token::new(name, role, projects, &secret));
        self.write(&tokens)?;
        Ok(secret)
    }

    /// Makes sure that a secret that others know, too, is the token of this name, for payloads alone.
    ///
    /// # Errors
    /// When it is not a token, or the file cannot be read or written.
    pub fn share(&self, name: &str, secret: &Secret) -> Result<(), Error> {
        let is_token = secret.reveal().len() == 64
            && secret.reveal().bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_token {
            let what = format!("sharing the token '{name}'");
            return Err(Error::new(
                what,
                "it must be 64 hex digits, as `openssl rand -hex 32` makes them",
            ));
        }
        let _lock = self.lock()?;
        let mut tokens = self.read()?;
        let shared = Token::new(name, Role::Fleet, &[], secret);
        if tokens.iter().any(|token| {
            token.name == name && token.sha256 == shared.sha256 && token.role == Role::Fleet
        }) {
            return Ok(());
        }
        tokens.retain(|token| token.name != name);
        tokens.push(shared);
        self.write(&tokens)
    }

    /// All tokens, without what would let anybody in.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self) -> Result<Vec<Identity>, Error> {
        let tokens = self.read()?.into_iter();
        Ok(tokens.map(Token::identity).collect())
    }

    /// Takes a token away; from the next request on it is nobody's.
    ///
    /// # Errors
    /// When there is none of that name, or the file cannot be read or written.
    pub fn revoke(&self, name: &str) -> Result<(), Error> {
        let _lock = self.lock()?;
        let mut tokens = self.read()?;
        let before = tokens.len();
        tokens.retain(|token| token.name != name);
        if tokens.len() == before {
            return Err(Error::new(
                format!("revoking the token '{name}'"),
                "there is none of that name",
            ));
        }
        self.write(&tokens)
    }

    /// Whose credentials these are; none if they are nobody's.
    ///
    /// # Errors
    /// When the file cannot be read: nobody gets in then.
    pub fn check(&self, credentials: &Credentials) -> Result<Option<Identity>, Error> {
        let (name, secret) = match credentials {
            Credentials::Bearer(secret) => (None, secret),
            Credentials::Basic(name, secret) => (Some(name), secret),
        };
        let shown = hash(secret.reveal());
        let mut found = None;
        let tokens = self.read()?;
        // Every token is compared, so that the time tells nothing of where in the list a match stands.
        for token in &tokens {
            let same = shown.as_bytes().ct_eq(token.sha256.as_bytes());
            let named = Choice::from(u8::from(name.is_none_or(|name| *name == token.name)));
            if bool::from(same & named) {
                found = Some(token.clone().identity());
            }
        }
        // Sessions come after them: a token holds, whatever is wrong with the file of the sessions.
        if found.is_none() && name.is_none() {
            let session = self.sessions.find(&shown)?;
            found = session.and_then(|session| stand_for(&tokens, session));
        }
        Ok(found)
    }

    /// Watches whether credentials stay somebody's.
    pub fn watch(self: &Arc<Tokens>, credentials: Credentials) -> TokenWatch {
        TokenWatch {
            tokens: Arc::clone(self),
            credentials,
            seen: None,
            expires_at: None,
        }
    }

    /// Begins a session of the page, in the name of a token, or of somebody on this machine. Nobody can read its secret again.
    ///
    /// # Errors
    /// When the token is gone, or the files cannot be read or written.
    pub fn open_session(&self, of: Option<&Identity>) -> Result<(Secret, PageSession), Error> {
        let _lock = self.lock()?;
        let issuer = of.map(|one| Issuer {
            name: one.name.clone(),
            sha256: one.sha256.clone(),
        });
        if let Some(issuer) = &issuer {
            if !self.read()?.iter().any(|token| issuer.is(token)) {
                let why = format!("the token '{}' is gone", issuer.name);
                return Err(Error::new("beginning a session", why));
            }
        }
        let secret = fresh()?;
        let session = self.sessions.add(issuer, hash(secret.reveal()))?;
        Ok((secret, session))
    }

    /// Ends a session, or all that a token began; all there are if neither is given. Says how many.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn end_sessions(&self, which: Option<&Identity>) -> Result<usize, Error> {
        let _lock = self.lock()?;
        self.sessions.end(which)
    }

    fn stamps(&self) -> FileStamps {
        [&self.file, self.sessions.file()].map(|file| {
            let meta = fs::metadata(file);
            meta.map(|meta| (meta.dev(), meta.ino(), meta.mtime_nsec()))
                .ok()
        })
    }

    /// Keeps two who change the file at once from undoing each other's change.
    fn lock(&self) -> Result<File, Error> {
        let path = self.file.with_extension("lock");
        files::lock(&path).doing(|| format!("locking {}", path.display()))
    }

    fn write(&self, tokens: &[Token]) -> Result<(), Error> {
        let what = || format!("writing the tokens to {}", self.file.display());
        let mut text = serde_json::to_vec_pretty(tokens).doing(what)?;
        text.push(b'\n');
        replace(&self.file, &text)
    }

    fn read(&self) -> Result<Vec<Token>, Error> {
        let what = || format!("reading the tokens in {}", self.file.display());
        match if_there(fs::read(&self.file)).doing(what)? {
            Some(text) => serde_json::from_slice(&text).doing(what),
            None => Ok(Vec::new()),
        }
    }
}

/// Whom a session stands for: whoever began it, as long as that token is there.
fn stand_for(tokens: &[Token], session: PageSession) -> Option<Identity> {
    let identity = match &session.issuer {
        None => Identity::of_this_machine(),
        Some(issuer) => {
            let token = tokens.iter().find(|token| issuer.is(token));
            token?.clone().identity()
        }
    };
    Some(Identity {
        session: Some(session),
        ..identity
    })
}

fn fresh() -> Result<Secret, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).doing(|| "making a token".into())?;
    Ok(Secret::new(hex::encode(bytes)))
}

fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Writes a file that only we may read. What it says holds across a power loss: a token that was revoked stays so.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    files::replace(path, content, 0o600, Durability::PowerLoss)
        .doing(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_start_makes_an_admin_and_the_second_does_not() {
        let dir = std::env::temp_dir().join(format!("gangplank-tokens-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let tokens = Tokens::of(&dir);
        let file = tokens.ensure_admin().unwrap().unwrap().to_owned();
        assert_eq!(tokens.ensure_admin().unwrap(), None);
        let token = fs::read_to_string(&file).unwrap().trim().to_owned();
        assert_eq!(token.len(), 64);
        for name in ["admin.token", "tokens.json"] {
            assert_eq!(
                fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{name}"
            );
        }
        assert!(
            !fs::read_to_string(dir.join("tokens.json"))
                .unwrap()
                .contains(&token)
        );
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let table = [
            (format!("Bearer {token}"), true),
            (format!("bearer   {token} "), true),
            (basic(&format!("admin:{token}")), true),
            (basic(&format!("other:{token}")), false),
            (basic("admin:"), false),
            (
                format!("Bearer {}", token.to_uppercase()),
                token.to_uppercase() == token,
            ),
            ("Bearer x".to_owned(), false),
        ];
        for (header, right) in table {
            let credentials = Credentials::parse(&header).unwrap();
            assert_eq!(
                tokens.check(&credentials).unwrap().is_some(),
                right,
                "{header}"
            );
        }
        for broken in ["", "Bearer", "Digest x", "Basic !", "Basic YWI="] {
            assert!(Credentials::parse(broken).is_none(), "{broken}");
        }
        fs::write(dir.join("tokens.json"), "half").unwrap();
        assert!(
            tokens
                .check(&Credentials::Bearer(Secret::new(token)))
                .is_err()
        );
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn tokens_come_and_go() {
        let dir = std::env::temp_dir().join(format!("gangplank-roles-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let tokens = Arc::new(Tokens::of(&dir));
        let demo: Project = "demo".parse().unwrap();
        let secret = tokens
            .add("ci", Role::Deploy, std::slice::from_ref(&demo))
            .unwrap();
        let identity = tokens
            .check(&Credentials::Bearer(secret.clone()))
            .unwrap()
            .unwrap();
        assert_eq!(
            (identity.name.as_str(), identity.role),
            ("ci", Role::Deploy)
        );
        assert!(identity.covers(&demo) && !identity.covers(&"other".parse().unwrap()));
        assert_eq!(tokens.list().unwrap(), [identity]);
        for bad in ["ci", "", "a:b", "a b", "ä", &"x".repeat(65)] {
            assert!(tokens.add(bad, Role::Read, &[]).is_err(), "{bad}");
        }
        assert!(tokens.revoke("nobody").is_err());
        let mut watch = tokens.watch(Credentials::Bearer(secret.clone()));
        tokens.add("other", Role::Read, &[]).unwrap();
        assert!(watch.holds(watch.stamps()) && watch.holds(watch.stamps()));
        tokens.revoke("ci").unwrap();
        assert!(!watch.holds(watch.stamps()) && !watch.holds(watch.stamps()));
        assert_eq!(tokens.check(&Credentials::Bearer(secret)).unwrap(), None);
        let _ = fs::remove_dir_all(&dir);
    }
}
