//! The client that the options and the environment ask for: flags are stronger than the target's own credentials, these
//! than gangplank's variables, and these than Harper's.
//!
//! A directory may have come from a stranger, and its `gangplank.json` with it. So that may choose among the targets that
//! this user has named, and no more: a URL in it is refused, and what it chose gets the credentials that were saved with
//! that name, or that the command itself names, but never those of the environment.

use std::path::{Path, PathBuf};

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::cli::arguments::ClientOptions;
use crate::cli::config::manifest::DirectoryManifest;
use crate::cli::config::targets::{self, SavedTarget, TargetsFile};
use crate::cli::config::token;
use crate::cli::screen::Screen;
use crate::cli::session::CommandError;
use crate::client::{Client, Target, TargetCredentials};
use crate::system::paths;

/// A client, and how it was found.
pub(crate) struct AskingClient {
    pub(crate) client: Client,
    /// What to do if the server wants to know who asks.
    pub(crate) login: LoginHint,
}

/// Where a request goes, and who said so.
#[derive(Debug)]
struct ChosenTarget {
    target: Target,
    saved: Option<SavedTarget>,
    /// The name that the directory's own manifest chose it by.
    by_manifest: Option<String>,
    warning: Option<String>,
}

pub(crate) fn connection(
    options: &ClientOptions,
    screen: &mut Screen,
) -> Result<AskingClient, CommandError> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let chosen =
        choose(options, &environment, TargetsFile::of_user).map_err(CommandError::usage)?;
    if let Some(warning) = &chosen.warning {
        screen.warning(warning);
    }
    if let Some(name) = &chosen.by_manifest {
        let target = &chosen.target;
        screen.remark(&format!("Target {name} of gangplank.json: {target}"));
    }
    if options.token_file.as_deref() == Some(Path::new("-")) {
        token::announce(screen);
    }
    let credentials = credentials(options, &chosen, &environment).map_err(CommandError::usage)?;
    let login = login(&chosen, credentials.is_some(), &environment);
    let ca_cert = options.ca_cert.clone();
    let ca_cert = ca_cert.or_else(|| chosen.saved.as_ref()?.ca_cert.clone());
    let mut client = Client::new(chosen.target).map_err(CommandError::usage)?;
    if let Some(credentials) = credentials {
        client = client
            .with_credentials(&credentials)
            .map_err(CommandError::usage)?;
    }
    if let Some(file) = &ca_cert {
        client = client.with_roots(file).map_err(CommandError::usage)?;
    } else if options.insecure {
        screen.warning("rejectUnauthorized=false: anybody can answer in the server's place");
        client = client.without_verification();
    }
    Ok(AskingClient { client, login })
}

