//! `serve`: how the server is set up, by flags or by the environment.

mod fleet;
mod peers;

use std::net::Ipv6Addr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::notice::NoticeUrl;
use crate::cli::arguments::{CommandLine, Environment, Usage, finish, value};
use crate::cli::commands::{Command, CommandSpec, Parse};
use crate::engine::settings::{Listen, ServeOptions};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["serve"],
    usage: "serve",
    summary: "run the server in the foreground",
    help: "\
usage: gangplank serve [FLAGS]

Runs the server in the foreground until SIGTERM or SIGINT.

  --root DIR            everything it owns lives here
  --listen ADDR         host:port, [::1]:port or unix:PATH; may be repeated
                        (127.0.0.1:9925)
  --tls-cert FILE, --tls-key FILE
                        HTTPS on the TCP listeners: PEM certificates and their
                        key, read again at SIGHUP
  --max-connections N   connections at once (256)
  --max-deploys N       deployments past extract at once (number of cores)
  --max-payload BYTES   the largest payload (no limit)
  --max-json-body BYTES the largest JSON body (8M)
  --min-free-disk BYTES left free on the disk (64M)
  --max-entries N       entries in one payload (1000000)
  --keep-releases N     kept of each component (5)
  --keep-payloads N     kept of each component (5)
  --keep-deployments N  kept of each component (200)
  --no-spare            keeps no copy of what is live for the next release to be
                        made of: less disk, slower redeploys
  --install-timeout S   for requests that name none (3600)
  --run-as USER         what components say runs as this user; needs root
  --no-privileged-sockets
                        a component's sockets may not have ports below 1024
  --peer NAME=URL       a server to deploy to as well; may be repeated
  --peer-token-file NAME=FILE, --peer-ca NAME=FILE
                        its token, and whom to trust
  --peers-file FILE     more of them, read at the start: lines of NAME URL
                        [TOKEN_FILE [CA_FILE]]
  --replicate-timeout S for each peer to build (600)
  --sync-from NAME      catch up from this peer at the start
  --notify URL          POST the end of each deployment there, as JSON; may be
                        repeated
  --notify-secret-file FILE
                        signs it: X-Gangplank-Signature: sha256=HMAC
  --fleet etcd=URL[,URL]
                        belong to the fleet of this etcd
  --fleet-name NAME     what this host is called there (its host name)
  --fleet-url URL       where the other hosts reach this one
  --fleet-token-file F  a token of 64 hex digits that all hosts share, for
                        payloads alone
  --fleet-host-ca FILE  whom to trust as another host
  --fleet-user NAME, --fleet-password-file FILE
                        for an etcd with users
  --fleet-ca FILE       whom to trust as etcd
  --fleet-cert FILE, --fleet-key-file FILE
                        the certificate shown to it, and its key
  --fleet-prefix P      what its keys begin with (gangplank/)
  --fleet-label K=V     what the host is chosen by; may be repeated
  --fleet-key FILE      what it publishes is signed with this key
  --fleet-trust FILE    only what is signed by one of these is taken
  --fleet-takeover      take the name of a host that is not there any longer
  --grace S             from the signal to the end (10)
  --take-over           replace the server that uses the root: what it deploys
                        ends, and its sockets go on here, so nobody is refused

BYTES take K, M and G, times 30s, 5m and 2h. Each flag has a variable, which is
weaker: --max-payload is GANGPLANK_MAX_PAYLOAD; GANGPLANK_LISTEN takes commas.
",
    example: "gangplank serve --root /srv/apps --listen 0.0.0.0:9925 --max-payload 2G",
    parse: Parse::Local(parse),
};

/// A flag, or its variable.
struct FlagReader<'a> {
    line: CommandLine,
    environment: Environment<'a>,
}

