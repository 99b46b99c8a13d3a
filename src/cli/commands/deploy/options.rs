//! What `deploy` is told: its flags, and the fields of the operation.

use std::path::PathBuf;

use serde_json::Value;

use crate::api::operation::{Fields, Restart};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish_words, leftover, value};
use crate::cli::commands::fleet;

/// The longest idempotency key that a server takes.
const KEY_MAX: usize = 128;

/// What `deploy` was told.
#[derive(Debug)]
pub(in crate::cli::commands) struct DeployOptions {
    /// The directory; the working directory if none was named.
    pub(in crate::cli::commands) dir: Option<PathBuf>,
    /// The fields of `deploy_component`; `project` only if it was given.
    pub(in crate::cli::commands) fields: Fields,
    /// Whether `node_modules` goes along.
    pub(in crate::cli::commands) include_node_modules: bool,
    /// Whether `.git` goes along.
    pub(in crate::cli::commands) include_git: bool,
    /// Whether what looks secret goes along.
    pub(in crate::cli::commands) include_env: bool,
    /// Whether links stay behind, wherever they lead.
    pub(in crate::cli::commands) skip_symlinks: bool,
    /// Has the rules of what is left out, in place of the directory's own.
    pub(in crate::cli::commands) ignore_file: Option<PathBuf>,
    /// Whether everything is sent, whatever the server has.
    pub(in crate::cli::commands) full: bool,
    /// Whether every file is read, whatever is known of it.
    pub(in crate::cli::commands) rehash: bool,
    /// Whether every question is answered already.
    pub(in crate::cli::commands) yes: bool,
    /// The idempotency key, if one was given.
    pub(in crate::cli::commands) idempotency_key: Option<String>,
    /// The compression's level, 0 to 9; by default as the link allows.
    pub(in crate::cli::commands) level: Option<u32>,
    /// Whether to wait while another deployment of the component is running.
    pub(in crate::cli::commands) wait: bool,
    /// Whether its rollout to the fleet is followed.
    pub(in crate::cli::commands) follows_rollout: bool,
}

impl DeployOptions {
    /// Whether a directory is packed; else the fields name what is deployed, and the server judges that.
    pub(in crate::cli::commands) fn packs(&self) -> bool {
        !self.fields.contains_key("deployment_id") && !self.fields.contains_key("package")
    }
}

pub(in crate::cli::commands) fn read(
    mut line: CommandLine,
    options: &mut ClientOptions,
) -> Result<DeployOptions, Usage> {
    let mut flags = flags(&mut line)?;
    let (fleet, follows) = fleet::deploy_flags(&mut line)?;
    let follows_rollout = follows && !fleet.is_empty();
    flags.extend(fleet);
    let include_node_modules = line.contains("--include-node-modules");
    let include_git = line.contains("--include-git");
    let include_env = line.contains("--include-env");
    let ignore_file = value::path(&mut line, "--ignore-file")?;
    let full = line.contains("--full");
    let rehash = line.contains("--rehash");
    let yes = line.contains("--yes");
    let wait = line.contains("--wait");
    let idempotency_key = value::parsed(&mut line, "--idempotency-key", |key| {
        match key.len() <= KEY_MAX && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(key.to_owned()),
            false => Err(format!("must be 1 to {KEY_MAX} visible characters")),
        }
    })?;
    let level = value::parsed(&mut line, "--level", |text| match text.as_bytes() {
        [digit @ b'0'..=b'9'] => Ok(u32::from(digit - b'0')),
        _ => Err("must be from 0 to 9".into()),
    })?;
    let (words, mut rest) = value::split(finish_words(line)?)?;
    if rest.len() > 1 {
        return Err(leftover(&rest[1]));
    }
    let mut fields = Fields::new();
    let packing = value::add(words, &mut fields, options)?;
    if fields.contains_key("payload") {
        return Err(Usage::new(
            "payload= cannot be given: it is made of the directory",
        ));
    }
    fields.extend(flags);
    let stages = fields.get("activate") == Some(&Value::from(false));
    if !stages && !fields.contains_key("restart") {
        // What is deployed is to run, and what has no processes needs no restart.
        fields.insert("restart".into(), Value::from("auto"));
    }
    options.dir = rest.pop().map(PathBuf::from);
    let options = DeployOptions {
        dir: options.dir.clone(),
        fields,
        include_node_modules: include_node_modules || packing.skip_node_modules == Some(false),
        include_git,
        include_env,
        skip_symlinks: packing.skip_symlinks == Some(true),
        ignore_file,
        full,
        rehash,
        yes,
        idempotency_key,
        level,
        wait,
        follows_rollout,
    };
    if let (Some(dir), false) = (&options.dir, options.packs()) {
        let dir = dir.display();
        return Err(Usage::new(format!(
            "the directory {dir} cannot go with --package, package= or deployment_id=: nothing of it would be sent"
        )));
    }
    Ok(options)
}

/// The flags that are fields of the operation; they are stronger than words.
fn flags(line: &mut CommandLine) -> Result<Fields, Usage> {
    let mut fields = Fields::new();
    if let Some(project) = value::text(line, "--project")? {
        fields.insert("project".into(), project.into());
    }
    if let Some(message) = value::message(line)? {
        fields.insert("message".into(), message.into());
    }
    if let Some(package) = value::text(line, "--package")? {
        fields.insert("package".into(), package.into());
    }
    if let Some(restart) = value::restart(line)? {
        let restart = match restart {
            Restart::No => Value::from(false),
            Restart::Auto => Value::from("auto"),
            Restart::Immediate => Value::from(true),
            Restart::Rolling => Value::from("rolling"),
        };
        fields.insert("restart".into(), restart);
    }
    if let Some(command) = value::text(line, "--install-command")? {
        fields.insert("install_command".into(), command.into());
    }
    if let Some(time) = value::parsed(line, "--install-timeout", value::some_duration)? {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        fields.insert("install_timeout".into(), ms.into());
    }
    for (flag, name, value) in [
        ("--allow-scripts", "install_allow_scripts", true),
        ("--fresh-install", "fresh_install", true),
        ("--no-activate", "activate", false),
        ("--replicated", "replicated", true),
        (
            "--ignore-replication-errors",
            "ignore_replication_errors",
            true,
        ),
    ] {
        if line.contains(flag) {
            fields.insert(name.into(), value.into());
        }
    }
    Ok(fields)
}