/// The flag that makes a later command ask the same server, if there was one; without its credentials.
pub(crate) fn target_flag(options: &ClientOptions) -> String {
    let Some(text) = options.target.as_deref() else {
        return String::new();
    };
    if targets::is_name(text) && !options.target_word {
        return format!(" --target {text}");
    }
    let target = Target::parse(text).ok();
    target
        .map(|target| format!(" --target {target}"))
        .unwrap_or_default()
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What was said last counts least: the command, the environment, the directory, this machine.
fn choose(
    options: &ClientOptions,
    environment: Environment,
    file: impl Fn() -> Result<TargetsFile, Error>,
) -> Result<ChosenTarget, Error> {
    let given = options.target.clone();
    if let Some(text) = given.or_else(|| environment("GANGPLANK_TARGET")) {
        return named(&text, options.target_word, file);
    }
    let harper = environment("HARPER_CLI_TARGET").or_else(|| environment("CLI_TARGET"));
    if let Some(text) = harper {
        return Target::parse(&text).map(ChosenTarget::of);
    }
    let dir = options.dir.as_deref().unwrap_or(Path::new("."));
    let Some(name) = DirectoryManifest::of(dir)?.target else {
        let root = paths::default_root()?;
        return Ok(ChosenTarget::of(Target::unix(paths::socket(&root))));
    };
    let doing = || format!("reading the target {:?} of gangplank.json", shown(&name));
    if !targets::is_name(&name) {
        let why = "only the name of a target may stand there, since the file comes with the directory, and the directory \
                   may be a stranger's: `gangplank target add NAME URL`, and the NAME there";
        return Err(Error::new(doing(), why));
    }
    let (known, warning) = file()?.read()?;
    let Some(saved) = known.get(&name) else {
        return Err(Error::new(doing(), targets::unknown(&name, &known)));
    };
    Ok(ChosenTarget {
        by_manifest: Some(name.clone()),
        ..ChosenTarget::saved(&name, saved, warning)?
    })
}

/// A target by its name or its URL. A host without a dot and a port looks like a name.
fn named(
    text: &str,
    is_word: bool,
    file: impl Fn() -> Result<TargetsFile, Error>,
) -> Result<ChosenTarget, Error> {
    let text = text.trim();
    if !targets::is_name(text) {
        return Target::parse(text).map(ChosenTarget::of);
    }
    let is_host = is_word || text.eq_ignore_ascii_case("localhost");
    let read = file().and_then(|file| file.read());
    let (known, warning) = match read {
        Err(_) if is_host => return Target::parse(text).map(ChosenTarget::of),
        read => read?,
    };
    match known.get(text) {
        Some(saved) => ChosenTarget::saved(text, saved, warning),
        None if is_host => Target::parse(text).map(ChosenTarget::of),
        None => {
            let why = targets::unknown(text, &known);
            let why = format!("{why}, or write a host as https://{text}");
            Err(Error::new(format!("reading the target {text:?}"), why))
        }
    }
}

/// The beginning of a text that may be anything.
fn shown(text: &str) -> String {
    // Whatever stands before the last `@` may be a password.
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.chars().take(80).collect()
}

impl ChosenTarget {
    fn of(target: Target) -> ChosenTarget {
        ChosenTarget {
            target,
            saved: None,
            by_manifest: None,
            warning: None,
        }
    }

    fn saved(
        name: &str,
        saved: &SavedTarget,
        warning: Option<String>,
    ) -> Result<ChosenTarget, Error> {
        let target = Target::parse(saved.url.reveal());
        Ok(ChosenTarget {
            target: target.doing(|| format!("reading the saved target {name}"))?,
            saved: Some(saved.clone()),
            by_manifest: None,
            warning,
        })
    }
}

/// The credentials beside those of the target's own text. A unix socket needs none, so it gets those alone that were given
/// with the command or saved with it: what the environment holds is for another server.
fn credentials(
    options: &ClientOptions,
    chosen: &ChosenTarget,
    environment: Environment,
) -> Result<Option<TargetCredentials>, Error> {
    let wrong = |why: &str| Error::new("reading the credentials", why);
    let bearer = |token| Ok(Some(TargetCredentials::Bearer(token)));
    let given = match &options.token_file {
        Some(file) => Some(token::from_file(file)?),
        None => options.token.clone(),
    };
    if given.is_some() && (options.username.is_some() || options.password.is_some()) {
        return Err(wrong("a token cannot go with a user name or a password"));
    }
    if let Some(token) = given {
        return bearer(token);
    }
    let harper_password = || environment("HARPER_CLI_PASSWORD").map(Secret::new);
    let older_password = || environment("CLI_TARGET_PASSWORD").map(Secret::new);
    match (&options.username, &options.password) {
        (Some(username), password) => {
            let password = password.clone().or_else(harper_password);
            let password = password.or_else(older_password).ok_or_else(|| {
                wrong("a user name needs a password: --password, or HARPER_CLI_PASSWORD")
            })?;
            return Ok(Some(TargetCredentials::Basic {
                username: username.clone(),
                password,
            }));
        }
        (None, Some(_)) => return Err(wrong("a password needs a user name")),
        (None, None) => {}
    }
    if let Some(saved) = &chosen.saved {
        if let Some(token) = &saved.token {
            return bearer(token.clone());
        }
        if let Some(file) = &saved.token_file {
            return bearer(token::from_file(file)?);
        }
    }
    if chosen.target.credentials().is_some() || chosen.target.socket().is_some() {
        return Ok(None);
    }
    if chosen.by_manifest.is_some() {
        return Ok(None);
    }
    if let Some(text) = environment("GANGPLANK_TOKEN") {
        return bearer(token::from_text(&text, "GANGPLANK_TOKEN")?);
    }
    if let Some(file) = environment("GANGPLANK_TOKEN_FILE") {
        let token = token::from_file(&PathBuf::from(file));
        return bearer(token.doing(|| "GANGPLANK_TOKEN_FILE".to_owned())?);
    }
    // A name of one pair never goes with the password of the other.
    let pair = environment("HARPER_CLI_USERNAME").zip(harper_password());
    let older = || environment("CLI_TARGET_USERNAME").zip(older_password());
    let pair = pair.or_else(older);
    Ok(pair.map(|(username, password)| TargetCredentials::Basic { username, password }))
}

/// The variables that hold credentials.
const CREDENTIAL_VARIABLES: [&str; 4] = [
    "GANGPLANK_TOKEN",
    "GANGPLANK_TOKEN_FILE",
    "HARPER_CLI_USERNAME",
    "CLI_TARGET_USERNAME",
];

/// How to say who asks, for the message that the server does not know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginHint {
    /// At a server of ours.
    pub(crate) own: String,
    /// At another one, which has no tokens of ours; none if it was told who asks.
    pub(crate) foreign: Option<String>,
}

