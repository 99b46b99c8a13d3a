//! `deploy`: a directory, flags, and Harper's `key=value` words.

use std::path::PathBuf;

use pico_args::Arguments;

use crate::api::operation::Fields;
use crate::cli::arguments::{ClientOptions, Usage, finish_words, leftover, value};

/// How hard the payload is compressed unless it is said: what a network gains by a higher level, a fast one loses.
const LEVEL: u32 = 1;

/// The longest idempotency key that a server takes.
const KEY_MAX: usize = 128;

/// What `deploy` was told.
#[derive(Debug)]
pub struct DeployOptions {
    /// The directory; the working directory if none was named.
    pub dir: Option<PathBuf>,
    /// The fields of `deploy_component`, `operation` included; `project` only if it was given.
    pub fields: Fields,
    /// Whether `node_modules` goes along.
    pub include_node_modules: bool,
    /// Whether `.git` goes along.
    pub include_git: bool,
    /// The idempotency key, if one was given.
    pub idempotency_key: Option<String>,
    /// The compression's level, 0 to 9.
    pub level: u32,
    /// Whether to wait while another deployment of the component is running.
    pub wait: bool,
}

impl DeployOptions {
    /// Whether a directory is packed; else the fields name what is deployed, and the server judges that.
    pub fn packs(&self) -> bool {
        !self.fields.contains_key("deployment_id") && !self.fields.contains_key("package")
    }
}

pub(crate) fn parse(
    mut arguments: Arguments,
    options: &mut ClientOptions,
) -> Result<DeployOptions, Usage> {
    let flags = flags(&mut arguments)?;
    let include_node_modules = arguments.contains("--include-node-modules");
    let include_git = arguments.contains("--include-git");
    let wait = arguments.contains("--wait");
    let idempotency_key = value::parsed(&mut arguments, "--idempotency-key", |key| {
        match key.len() <= KEY_MAX && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(key.to_owned()),
            false => Err(format!("not 1 to {KEY_MAX} visible characters")),
        }
    })?;
    let level = value::parsed(&mut arguments, "--level", |text| match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(u32::from(digit - b'0')),
        _ => Err("not a level from 0 to 9".into()),
    })?;
    let (words, mut rest) = value::split(finish_words(arguments)?)?;
    if rest.len() > 1 {
        return Err(leftover(&rest[1]));
    }
    let mut fields = Fields::new();
    fields.insert("operation".into(), "deploy_component".into());
    let packing = value::add(words, &mut fields, options)?;
    if fields.contains_key("payload") {
        return Err(Usage::new(
            "payload= cannot be given: it is made of the directory",
        ));
    }
    if packing.skip_symlinks == Some(true) {
        return Err(Usage::new(
            "skip_symlinks=true is not supported: links that stay inside the directory are packed, others are left out",
        ));
    }
    fields.extend(flags);
    let options = DeployOptions {
        dir: rest.pop().map(PathBuf::from),
        fields,
        include_node_modules: include_node_modules || packing.skip_node_modules == Some(false),
        include_git,
        idempotency_key,
        level: level.unwrap_or(LEVEL),
        wait,
    };
    if let (Some(dir), false) = (&options.dir, options.packs()) {
        let dir = dir.display();
        return Err(Usage::new(format!(
            "the directory {dir} cannot go with deployment_id= or package="
        )));
    }
    Ok(options)
}

/// The flags that are fields of the operation; they are stronger than words.
fn flags(arguments: &mut Arguments) -> Result<Fields, Usage> {
    let mut fields = Fields::new();
    if let Some(project) = value::text(arguments, "--project")? {
        fields.insert("project".into(), project.into());
    }
    if let Some(restart) = value::restart(arguments)? {
        fields.insert("restart".into(), restart);
    }
    if let Some(command) = value::text(arguments, "--install-command")? {
        fields.insert("install_command".into(), command.into());
    }
    if let Some(time) = value::parsed(arguments, "--install-timeout", value::some_duration)? {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        fields.insert("install_timeout".into(), ms.into());
    }
    for (flag, name, value) in [
        ("--allow-scripts", "install_allow_scripts", true),
        ("--no-activate", "activate", false),
        ("--replicated", "replicated", true),
        (
            "--ignore-replication-errors",
            "ignore_replication_errors",
            true,
        ),
    ] {
        if arguments.contains(flag) {
            fields.insert(name.into(), value.into());
        }
    }
    Ok(fields)
}
