//! The help texts: what each command does, its flags, and one example.

/// For who gave no command.
pub(crate) const USAGE: &str = "\
usage: gangplank COMMAND [FLAGS]
commands: serve, deploy, watch, list, show, rollback, cancel, payload, status,
          restart, drop, logs, sync, op, token
`gangplank help` says more, `gangplank help COMMAND` all.
";

const OVERVIEW: &str = "\
gangplank: deploy a directory to a server, and watch it live

usage: gangplank COMMAND [FLAGS]

  serve                 run the server in the foreground
  deploy [DIR]          pack a directory, upload it, follow to the end
  watch ID|PROJECT      follow a deployment to its end
  list                  deployments, newest first
  show ID               one deployment's record
  rollback PROJECT      make the previous release live again
  cancel ID             stop a running deployment
  payload ID            download or delete a stored payload
  status [PROJECT]      what is live
  restart PROJECT       restart a component's processes
  drop PROJECT          remove a component
  logs PROJECT          what its processes print
  sync --from NAME      deploy here what is live at a peer
  op NAME key=value...  any operation; its answer on stdout
  token add|list|revoke access tokens of a root on this machine

`gangplank help COMMAND` and `gangplank COMMAND --help` say more.

exit codes:
  0 success  1 the server said no  2 wrong usage, or something local
  3 server not reached, or upload broken  4 not authorised
  5 outcome unknown  6 busy  130 interrupted

example:
  gangplank serve &  gangplank deploy ./my-app
";

const CLIENT: &str = "
where to, and as whom (variables are weaker than flags):
  --target URL          http://h:9925, https://h or unix:/path/to.sock; https
                        and port 9925 if not said; by default the unix socket
                        of the root on this machine
  --token T             access token (better: --token-file F, GANGPLANK_TOKEN)
  --token-file F        file that holds the token
  --username U --password P
                        the same as name and password
  --ca-cert F           trust the certificates of this PEM file, and only them
  GANGPLANK_TARGET GANGPLANK_TOKEN GANGPLANK_ROOT, then HARPER_CLI_TARGET
  HARPER_CLI_USERNAME HARPER_CLI_PASSWORD
  Variables named for proxies are not used.

what is shown:
  --output KIND         the result on stdout: auto, text, json, yaml
  --progress KIND       on stderr: auto, bar, plain, ndjson, github, quiet
  --raw-output          control characters of the install output as they are
  --retry-for SECONDS   how long a broken connection is tried again (60); if
                        given, a server never reached is waited for too
";

const SERVE: &str = "\
usage: gangplank serve [FLAGS]

Runs the server in the foreground until SIGTERM or SIGINT.

  --root DIR            everything it owns lives here
  --listen ADDR         host:port, [::1]:port or unix:PATH; may be repeated
                        (127.0.0.1:9925)
  --tls-cert FILE       HTTPS on the TCP listeners: PEM certificates and their
  --tls-key FILE        key, read again at SIGHUP
  --max-connections N   connections at once (256)
  --max-deploys N       deployments past extract at once (number of cores)
  --max-payload BYTES   the largest payload (no limit)
  --max-json-body BYTES the largest JSON body (8M)
  --min-free-disk BYTES left free on the disk (64M)
  --max-entries N       entries in one payload (1000000)
  --keep-releases N     kept of each component (5)
  --keep-payloads N     kept of each component (5)
  --keep-deployments N  kept of each component (200)
  --install-timeout S   for requests that name none (3600)
  --run-as USER         what components say runs as this user; needs root
  --peer NAME=URL       a server to deploy to as well; may be repeated
  --peer-token-file NAME=FILE, --peer-ca NAME=FILE
                        its token, and whom to trust
  --replicate-timeout S for each peer to build (600)
  --sync-from NAME      catch up from this peer at the start
  --grace S             from the signal to the end (10)

BYTES take K, M and G, times 30s and 5m. Each flag has a variable that is weaker:
--max-payload is GANGPLANK_MAX_PAYLOAD; GANGPLANK_LISTEN takes commas.

example:
  gangplank serve --root /srv/apps --listen 0.0.0.0:9925 --max-payload 2G
";

const DEPLOY: &str = "\
usage: gangplank deploy [DIR] [FLAGS] [key=value...]

Packs DIR (default: the working directory) without node_modules and .git, uploads
it, and follows the deployment to its end. `deploy_component` is the same.

  --project NAME        the component; by default `project` of gangplank.json,
                        else the directory's name
  --install-command CMD run instead of the package manager
  --install-timeout T   30s, 5m or seconds
  --allow-scripts       packages may run their own scripts
  --include-node-modules, --include-git
                        pack these too
  --idempotency-key K   sent with the upload; by default a new one
  --level 0..9          compression (1)
  --wait                while another deployment of this component is running:
                        follow it to its end, then deploy
  --restart[=rolling]   restart its processes then, one after the other
  --no-activate         build it and keep it, but do not make it live
  --replicated, --ignore-replication-errors
                        to the server's peers too, and even if one fails
                        (a server refuses what it cannot do yet)

If the connection breaks, the upload is sent again with the same idempotency key,
and the events go on where they stopped. Ctrl-C during the upload stops it; later
the deployment goes on, and it is said how to follow it.

key=value words are fields of the operation, install_timeout in ms as in Harper;
target, username, password, rejectUnauthorized, json, skip_node_modules and
skip_symlinks mean what they mean there.
";

const DEPLOY_EXAMPLE: &str = "
example:
  gangplank deploy ./my-app --target https://apps.example
";

const WATCH: &str = "\
usage: gangplank watch ID|PROJECT [FLAGS]

