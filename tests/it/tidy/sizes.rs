//! How large files, functions and folders may be.

use std::collections::BTreeMap;
use std::path::Path;

use super::{code, folder_of, rust_files, top};

/// How many lines of code each folder may have, without tests, comments and blank lines. A ceiling is raised only by a
/// commit that says why.
const CEILINGS: [(&str, usize); 8] = [
    // With what a client writes, and with the environment's two operations.
    // With what is said of a deployment: its message and its commit.
    // With the forms of a package, their URLs, and what npm would take for a file.
    // With a single command, and what it prints.
    // With the tree of a payload, and what of one is missing.
    // With the documents of a fleet, their keys and the order of its hosts.
    // With what is asked of a fleet, and what of it is signed.
    // With the description of the API by OpenAPI.
    // With what is for the peers, too.
    ("api", 4_310),
    // With the ways around system calls that an older kernel lacks.
    // With the date of a server.
    // With whose a path is, and with the word that was meant.
    // With sockets that one process passes to the next.
    // With output that is passed on byte for byte.
    // With files that have no name.
    ("system", 2_400),
    // With gitignore's rules, and with what is left out of an archive because it is a secret.
    // With the dialect of env files, which the server and the CLI read.
    // With CBOR, which older Harper clients send.
    // With what lets three threads share an upload, and with gzip whose stored blocks pass by.
    // With the look at an archive that is sent as it is.
    // And the writing of it, for older Harper servers.
    // With a compression that follows the link.
    // With lists of trees, deltas, and the making of a tree out of another one.
    // With what is salvaged of an archive that was cut.
    // With the objects of a tree for another server.
    // With a copy of a tree that the next one is made of.
    // With signatures.
    // With what is kept of a directory, the difference of two lists, and a scan whose memory does not grow with the tree.
    // With the copy of a tree that has no list.
    // With lz4, whose blocks are read here.
    // With a walk that opens nothing that was sent before, and lists of archives as they come.
    // With small payloads, for which no threads are made.
    // With a link whose buffers tell nothing of it, and a codec that is measured for longer.
    // With large files whose chunks are read and written by parts.
    // With a link that is as quick as in the best of its last moments.
    ("formats", 10_680),
    // With what is kept of trees and of cut uploads, archives among them.
    // With the role of the hosts of a fleet, and with the place of what they fetch.
    // With the sessions of the page.
    // With a copy of the newest payload's tree.
    // With events that come, are written and are offered many at once.
    // With a link that is read again before nothing counts as live.
    ("store", 2_680),
    // With the one follower, for the CLI and the peers, and with the trust in a server's own certificate.
    // With the download of a tarball.
    // With the dialects of Harper servers: events during an upload, a deployment found again, older ones.
    // With the question what of a tree is missing.
    // With a store of keys and values that hosts share.
    // With a client of etcd.
    // With what is kept from one command to the next.
    // With addresses that need no resolving.
    ("client", 4_930),
    // With what two requests of one idempotency key have to have in common.
    // With what the day after a deployment needs: restarts by default, components that are stopped, lines of their log.
    // With what a release runs once before it goes live, and a single command in a release.
    // With phase `fetch`: npm, git, tarballs, and what keeps their credentials to themselves.
    // With a rollback on every peer.
    // With trees: what of one is missing, how one is made again, and archives of deltas.
    // With payloads from whichever host has them, and with the rollouts of a fleet.
    // With trees that go to peers and come from them.
    // With rollouts: their claims, leaders, waves and views.
    // With a host of a fleet.
    // With what decides an installation, and the copies of what was installed.
    // With one operation for all peers.
    // With a publication that is settled later, and with what a record says of the fleet.
    // With what is not signed for others.
    // With an archive of two formats that is given as one.
    // With the moment between the end of a deployment and a free component.
    // With payloads that are kept for the fleet, hosts that were removed, and an etcd that was emptied.
    // With what the system lacks, told from what is damaged, and peers that are asked again to take something back.
    ("engine", 16_560),
    // With a file each for the operations that stop and start.
    // With the environment of a component.
    // With bodies of CBOR.
    // With the listening sockets that go from one server to the next.
    // With the question what of a tree is missing.
    // With trees and their objects for other servers.
    // With payloads by their SHA-256, in parts, and places for those who fetch them.
    // With the page.
    // With the operations of a fleet, and the stream of a rollout.
    // With what is done here and at all peers.
    // With one thread that writes to all who watch a deployment.
    // With what is live here, for a fleet whose etcd was emptied.
    ("server", 7_550),
    // With what is said and asked before an upload, and a status that says what is down.
    // With `env`.
    // With tables that fit a terminal, and with the commit that is deployed.
    // With targets by name, and with what a directory and its files say before anybody is asked.
    // With failures as documents, and with what a second viewer sees.
    // With deployments by a word, and components by the directory.
    // With the question what kind of server answers.
    // With a command elsewhere, whose output and exit code are those of the program.
    // With `install-service`.
    // With the sending of what a server lacks.
    // With the address of the page.
    // With the fleet: its flags, its table, and the lines of a rollout.
    // With the ways in which it is found out what a server lacks.
    // With the reading of the help texts, for completions and the manual page.
    // With what is live on all peers, and with the file of peers.
    // With what is known of the link.
    // With the day of the manual page.
    // With a commit that is found out meanwhile.
    // With small payloads, which are packed at once, and with a question that is asked before its answer is needed.
    // With a directory that is read beside the sending of its archive.
    ("cli", 10_120),
];

/// The lines of code of a file.
fn lines(file: &Path) -> usize {
    code(file)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count()
}

#[test]
fn files_and_functions_stay_small() {
    let mut large = BTreeMap::new();
    for file in rust_files(&top().join("src")) {
        let lines = lines(&file);
        if lines > 400 {
            large.insert(file.clone(), lines);
        }
        let code = code(&file);
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .split(' ')
                .take_while(|word| *word != "fn")
                .all(|word| {
                    word.starts_with("pub")
                        || ["const", "unsafe", "super)", "crate)", "in"].contains(&word)
                })
                && line.contains("fn ");
            match &begun {
                None if is_function => begun = Some((number, indent, line.trim().to_owned())),
                Some((first, at, name)) if line.trim() == "}" && indent == *at => {
                    assert!(
                        number - first <= 70,
                        "{}: {name} has {} lines",
                        file.display(),
                        number - first
                    );
                    begun = None;
                }
                // A declaration without a body.
                Some((_, at, _)) if indent == *at && line.ends_with(';') => begun = None,
                _ => {}
            }
        }
    }
    assert!(large.is_empty(), "files over 400 lines of code: {large:?}");
}

#[test]
fn folders_stay_under_their_ceilings() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for file in rust_files(&top().join("src")) {
        if let Some(folder) = folder_of(&file) {
            *found.entry(folder).or_default() += lines(&file);
        }
    }
    for (folder, ceiling) in CEILINGS {
        let lines = found.remove(folder).unwrap_or_default();
        assert!(
            lines <= ceiling,
            "{folder} has {lines} lines of code: more than {ceiling}"
        );
    }
    assert_eq!(found, BTreeMap::new(), "folders without a ceiling");
}
