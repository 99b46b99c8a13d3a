//! A component's environment: the file `ROOT/env/X`, which the operator writes by hand or by `set_env`. It reaches everything
//! that the component runs, and the server alone reads it. No message has a value of it, nor any part of a line that was not
//! understood: it may be a secret.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::{Project, VariableName};
use crate::api::operation::EnvChange;
use crate::engine::manifest::text::{self, Text};
use crate::formats::dotenv::{BadEnvLine, EnvText};
use crate::store::Store;
use crate::system::files::{self, Durability};
use crate::system::log;

/// The longest env file: thousands of lines.
const LEN_MAX: u64 = 1 << 20;
/// Its mode: secrets are in it.
const PRIVATE: u32 = 0o600;

/// The environments of all components.
pub struct EnvFiles {
    store: Arc<Store>,
    /// Of two changes at once, the second begins with what the first has written.
    writing: Mutex<()>,
}

/// What a change has changed.
pub struct EnvChanged {
    pub set: Vec<String>,
    /// Those that were there and are gone.
    pub unset: Vec<String>,
}

impl EnvFiles {
    pub fn new(store: Arc<Store>) -> EnvFiles {
        EnvFiles {
            store,
            writing: Mutex::default(),
        }
    }

    /// A component's variables, each once, with the value that counts.
    ///
    /// # Errors
    /// As of [`read`].
    pub fn variables(&self, project: &Project) -> Result<Vec<(VariableName, String)>, Refusal> {
        Ok(read(&self.store, project)?.variables)
    }

    /// Replaces a component's file, whole. Lines that it does not change stay as they are.
    ///
    /// # Errors
    /// As of [`read`], or when the disk does not take it: the file stays as it was then.
    pub fn change(&self, change: &EnvChange, user: Option<&str>) -> Result<EnvChanged, Refusal> {
        let project = &change.project;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let text = open(&self.store, project)?;
        let before = parse(text.as_ref())?;
        let known = before.variables();
        let gone = change.unset.iter();
        let gone = gone.filter(|name| known.iter().any(|(known, _)| known == name));
        let changed = EnvChanged {
            set: change.set.keys().map(ToString::to_string).collect(),
            unset: gone.clone().map(ToString::to_string).collect(),
        };
        if changed.set.is_empty() && changed.unset.is_empty() {
            return Ok(changed);
        }
        let set = change.set.iter();
        let all = set
            .map(|(name, value)| (name, Some(value.reveal())))
            .chain(gone.map(|name| (name, None)));
        let after = before.with(all);
        let what = || format!("changing the environment of {project}");
        if after.len() as u64 > LEN_MAX {
            let why = format!("{}: it would be longer than {LEN_MAX} bytes", what());
            return Err(Refusal::new(Code::TooLarge, why));
        }
        let file = path(&self.store, project);
        files::replace(&file, after.as_bytes(), PRIVATE, Durability::PowerLoss).doing(what)?;
        let by = user.map_or_else(String::new, |user| format!(" by {user}"));
        log::info(&format!(
            "the environment of {project} is changed{by}: {}",
            changed.words()
        ));
        Ok(changed)
    }
}

impl EnvChanged {
    /// The names, in words.
    pub fn words(&self) -> String {
        let part = |word: &str, names: &[String]| match names.is_empty() {
            true => None,
            false => Some(format!("{word} {}", names.join(", "))),
        };
        let parts = [part("set", &self.set), part("unset", &self.unset)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("; ")
    }
}

/// A component's environment as its file has it.
#[derive(Debug, Default)]
pub(super) struct ComponentEnv {
    pub(super) variables: Vec<(VariableName, String)>,
    /// What its operator should know of the file.
    pub(super) warnings: Vec<String>,
}

/// Where a component's environment is.
fn path(store: &Store, project: &Project) -> PathBuf {
    store.root().join("env").join(project.as_str())
}

fn open(store: &Store, project: &Project) -> Result<Option<Text>, Refusal> {
    text::read(&path(store, project), &format!("env/{project}"), LEN_MAX)
}

fn parse(text: Option<&Text>) -> Result<EnvText<'_>, Refusal> {
    let Some(text) = text else {
        return Ok(EnvText::default());
    };
    EnvText::read(text).map_err(|BadEnvLine { line, why }| text.refused(line, why))
}

/// Reads a component's environment. A file that is missing says nothing.
///
/// # Errors
/// `load_failed` with file and line, and nothing of the line.
pub(super) fn read(store: &Store, project: &Project) -> Result<ComponentEnv, Refusal> {
    let text = open(store, project)?;
    let read = parse(text.as_ref())?;
    let mut warnings = Vec::new();
    let file = path(store, project);
    if files::is_open_to_others(&file) {
        warnings.push(format!(
            "{} can be read by others than its owner",
            file.display()
        ));
    }
    warnings.extend(read.notes().map(|line| {
        format!("env/{project}: line {line}: the text from '#' on is a part of the value; a comment has a line of its own")
    }));
    let variables = read.variables().into_iter();
    Ok(ComponentEnv {
        variables: variables
            .map(|(name, value)| (name.clone(), value.to_owned()))
            .collect(),
        warnings,
    })
}
