//! The client that the options and the environment ask for: flags are stronger than the target's own credentials, these
//! than gangplank's variables, and these than Harper's.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::api::error::{Doing, Error};
use crate::api::name::Secret;
use crate::cli::arguments::ClientOptions;
use crate::cli::screen::Screen;
use crate::cli::session::CommandError;
use crate::client::{Client, Target, TargetCredentials};
use crate::system::files::read_up_to;
use crate::system::paths;

/// A token is 64 digits; a file that is longer than this is another one.
const TOKEN_FILE_MAX: u64 = 4096;

pub(crate) fn client(options: &ClientOptions, screen: &mut Screen) -> Result<Client, CommandError> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let target = target(options, &environment).map_err(CommandError::usage)?;
    let credentials = credentials(options, &target, &environment).map_err(CommandError::usage)?;
    let mut client = Client::new(target).map_err(CommandError::usage)?;
    if let Some(credentials) = credentials {
        client = client
            .with_credentials(&credentials)
            .map_err(CommandError::usage)?;
    }
    if let Some(file) = &options.ca_cert {
        client = client.with_roots(file).map_err(CommandError::usage)?;
    } else if options.insecure {
        screen.warning("rejectUnauthorized=false: anybody can answer in the server's place");
        client = client.without_verification();
    }
    Ok(client)
}

/// The flag that makes a later command ask the same server, if there was one; without its credentials.
pub(crate) fn target_flag(options: &ClientOptions) -> String {
    let target = options
        .target
        .as_deref()
        .and_then(|text| Target::parse(text).ok());
    target
        .map(|target| format!(" --target {target}"))
        .unwrap_or_default()
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn target(options: &ClientOptions, environment: Environment) -> Result<Target, Error> {
    let named = options.target.clone();
    let named = named.or_else(|| environment("GANGPLANK_TARGET"));
    match named.or_else(|| environment("HARPER_CLI_TARGET")) {
        Some(text) => Target::parse(&text),
        None => Ok(Target::unix(paths::socket(&paths::default_root()?))),
    }
}

/// The credentials beside those of the target's own text. A unix socket needs none, so it gets those alone that were given
/// with the command: what the environment holds is for another server.
fn credentials(
    options: &ClientOptions,
    target: &Target,
    environment: Environment,
) -> Result<Option<TargetCredentials>, Error> {
    let wrong = |why: &str| Error::new("reading the credentials", why);
    let token = match &options.token_file {
        Some(file) => Some(token_file(file)?),
        None => options.token.clone(),
    };
    if token.is_some() && (options.username.is_some() || options.password.is_some()) {
        return Err(wrong("a token cannot go with a user name or a password"));
    }
    if let Some(token) = token {
        return Ok(Some(TargetCredentials::Bearer(token)));
    }
    let harper_password = || environment("HARPER_CLI_PASSWORD").map(Secret::new);
    match (&options.username, &options.password) {
        (Some(username), password) => {
            let password = password.clone().or_else(harper_password);
            let password = password.ok_or_else(|| {
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
    if target.credentials().is_some() || target.socket().is_some() {
        return Ok(None);
    }
    if let Some(token) = environment("GANGPLANK_TOKEN") {
        return Ok(Some(TargetCredentials::Bearer(Secret::new(bare(&token)))));
    }
    if let Some(file) = environment("GANGPLANK_TOKEN_FILE") {
        return Ok(Some(TargetCredentials::Bearer(token_file(Path::new(
            &file,
        ))?)));
    }
    let pair = environment("HARPER_CLI_USERNAME").zip(harper_password());
    Ok(pair.map(|(username, password)| TargetCredentials::Basic { username, password }))
}

/// The token in a file, or on stdin if that is `-`.
fn token_file(file: &Path) -> Result<Secret, Error> {
    if file == Path::new("-") {
        return read_token(io::stdin(), "stdin");
    }
    let shown = file.display().to_string();
    let opened = fs::File::open(file).doing(|| format!("reading the token in {shown}"))?;
    read_token(opened, &shown)
}

fn read_token(from: impl Read, shown: &str) -> Result<Secret, Error> {
    let doing = || format!("reading the token in {shown}");
    let bytes = read_up_to(from, TOKEN_FILE_MAX).doing(doing)?;
    let why = format!("more than {TOKEN_FILE_MAX} bytes are not a token");
    let bytes = bytes.ok_or_else(|| Error::new(doing(), why))?;
    let text = String::from_utf8(bytes).doing(doing)?;
    Ok(Secret::new(bare(&text)))
}

/// A token without what editors and shells put around it: white space, a byte order mark, quotes.
fn bare(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}').trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let text = text.strip_prefix(quote)?;
        text.strip_suffix(quote)
    });
    quoted.unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::{OutputFormat, Progress};

    fn options() -> ClientOptions {
        ClientOptions {
            target: None,
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
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn the_target_by_flag_then_by_variables() {
        let flag = ClientOptions {
            target: Some("http://f".into()),
            ..options()
        };
        let shown = |options: &ClientOptions, environment: Environment| {
            target(options, environment).unwrap().to_string()
        };
        assert_eq!(shown(&flag, &all), "http://f:9925");
        assert_eq!(shown(&options(), &all), "http://g:9925");
        assert_eq!(shown(&options(), &harper), "http://h:9925");
        assert_eq!(target_flag(&flag), " --target http://f:9925");
        assert_eq!(target_flag(&options()), "");
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
        let none: Variables = |_| None;
        let table: [(_, _, Variables, _); 10] = [
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
            (options(), "http://x:y@h", all, None),
            (options(), "unix:/s", all, None),
            (options(), "h", all, Some(bearer("env-token"))),
            (options(), "h", harper, Some(basic("harper", "pw"))),
            (options(), "h", none, None),
            (
                options(),
                "h",
                |name| (name == "HARPER_CLI_USERNAME").then(|| "u".into()),
                None,
            ),
        ];
        for (options, target, environment, expected) in table {
            let target = Target::parse(target).unwrap();
            let found = credentials(&options, &target, &environment).unwrap();
            assert_eq!(found, expected, "{target}");
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
            let target = Target::parse("h").unwrap();
            assert!(
                credentials(&options, &target, &|_| None).is_err(),
                "{options:?}"
            );
        }
    }

    #[test]
    fn a_token_from_a_file() {
        let file = std::env::temp_dir().join(format!("gangplank-token-{}", std::process::id()));
        fs::write(&file, "abc\n").unwrap();
        assert_eq!(token_file(&file).unwrap().reveal(), "abc");
        for text in ["\u{feff}abc\r\n", "\"abc\"\n", "'abc'", " abc "] {
            fs::write(&file, text).unwrap();
            assert_eq!(token_file(&file).unwrap().reveal(), "abc", "{text:?}");
        }
        fs::write(&file, "x".repeat(5000)).unwrap();
        assert!(
            token_file(&file)
                .unwrap_err()
                .to_string()
                .contains("not a token")
        );
        fs::remove_file(&file).unwrap();
    }
}