Shows a deployment's events from the first one, follows it to its end, and exits as
`deploy` would have. PROJECT is its newest deployment.
";

const WATCH_EXAMPLE: &str = "
example:
  gangplank watch my-app
";

const LIST: &str = "\
usage: gangplank list [FLAGS]

Lists deployments, newest first.

  --project NAME        only this component's
  --status S            only those in this status
  --limit N             at most so many (100)
";

const LIST_EXAMPLE: &str = "
example:
  gangplank list --project my-app --status failed --limit 5
";

const SHOW: &str = "\
usage: gangplank show ID [FLAGS]

Prints one deployment's record.
";

const SHOW_EXAMPLE: &str = "
example:
  gangplank show 01976e6c-1c2b-7000-8000-000000000000 --output json
";

const ROLLBACK: &str = "\
usage: gangplank rollback PROJECT [FLAGS]

Makes the release live again that was live before, and follows that to its end.

  --to ID               the release of this deployment instead
  --restart[=rolling]   restart the processes then
";

const ROLLBACK_EXAMPLE: &str = "
example:
  gangplank rollback my-app --restart
";

const CANCEL: &str = "\
usage: gangplank cancel ID [FLAGS]

Stops a running deployment. What is live stays.
";

const CANCEL_EXAMPLE: &str = "
example:
  gangplank cancel 01976e6c-1c2b-7000-8000-000000000000
";

const PAYLOAD: &str = "\
usage: gangplank payload ID [--out FILE | --delete] [FLAGS]

Downloads the payload of a deployment as it was uploaded, to stdout, or deletes it.

  --out FILE            into this file, which is there when it is whole
  --delete              delete it at the server
";

const PAYLOAD_EXAMPLE: &str = "
example:
  gangplank payload 01976e6c-1c2b-7000-8000-000000000000 --out app.tgz
";

const STATUS: &str = "\
usage: gangplank status [PROJECT] [FLAGS]

Shows what is live, since when, and which processes run.
";

const STATUS_EXAMPLE: &str = "
example:
  gangplank status my-app --output text
";

const RESTART: &str = "\
usage: gangplank restart PROJECT [FLAGS]

Restarts the processes of a component, and follows that to its end.

  --rolling             one after the other
";

const RESTART_EXAMPLE: &str = "
example:
  gangplank restart my-app
";

const DROP: &str = "\
usage: gangplank drop PROJECT [FLAGS]

Stops a component and removes it with its releases; the records of its deployments
stay.
";

const DROP_EXAMPLE: &str = "
example:
  gangplank drop my-app
";

const LOGS: &str = "\
usage: gangplank logs PROJECT [FLAGS]

Prints what the processes of a component have printed.

  --lines N             the last N lines (100)
  --follow              and what they print from now on
";

const LOGS_EXAMPLE: &str = "
example:
  gangplank logs my-app --follow
";

const SYNC: &str = "\
usage: gangplank sync --from NAME [PROJECT] [FLAGS]

Deploys at this server what is live at its peer NAME: everything, or PROJECT.
";

const SYNC_EXAMPLE: &str = "
example:
  gangplank sync --from berlin my-app
";

const OP: &str = "\
usage: gangplank op NAME [key=value...] [FLAGS]

Sends any operation, and prints its answer.
";

const OP_EXAMPLE: &str = "
example:
  gangplank op list_deployments project=my-app limit=3
";

const TOKEN: &str = "\
usage: gangplank token add NAME [--role R] [--project P]... [--root DIR]
       gangplank token list [--root DIR]
       gangplank token revoke NAME [--root DIR]

Access tokens of a root on this machine. `add` prints the token, once, alone on
stdout; only its hash is kept. A change holds from the server's next request on.

  --root DIR            the server's root (GANGPLANK_ROOT)
  --role R              admin: everything; deploy: all but payload download and
                        tokens; read: looking only (deploy)
  --project P           limited to this component; may be repeated
  --output KIND         the list on stdout: auto, text, json, yaml

example:
  gangplank token add ci --role deploy --project my-app > ci.token
";

/// All commands.
pub(crate) fn overview() -> String {
    OVERVIEW.to_owned()
}

/// One command's text; none for a command that does not exist.
pub(crate) fn of(command: &str) -> Option<String> {
    Some(match command {
        "serve" => SERVE.to_owned(),
        "deploy" | "deploy_component" => [DEPLOY, CLIENT, DEPLOY_EXAMPLE].concat(),
        "watch" => [WATCH, CLIENT, WATCH_EXAMPLE].concat(),
        "list" => [LIST, CLIENT, LIST_EXAMPLE].concat(),
        "show" => [SHOW, CLIENT, SHOW_EXAMPLE].concat(),
        "rollback" => [ROLLBACK, CLIENT, ROLLBACK_EXAMPLE].concat(),
        "cancel" => [CANCEL, CLIENT, CANCEL_EXAMPLE].concat(),
        "payload" => [PAYLOAD, CLIENT, PAYLOAD_EXAMPLE].concat(),
        "status" => [STATUS, CLIENT, STATUS_EXAMPLE].concat(),
        "restart" => [RESTART, CLIENT, RESTART_EXAMPLE].concat(),
        "drop" => [DROP, CLIENT, DROP_EXAMPLE].concat(),
        "logs" => [LOGS, CLIENT, LOGS_EXAMPLE].concat(),
        "sync" => [SYNC, CLIENT, SYNC_EXAMPLE].concat(),
        "token" => TOKEN.to_owned(),
        "op" => [OP, CLIENT, OP_EXAMPLE].concat(),
        _ => return None,
    })
}
