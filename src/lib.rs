//! gangplank: a deploy server and its CLI in one program. A directory goes in as a streamed upload; it is unpacked,
//! installed, checked and made live with one atomic rename; and every step is shown, as it happens, to whoever watches.
//! There is no async runtime: what runs at once is a thread, and what threads tell each other goes over bounded channels.
//!
//! # Two rivers
//! Bytes go down, facts come up, and they meet in one room.
//!
//! - **Bytes down**: a directory is packed ([`archive`](formats::archive)) into a form ([`multipart`](formats::multipart)), sent ([`client`]), let in ([`gate`](server::gate)),
//!   received ([`http`](server::http)), and stored, hashed and unpacked in one pass ([`archive`](formats::archive) again) into a release ([`store`]), which one
//!   rename makes the live one.
//! - **Facts up**: a deployment ([`attempt`](engine::attempt)) writes each [`event`](api::event) into its [`journal`](store::journal); followers of the journal send it
//!   as Server-Sent Events ([`sse`](formats::sse)); the client reads them and the [`screen`](cli::screen) shows them.
//!
//! They meet in [`deploy`](engine::stages). On disk there are two truths and no third: the link `components/X` says what is live, the
//! journals say what happened. A `record.json` is a fold over its journal ([`record`](api::record)) and can be made again from it.
//!
//! # Folders
//! From the bottom up. Each folder uses only those before it, and `server` and `cli` meet in this file alone; a test in
//! `tests/it/tidy.rs` holds this. Each large foreign crate is used in one folder.
//!
//! | folder | what lives there | foreign crates |
//! | --- | --- | --- |
//! | [`api`] | the wire, shared by both ends: names and ids, events, operations, refusals, the record | serde, uuid |
//! | [`system`] | what the standard library lacks: child processes, accounts, stop by disconnect, signals, the log, files, sockets, threads, time | rustix, signal-hook, listenfd, memmap2 |
//! | [`formats`] | archives, env files, multipart forms, Server-Sent Events; without knowledge of what they are for | tar, flate2, xxhash-rust, rustix |
//! | [`store`] | the root: its lock, releases, what is live, payloads, records, journals, the index, tokens | |
//! | [`client`] | targets, the wire, requests and answers, the dialects of Harper servers, etcd | ureq |
//! | [`engine`] | deploying: the deployer and its threads, stages, install, manifest, processes, peers, recovery, retention | |
//! | [`server`] | the gate, HTTP, the router, who may do what, a function for each operation | tiny_http, httparse, rustls |
//! | [`cli`] | arguments, commands, the screen | pico-args |
//!
//! # The gate
//! tiny_http trusts its clients: a declared length that is too large aborts the process, an unread chunked body is read as
//! further requests, a few bodies that are slow to come stall everybody, and a moment without descriptors ends it for good. So
//! [`gate`](server::gate) owns the sockets. It reads each head itself, strictly, within a size and a time, and lets one request
//! a connection through. tiny_http, which listens on a private unix socket, gets that head alone, parses it, and hands out the
//! request. The thread that answers it takes the client's connection from the gate by its number: it reads the body strictly
//! from the client's own socket, and writes the answer to it. What the client still sends after that is read and dropped, so
//! that the answer reaches it. TLS ends here, too: what lies behind knows nothing of it.
//!
//! # What runs, and where else
//! A release that is live does not run by itself: [`processes`](engine::processes) starts what its `Procfile` says, keeps it running from that
//! release, and replaces it by the processes of another one, old ones stopped before or, where the socket is held here, after.
//! Which release each process runs from is on disk, so that the next start runs what ran.
//!
//! A deployment may be one of several, on the [`peers`](engine::peers): each builds the same payload, all switch when all have built, and
//! what fails in one place is taken back in all. The origin decides that ([`deploy`](engine::stages)), as a client of the others.
//!
//! Or it is for a fleet of many hosts, which share an etcd ([`etcd`](client::etcd)): what is wanted stands there ([`fleet`](api::fleet)), and each
//! host makes it so by itself, when it is there and its turn has come ([`member`](engine::member)).
//!
//! # Threads
//! | thread | what it does | ends when |
//! | --- | --- | --- |
//! | `main` | starts the house, waits for a signal, takes the house apart | all below have ended, or the grace is over |
//! | `signals` | turns signals into messages, and the second one to stop into the end | with the process |
//! | `gate-accept`, one a listener | takes connections, or lets one give way that is idle or has its answer | stop |
//! | `gate-N`, one a connection | TLS and the head, until somebody takes the request | `http-N` has it, or a deadline |
//! | `gate-drain` | reads and drops what clients still send after their answer, and closes them | the gate and the last of them are gone |
//! | `gate-full`, at most four | refuse a client of TLS for which there is no place | the refusal is through, or a deadline |
//! | `look-back` | starts the processes that ran, reads the records of the past into the [`index`](store::index), once, and then writes what the disk did not take, when there is any | with the process |
//! | `peer-NAME`, one a peer | asks a peer to build, to switch, to restart, or what is live, and follows that | the peer has answered |
//! | `fleet`, where the server belongs to one | its place in the fleet: says that it is there, lists and compares, and tells how things stand ([`member`](engine::member)) | stop |
//! | `fleet-lead`, where the server belongs to one | hears of all rollouts, and finds those that nobody leads ([`rollout`](engine::rollout)) | stop |
//! | `lead-X`, one a rollout that this server leads, or would | opens its waves as hosts tell how it went, while it holds the lease of that | the rollout has ended, somebody else leads, or stop |
//! | `claim-X`, one a component that this server publishes | keeps the claim on it while it is built and published | the claim is given back, or its lease has ended |
//! | `fleet-watch`, one a watch | reads one watch of etcd, and passes on what changes | the watch ends, or nobody listens any longer |
//! | `fleet-X`, one a component that changes | fetches its payload and deploys it, or makes live what is here | that has ended |
//! | `orphans`, where the server is process 1 | collects the dead whose parents are gone | with the process |
//! | `run`, one a command | runs it, and passes on what it prints | the command and all of its family have ended |
//! | `process-TYPE`, one a process | starts it, writes down its output, starts it again when it exits | stop |
//! | `notify-NAME`, one a receiver of `--notify` | tells it of the ends of deployments | with the process |
//! | `successor` | passes the listening sockets to the next server of the root | with the process |
//! | `door` | takes requests from tiny_http | it is unblocked |
//! | `http-N`, one a request | owns the client's socket: reads the request, unpacks its payload, and then **is** the writer of its events, until somebody takes them over | the answer is written, or is taken over |
//! | `watch-ID`, one a deployment that is watched | writes what comes to all who watch and have what there is (`server/broadcast`) | the deployment has ended, or nobody watches |
//! | `behind-N`, one a watcher that takes its events more slowly than they come | writes to it what it has missed | it has caught up, or has all |
//! | `extract`, one an upload | decodes and writes the tree while `http-N` receives | the payload has ended |
//! | `store`, one an upload | hashes the payload and stores it meanwhile | the payload has ended |
//! | `sync`, one an upload that takes a while | puts on disk what has come of it | the payload has ended |
//! | `run-as`, one a child | becomes the user of `--run-as` and starts the child ([`child`](system::child)), or reads as that user | the child has started, or all is read |
//! | `fetch-disk`, one a command of phase `fetch` | stops it when the disk has too little left | the command has ended |
//! | `download`, one a tarball | asks for it and reads it | all is read, or nobody wants it any longer |
//! | `deploy-ID`, one a deployment | fetches a package, waits for a permit, installs, loads, activates, restarts | the terminal event is in the journal |
//! | `spare-ID`, after a deployment | lists its tree, and makes a copy of it that the next release is made of; one at a time | it is made, or the next deployment of the component begins |
//! | `look-N`, two an upload that has a spare | look whether the spare is as it was | all was looked at |
//! | `ending-ID`, one a deployment whose end the disk did not take | tries every second to write it | it is written, or stop |
//!
//! The client has one thread a request, one that packs, and one for signals; its main thread shows. For completions one more
//! asks the server, and is left alone after a second.
//!
//! Every channel has a capacity and its reason. Locks are leaves, which means that nothing is called under one that takes
//! another, but for one: the lock of what is deployed ([`deployer`](engine::deployer)). Under it a deployment is told to stop,
//! a release that nobody needs is renamed, and for that the processes are asked, so it comes before the locks of these. What is
//! to stop is told so by a disconnect ([`stop`](system::stop)).
//!
//! # What always holds
//! - **A stream ends with exactly one `done` or `error`**, panics included: [`engine::attempt::Attempt`] writes it when it is
//!   dropped. This is why the release profile keeps unwinding.
//! - **A watcher costs a deployment nothing.** The journal is written first and offered with `try_send`; who falls behind
//!   reads the file. Any number of watchers sees the same bytes, up to the journal's bound.
//! - **A failed deployment never changes what is live.** Each stage undoes itself when it is dropped, so the way out by `?`
//!   and the way out by a panic are the same. A release that is live stays such a stage ([`engine::stages`]) until the end of
//!   its deployment is on disk: an end that the disk does not take switches back, here and on the peers.
//! - **Memory does not grow** with a payload, a line of output, a journal or the number of events.
//! - **Nobody is told of an end before it is true**: first the terminal event is in the journal and the record on disk, then
//!   the component is free, then the watchers are told.
//!
//! # Across a crash
//! The order of writes makes the switch atomic across `kill -9` and power loss ([`deploy`](engine::stages) and [`store`]):
//!
//! 1. The payload and the release are written, and the journal says `activate` `start`.
//! 2. `syncfs` puts all of that on disk, and the journal's file is synced.
//! 3. A new link is made beside the old one, the two change places by one rename, and the directory is synced.
//! 4. The journal says `done`, and is synced; the record is replaced by a rename, and synced.
//!
//! A deployment that runs is marked by a file in `ROOT/run`, made before and removed after everything else of it. A start
//! ([`recover`](engine::recover)) ends every marked one whose journal has no end: `done` exactly if the link leads to that release, else `error`
//! with code `interrupted`, and what had been built is removed. Between 1 and 3 the link is the old one, whole; after 3 it is
//! the new one, whole. A torn last line of a journal is cut off, and a record that is missing or half is made again.
//! `tests/it/crash.rs` kills the server at each of these steps. `tests/it/power/` watches their order, and starts a server on
//! what a disk of ext4 has when the power goes at each of them.
//!
//! # For those who change it
//! [`guide`] says how to build, test, fuzz and measure, draws the statuses of a deployment, and adds an operation step by step.
//!
//! # Where to begin reading
//! [`event`](api::event) and [`journal`](store::journal) first, then [`attempt`](engine::attempt) and [`deploy`](engine::stages), then [`serve`](server); for the client [`commands`](cli::commands) and [`follow`](client::follow).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod client;
mod engine;
mod guide;
mod store;
mod system;

