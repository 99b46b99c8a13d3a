//! For those who change gangplank: how to build and test it, the statuses of a deployment as a drawing, and how to add an
//! operation step by step. There is no code in this module.
//!
//! # Building
//! Cargo and make are all that is needed; `rust-version` in `Cargo.toml` says which Rust. `make help` lists what make does.
//!
//! | command | does |
//! | --- | --- |
//! | `make` | builds the release binary, `target/release/gangplank` |
//! | `make check` | format, lints and docs; a warning is an error |
//! | `make test` | all tests; its last lines name the tests that did not run, and what each needs |
//! | `make static` | a binary that runs on any Linux, `target/static/gangplank` |
//! | `make cross TARGET=...` | the same for another processor |
//! | `make msrv` | the same code with the oldest Rust that may build it, which it gets from Debian's packages if need be |
//! | `make demo` | starts a server on a temporary root and deploys a sample component |
//! | `cargo doc --open --document-private-items` | these pages |
//! | `.ci/run` | what has to pass before a change is taken: `make check`, `msrv`, `demo` and `test`, and before them it installs what the tests need |
//!
//! # Testing
//! Unit tests stand at the bottom of their file, as tables. The integration tests in `tests/it` start the real binary on a
//! temporary root and speak to it over real sockets; `test_server.rs` there has the server,
//! raw HTTP and payloads.
//!
//! ```sh
//! cargo test --lib store::                  # the unit tests of a folder
//! cargo test --test it crash::              # the integration tests of a file
//! cargo test --test it a_restart_replaces   # one test, by a part of its name
//! cargo test --test it tidy::               # the rules of the house: folders, circles, sizes, names
//! GANGPLANK_DELTA_EDITS=1000 cargo test --test it delta::edits   # random edits, each redeployed; a failure says its seed
//! GANGPLANK_NPM_PACKAGES=71 cargo test --test it npm_itself    # an installation by npm, which an unchanged lock file spares
//! ```
//!
//! - A test is named after the feature and the fact: `tls::a_renewed_certificate_is_taken_without_a_restart`.
//! - It waits for a fact and never for a time. What is not as it should be within a minute has failed.
//! - How the CLI speaks to Harper servers is tested against a small server that speaks as they do (`tests/it/harper/`), and
//!   against a real one where `GANGPLANK_TEST_HARPERDB` names a directory in which `npm install harperdb@4.7.29` was run.
//! - What it needs of the machine it asks for by `tests/it/needs.rs`. It is then listed where that is missing, and fails there if
//!   `CI` is set and the lack can be mended: a program, or root. A program that a test asks for stands in `.ci/run`.
//! - A mended fault has a test that failed before.
//! - Debug builds have checkpoints: `GANGPLANK_TEST_CHECKPOINT=switched=FILE` parks the server where it calls
//!   `checkpoint("switched")`, when it has made FILE; `switched:3=FILE` at the third time, and `switched@3=FILE` only until FILE
//!   is removed. `GANGPLANK_TEST_SPARE` gives every tree a spare, however small. `GANGPLANK_TEST_PANIC=install` makes that phase panic.
//!   `GANGPLANK_TEST_NOTIFY=1000,300` divides the waits of `--notify` by 1,000, and lets a try take 300 ms.
//!
//! | command | does |
//! | --- | --- |
//! | `make crash N=50` | kills the server at random checkpoints, and looks at what the next start makes of it |
//! | `make soak SECONDS=120` | kills servers, alone and as peers, while many clients do everything; `SEED=N` again |
//! | `make power N=10` | takes the power from a loop-mounted disk at named moments, and starts a server on what is left |
//! | `make inject` | lets every system call of a deployment fail, one after the other; `ONLY=scenario:call:errno:n` for one |
//! | `make fleet N=1000` | lets a thousand hosts that deploy nothing follow a real etcd; says how long a rollout takes and what it costs |
//! | `make fuzz` | throws bytes at the parsers; needs nightly Rust and cargo-fuzz; `FUZZ_TARGETS=sse FUZZ_SECONDS=60` for one |
//! | `make bench` | measures uploads, redeployments and events beside tar and rsync; `GANGPLANK_BENCH=quick` with less data |
//!
//! `make test` contains a quick form of the first five.
//!
//! # The statuses of a deployment
//! While a deployment runs, its status says which phase it is in. Each phase of a deployment stands in its first event; what is
//! not asked for is left out. Two are not known by then, and come or do not: `queue`, and `release` where the Procfile has one.
//!
//! ```text
//!  deploy_component with a payload        rollback, activation by id, restart
//!                 |                                      |
//!                 v                                      |
//!              pending <---------------------------------+
//!                 |
//!                 |----------------------------.   What is there already is not built again:
//!                 |--> fetching (a package)    |   an activation goes on at activating,
//!                 |<------'                    |   a restart at restarting.
//!                 v                            |
//!             extracting                       |
//!                 |                            |
//!                 |--> queued (no free place)  |
//!                 |<------'                    |
//!                 v                            |
//!             installing                       |
//!                 |                            |
//!                 v                            |
//!              loading                         |
//!                 |                            |
//!                 |------ activate: false -----|---------------------------> staged
//!                 |                            |
//!                 |--> replicating             |
//!                 |<------'  (replicated)      |
//!                 |                            |
//!                 |--> releasing (Procfile) <--|   Not in a rollback. A peer's own deployment for
//!                 |<------'         '----------|   this alone ends here: staged.
//!                 v                            |
//!            activating <----------------------|   From here on a cancel is refused.
//!                 |                            |
//!                 |--- without a restart ------|---------------------------> success
//!                 v                            |
//!            restarting <----------------------'
//!                 |
//!                 |--- healthy --------------------------------------------> success
//!                 '--- not healthy: the release before is live and runs ---> rolled_back
//!
//!  pending ... releasing ----- cancel_deployment --------------------------> cancelled
//!  any of them ------ error: what was live before is live -----------------> failed
//! ```
//!
//! The five on the right are ends, and a record never leaves them. A server that was killed leaves a deployment in one of the
//! others, and the next start gives it its end ([`recover`](crate::engine::recover)).
//!
//! # Adding an operation
//! One word names an operation everywhere: its file under `server/`, its file under `cli/commands/`, and its test. Say the word
//! is `stop` and the operation `stop_component`. The tests in `tests/it/tidy` tell what was forgotten.
//!
//! 1. **The wire**: a variant of [`Operation`](crate::api::operation::Operation) with typed fields; in `api/operation/call.rs` a row with its name and
//!    the shape of its answer, and how its fields are written; in `reader.rs` how they are read. The name of a new field goes into one of the lists of
//!    `api/operation.rs`, since what is not known there is not even kept. A refusal that is new gets a [`Code`](crate::api::error::Code), which decides the HTTP status and the exit code.
//!    In `api/openapi/operations.rs` what the operation does, each of its fields, and an example; nothing compiles without the operation, and a test
//!    compares its fields with those that are read. A field of which more is to be said than text, number or truth has its schema in `api/openapi/fields.rs`.
//! 2. **The work**: a method of the engine, which knows nothing of HTTP. It returns a value, or a
//!    [`Refusal`](crate::api::error::Refusal) that says what was being done, to what, and why it failed.
//! 3. **The server**: `server/stop.rs` with the function that answers it, or the `StreamSource` that the one pump
//!    of live streams (`server/pump.rs`) asks; a line in `server/router.rs` that calls it, with who may do it to
//!    which component; and in `server/auth.rs` the least role that it takes.
//! 4. **The client**: `cli/commands/stop.rs` with its help, its flags and what it sends, and its name in the table of
//!    `cli/commands/mod.rs`.
//! 5. **The tests**: a table of good and bad fields beside the parser; from outside in `tests/it`, by raw HTTP and by the CLI:
//!    what it does, who may not do it, and what it leaves when the server is killed in its midst.
//! 6. **The words**: the table in `tests/it/tidy/operations.rs`, the README's table of commands and its list of operations, and a line of
//!    `CHANGELOG.md`.