fn login(chosen: &ChosenTarget, has_credentials: bool, environment: Environment) -> LoginHint {
    if has_credentials || chosen.target.credentials().is_some() {
        return LoginHint {
            own: "`gangplank token list` on the server's host shows which tokens it knows"
                .to_owned(),
            foreign: None,
        };
    }
    let set = |name: &&&str| environment(name).is_some();
    if let (Some(name), Some(variable)) =
        (&chosen.by_manifest, CREDENTIAL_VARIABLES.iter().find(set))
    {
        let why = format!(
            "{variable} is not sent to a target that gangplank.json names: give --target {name}, or save a token with it by \
             `gangplank target add`"
        );
        return LoginHint {
            own: why.clone(),
            foreign: Some(why),
        };
    }
    LoginHint {
        own: "say who asks by --token-file FILE, GANGPLANK_TOKEN or `gangplank target add`; `gangplank token add NAME` on the \
              server's host makes a token"
            .to_owned(),
        foreign: Some(
            "say who asks by --username U --password P, HARPER_CLI_USERNAME and HARPER_CLI_PASSWORD, or --token-file FILE"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::cli::screen::{OutputFormat, Progress};
    use crate::system::files::{Durability, replace};

    fn options() -> ClientOptions {
        ClientOptions {
            target: None,
            target_word: false,
            dir: None,
            token: None,
            token_file: None,
            username: None,
            password: None,
            ca_cert: None,
            insecure: false,
            output: OutputFormat::Auto,
            output_given: false,
            progress: Progress::Auto,
            raw_output: false,
            retry_for: None,
        }
    }

    fn basic(username: &str, password: &str) -> TargetCredentials {
        TargetCredentials::Basic {
            username: username.into(),
            password: Secret::new(password),
        }
    }

    fn bearer(token: &str) -> TargetCredentials {
        TargetCredentials::Bearer(Secret::new(token))
    }

    fn all(name: &str) -> Option<String> {
        let value = match name {
            "GANGPLANK_TARGET" => "http://g",
            "GANGPLANK_TOKEN" => "env-token\n",
            _ => return harper(name),
        };
        Some(value.into())
    }

    fn harper(name: &str) -> Option<String> {
        let value = match name {
            "HARPER_CLI_TARGET" => "http://h",
            "HARPER_CLI_USERNAME" => "harper",
            "HARPER_CLI_PASSWORD" => "pw",
            _ => return older(name),
        };
        Some(value.into())
    }

    fn older(name: &str) -> Option<String> {
        let value = match name {
            "CLI_TARGET" => "o.example",
            "CLI_TARGET_USERNAME" => "older",
            "CLI_TARGET_PASSWORD" => "opw",
            _ => return None,
        };
        Some(value.into())
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    /// A directory with a manifest, and a file of targets beside it.
    struct Settings(PathBuf);

    impl Settings {
        fn new(name: &str, manifest: &str, targets: &str) -> Settings {
            let name = format!("gangplank-connect-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("config")).unwrap();
            let settings = Settings(dir);
            fs::write(settings.0.join("gangplank.json"), manifest).unwrap();
            let file = settings.0.join("config/targets.json");
            replace(&file, targets.as_bytes(), 0o600, Durability::None).unwrap();
            settings
        }

        fn choose(
            &self,
            given: Option<&str>,
            word: bool,
            environment: Environment,
        ) -> Result<ChosenTarget, Error> {
            let options = ClientOptions {
                target: given.map(str::to_owned),
                target_word: word,
                dir: Some(self.0.clone()),
                ..options()
            };
            choose(&options, environment, || {
                Ok(TargetsFile::at(self.0.join("config")))
            })
        }
    }

    impl Drop for Settings {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const TARGETS: &str = r#"{"targets": {
        "prod": {"url": "https://p", "token": "saved"},
        "basic": {"url": "https://u:hunter2@b"},
        "bare": {"url": "https://c"}
    }}"#;

    #[test]
    fn the_target_by_flag_then_by_variables_then_by_the_directory() {
        let settings = Settings::new("order", r#"{"target": "prod"}"#, TARGETS);
        type Variables = fn(&str) -> Option<String>;
        let by_name: Variables = |name| (name == "GANGPLANK_TARGET").then(|| "basic".into());
        let table: [(_, _, Variables, _); 12] = [
            (Some("http://f"), false, all, "http://f:9925"),
            (Some("bare"), false, all, "https://c:9925"),
            (Some("bare"), true, all, "https://c:9925"),
            (Some("localhost"), false, all, "http://localhost:9925"),
            (Some("h.example"), false, all, "https://h.example:9925"),
            // To Harper's users it is a host.
            (Some("host"), true, all, "https://host:9925"),
            (None, false, by_name, "https://b:9925"),
            (None, false, all, "http://g:9925"),
            (None, false, harper, "http://h:9925"),
            (None, false, older, "https://o.example:9925"),
            (None, false, none, "https://p:9925"),
            (Some(" prod "), false, none, "https://p:9925"),
        ];
        for (given, word, variables, expected) in table {
            let chosen = settings.choose(given, word, &variables).unwrap();
            assert_eq!(chosen.target.to_string(), expected, "{given:?} {word}");
            let by_manifest =
                given.is_none() && variables("CLI_TARGET").is_none() && expected.contains("//p");
            assert_eq!(chosen.by_manifest.is_some(), by_manifest, "{given:?}");
        }
        let flag = |target: &str| ClientOptions {
            target: Some(target.into()),
            ..options()
        };
        assert_eq!(
            target_flag(&flag("http://u:p@f")),
            " --target http://f:9925"
        );
        assert_eq!(target_flag(&flag("prod")), " --target prod");
        assert_eq!(target_flag(&options()), "");
    }

    #[test]
    fn a_directory_may_only_name_a_target() {
        let table = [
            ("https://evil.example", "only the name of a target"),
            ("u:hunter2@evil.example", "only the name of a target"),
            ("evil.example", "only the name of a target"),
            ("unix:/tmp/evil.sock", "only the name of a target"),
            ("prdo", "no target has this name; did you mean prod?"),
            ("localhost", "no target has this name"),
        ];
        for (target, why) in table {
            let manifest = serde_json::json!({ "target": target }).to_string();
            let settings = Settings::new("manifest", &manifest, TARGETS);
            let said = settings.choose(None, false, &none).unwrap_err().to_string();
            assert!(
                said.contains(why) && !said.contains("hunter2"),
                "{target}: {said}"
            );
            // Neither is it looked at where the command or the environment names a target.
            for (given, variables) in [(Some("http://f"), none as fn(&str) -> _), (None, all)] {
                assert!(
                    settings.choose(given, false, &variables).is_ok(),
                    "{target}"
                );
            }
        }
        let settings = Settings::new("damage", "{", "{");
        assert!(settings.choose(None, false, &none).is_err());
        assert!(settings.choose(Some("prod"), false, &none).is_err());
        for (given, word) in [("http://f", false), ("host", true), ("localhost", false)] {
            assert!(settings.choose(Some(given), word, &none).is_ok(), "{given}");
        }
    }

    #[test]
    fn saved_credentials_belong_to_their_target_and_those_of_the_environment_to_none_of_the_directory()
     {
        let directory = |name: &str| {
            let manifest = format!(r#"{{"target": "{name}"}}"#);
            Settings::new("belong", &manifest, TARGETS)
        };
        let asked = |chosen: &ChosenTarget| credentials(&options(), chosen, &all).unwrap();
        let settings = directory("bare");
        let table = [
            (Some("prod"), Some(bearer("saved"))),
            // Its own name and password are in the target.
            (Some("basic"), None),
            (Some("bare"), Some(bearer("env-token"))),
            (Some("https://p"), Some(bearer("env-token"))),
            (None, None),
        ];
        for (given, expected) in table {
            let chosen = settings.choose(given, false, &none).unwrap();
            assert_eq!(asked(&chosen), expected, "{given:?}");
            let advice = login(&chosen, expected.is_some(), &all).own;
            assert_eq!(
                advice.contains("GANGPLANK_TOKEN is not sent"),
                given.is_none(),
                "{given:?}: {advice}"
            );
        }
        drop(settings);
        let settings = directory("prod");
        let chosen = settings.choose(None, false, &none).unwrap();
        assert_eq!(asked(&chosen), Some(bearer("saved")));
        let given = ClientOptions {
            token: Some(Secret::new("given")),
            ..options()
        };
        let found = credentials(&given, &chosen, &all).unwrap();
        assert_eq!(found, Some(bearer("given")));
    }

    #[test]
    fn the_credentials_by_flags_then_by_the_target_then_by_variables() {
        let with =
            |token: Option<&str>, username: Option<&str>, password: Option<&str>| ClientOptions {
                token: token.map(Secret::new),
                username: username.map(str::to_owned),
                password: password.map(Secret::new),
                ..options()
            };
        type Variables = fn(&str) -> Option<String>;
        // A name of one pair and a password of the other.
        let mixed: Variables = |name| match name {
            "HARPER_CLI_USERNAME" => Some("harper".into()),
            "CLI_TARGET_PASSWORD" => Some("opw".into()),
            _ => None,
        };
        let table: [(_, _, Variables, _); 12] = [
            (with(Some("t"), None, None), "h", all, Some(bearer("t"))),
            (
                with(Some("t"), None, None),
                "unix:/s",
                all,
                Some(bearer("t")),
            ),
            (
                with(None, Some("u"), Some("p")),
                "http://x:y@h",
                all,
                Some(basic("u", "p")),
            ),
            (
                with(None, Some("u"), None),
                "h",
                all,
                Some(basic("u", "pw")),
            ),
            (
                with(None, Some("u"), None),
                "h",
                older,
                Some(basic("u", "opw")),
            ),
            (options(), "http://x:y@h", all, None),
            (options(), "unix:/s", all, None),
            (options(), "h", all, Some(bearer("env-token"))),
            (options(), "h", harper, Some(basic("harper", "pw"))),
            (options(), "h", older, Some(basic("older", "opw"))),
            (options(), "h", mixed, None),
            (options(), "h", none, None),
        ];
        for (options, target, environment, expected) in table {
            let target = ChosenTarget::of(Target::parse(target).unwrap());
            let found = credentials(&options, &target, &environment).unwrap();
            assert_eq!(found, expected, "{target:?}");
        }
        for options in [
            with(Some("t"), Some("u"), None),
            with(None, Some("u"), None),
            with(None, None, Some("p")),
            ClientOptions {
                token_file: Some("/nonexistent/token".into()),
                ..options()
            },
        ] {
            let target = ChosenTarget::of(Target::parse("h").unwrap());
            assert!(
                credentials(&options, &target, &none).is_err(),
                "{options:?}"
            );
        }
    }
}