// What the fuzz targets reach. Otherwise all is private, so that the compiler finds what nobody uses.
#[cfg(not(fuzzing))]
mod api;
#[cfg(fuzzing)]
pub mod api;
#[cfg(not(fuzzing))]
mod formats;
#[cfg(fuzzing)]
pub mod formats;
#[cfg(not(fuzzing))]
mod server;
#[cfg(fuzzing)]
pub mod server;

// The unit tests list what they did not run as the integration tests do.
#[cfg(test)]
#[path = "../tests/it/needs.rs"]
#[allow(dead_code)]
mod needs;

// They ask a real etcd as well.
#[cfg(test)]
#[path = "../tests/it/etcd_server.rs"]
#[allow(dead_code)]
mod etcd_server;
#[cfg(test)]
#[path = "../tests/it/ports.rs"]
#[allow(dead_code)]
mod ports;

/// Runs the program.
pub fn run() -> std::process::ExitCode {
    match cli::commands::start(std::env::args_os().skip(1).collect()) {
        cli::commands::Next::End(exit) => exit,
        cli::commands::Next::Serve(options) => match server::serve(&options) {
            Ok(()) => api::error::Exit::Success.into(),
            Err(error) => {
                system::log::error(&error.to_string());
                api::error::Exit::Refused.into()
            }
        },
    }
}
