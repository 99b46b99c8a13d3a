//! Access tokens: who may do what.
//!
//! A token is 32 random bytes as 64 hex digits. Only its SHA-256 is kept, in `tokens.json`, and compared in constant time.
//! The file is read at each use, so that a change holds at once.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api::error::{Doing, Error};
use crate::api::name::{Project, Secret};
use crate::system::files::{self, Durability, if_there};
use crate::system::hex;
use crate::system::time::now_ms;

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
}

impl Identity {
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
pub struct TokenWatch<'a> {
    tokens: &'a Tokens,
    credentials: Credentials,
    /// The file in which they were found last: each change makes a new one.
    seen: Option<(u64, u64, i64)>,
}

impl TokenWatch<'_> {
    /// Whether they still are. The file is read only if it is another one than before.
    pub fn holds(&mut self) -> bool {
        let meta = fs::metadata(&self.tokens.file);
        let now = meta.map(|meta| (meta.dev(), meta.ino(), meta.mtime_nsec()));
        let now = now.ok();
        if now.is_some() && now == self.seen {
            return true;
        }
        let holds = match self.tokens.check(&self.credentials) {
            Ok(found) => found.is_some(),
            // A moment without descriptors revokes nothing; the next look tells.
            Err(_) => return true,
        };
        self.seen = now.filter(|_| holds);
        holds
    }
}

/// The tokens of a root.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    admin_file: PathBuf,
}

impl Tokens {
    /// The tokens of the root in `root`; nothing is read yet.
    pub fn of(root: &Path) -> Tokens {
        Tokens {
            file: root.join("tokens.json"),
            admin_file: root.join("admin.token"),
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

    /// All tokens, without what would let anybody in.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self) -> Result<Vec<Identity>, Error> {
        let tokens = self.read()?.into_iter();
        Ok(tokens
            .map(|token| Identity {
                name: token.name,
                role: token.role,
                projects: token.projects,
            })
            .collect())
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
        // Every token is compared, so that the time tells nothing of where in the list a match stands.
        for token in self.read()? {
            let same = shown.as_bytes().ct_eq(token.sha256.as_bytes());
            let named = Choice::from(u8::from(name.is_none_or(|name| *name == token.name)));
            if bool::from(same & named) {
                found = Some(Identity {
                    name: token.name,
                    role: token.role,
                    projects: token.projects,
                });
            }
        }
        Ok(found)
    }

    /// Watches whether credentials stay somebody's.
    pub fn watch(&self, credentials: Credentials) -> TokenWatch<'_> {
        TokenWatch {
            tokens: self,
            credentials,
            seen: None,
        }
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
        let tokens = Tokens::of(&dir);
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
        assert!(watch.holds() && watch.holds());
        tokens.revoke("ci").unwrap();
        assert!(!watch.holds() && !watch.holds());
        assert_eq!(tokens.check(&Credentials::Bearer(secret)).unwrap(), None);
        let _ = fs::remove_dir_all(&dir);
    }
}