impl FlagReader<'_> {
    fn get<T>(
        &mut self,
        flag: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Usage> {
        if let Some(value) = value::parsed(&mut self.line, flag, &read)? {
            return Ok(Some(value));
        }
        let name = variable(flag);
        let value = (self.environment)(&name);
        value
            .map(|value| value::named(&name, &value, &read))
            .transpose()
    }

    /// Whether a flag without a value is given, or its variable says so.
    fn is_set(&mut self, flag: &'static str) -> Result<bool, Usage> {
        if self.line.contains(flag) {
            return Ok(true);
        }
        let name = variable(flag);
        let said = (self.environment)(&name).map(|value| {
            value::named(&name, &value, |text| match text {
                "1" | "true" => Ok(true),
                "" | "0" | "false" => Ok(false),
                _ => Err("it is neither true nor false".to_owned()),
            })
        });
        Ok(said.transpose()?.unwrap_or(false))
    }

    /// All values of a flag, or those of its variable, between commas.
    fn all<T>(
        &mut self,
        flag: &'static str,
        read: fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Usage> {
        let mut all = Vec::new();
        while let Some(one) = value::parsed(&mut self.line, flag, read)? {
            all.push(one);
        }
        let name = variable(flag);
        if let (true, Some(value)) = (all.is_empty(), (self.environment)(&name)) {
            for one in value.split(',') {
                all.push(value::named(&name, one.trim(), read)?);
            }
        }
        Ok(all)
    }

    fn notify(&mut self) -> Result<Vec<NoticeUrl>, Usage> {
        // Each is told what is wrong without its text, in which a path may be a secret.
        let texts = self.all("--notify", value::word)?;
        let urls = texts.iter().map(|text| NoticeUrl::parse(text));
        let all = urls.collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|why| Usage::new(format!("--notify: {why}")))?;
        match (1..all.len()).find(|at| all[..*at].contains(&all[*at])) {
            Some(at) => Err(Usage::new(format!(
                "--notify {}: that URL was given twice",
                all[at].origin()
            ))),
            None => Ok(all),
        }
    }

    fn tls(&mut self) -> Result<Option<(PathBuf, PathBuf)>, Usage> {
        let path = |text: &str| Ok(PathBuf::from(text));
        match (self.get("--tls-cert", path)?, self.get("--tls-key", path)?) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("--tls-cert", "--tls-key"),
                    None => ("--tls-key", "--tls-cert"),
                };
                Err(Usage::new(format!("{given} needs {missing} beside it")))
            }
        }
    }
}

/// Whether a host or a label may be called so.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(fits)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if is_name(name) && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn variable(flag: &str) -> String {
    let name = flag.trim_start_matches('-').replace('-', "_");
    format!("GANGPLANK_{}", name.to_ascii_uppercase())
}

fn parse(mut line: CommandLine, environment: Environment) -> Result<Command, Usage> {
    let root = value::path(&mut line, "--root")?;
    let mut settings = FlagReader { line, environment };
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let options = ServeOptions {
        root: root.or_else(|| environment("GANGPLANK_ROOT").map(PathBuf::from)),
        listen: settings.all("--listen", listen)?,
        take_over: settings.is_set("--take-over")?,
        tls: settings.tls()?,
        max_deploys: settings
            .get("--max-deploys", value::count)?
            .unwrap_or_else(cores),
        max_payload: settings.get("--max-payload", value::some_bytes)?,
        max_json_body: settings
            .get("--max-json-body", value::some_bytes)?
            .unwrap_or(8 << 20),
        min_free_disk: settings
            .get("--min-free-disk", value::bytes)?
            .unwrap_or(64 << 20),
        max_entries: settings
            .get("--max-entries", value::count)?
            .unwrap_or(1_000_000) as u64,
        max_connections: settings
            .get("--max-connections", value::count)?
            .unwrap_or(256),
        keep_releases: settings.get("--keep-releases", value::count)?.unwrap_or(5),
        keep_payloads: settings.get("--keep-payloads", value::count)?.unwrap_or(5),
        keep_deployments: settings
            .get("--keep-deployments", value::count)?
            .unwrap_or(200),
        install_timeout: settings
            .get("--install-timeout", value::some_duration)?
            .unwrap_or(Duration::from_secs(3600)),
        run_as: settings.get("--run-as", |name| Ok(name.to_owned()))?,
        spare: !settings.is_set("--no-spare")?,
        privileged_sockets: !settings.is_set("--no-privileged-sockets")?,
        grace: settings
            .get("--grace", value::duration)?
            .unwrap_or(Duration::from_secs(10)),
        peers: settings.peers()?,
        replicate_timeout: settings
            .get("--replicate-timeout", value::some_duration)?
            .unwrap_or(Duration::from_secs(600)),
        sync_from: settings.get("--sync-from", |name| Ok(name.to_owned()))?,
        notify: settings.notify()?,
        notify_secret_file: settings.get("--notify-secret-file", |path| Ok(PathBuf::from(path)))?,
        fleet: settings.fleet()?,
    };
    if options.notify.is_empty() && options.notify_secret_file.is_some() {
        return Err(Usage::new("--notify-secret-file needs --notify beside it"));
    }
    let is_peer = |name: &String| options.peers.iter().any(|peer| peer.name == *name);
    if let Some(from) = options.sync_from.as_ref().filter(|name| !is_peer(name)) {
        return Err(Usage::new(format!(
            "--sync-from {from}: no --peer has that name"
        )));
    }
    finish(settings.line)?;
    Ok(Command::Serve(Box::new(options)))
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("unix: needs a path".into()),
            path => Ok(Listen::Unix(PathBuf::from(path))),
        };
    }
    let wrong = || "expected host:port, [::1]:port or unix:PATH".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || port.parse::<u16>().is_err() {
        return Err("the port must be a number from 0 to 65535".into());
    }
    let fits = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => {
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(fits)
        }
    };
    fits.then(|| Listen::Tcp(text.to_owned())).ok_or_else(wrong)
}
