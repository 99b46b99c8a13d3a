//! What `status` costs of many components, each with a process that runs.

use std::fs;
use std::process::Child;
use std::time::Instant;

use crate::attic::Attic;
use crate::server::Server;
use crate::table::{Budget, alone, median};

/// How many are asked about.
const COMPONENTS: u64 = 1000;

/// How many are deployed at once.
const AT_ONCE: usize = 16;

/// How often it is asked.
const RUNS: usize = 9;

/// Prints it.
pub(crate) fn measure(scale: u64, attic: &mut Attic) {
    let here = attic.new_dir();
    let dir = here.join("component");
    fs::create_dir_all(&dir).unwrap();
    // It ends by itself should nobody be left to end it.
    fs::write(dir.join("Procfile"), "web: exec sleep 600\n").unwrap();
    // What says at once that it is healthy: by time alone each takes two seconds.
    let health = r#"{ "health": { "command": "true" } }"#;
    fs::write(dir.join("gangplank.json"), health).unwrap();
    let server = Server::start(&here);
    let count = COMPONENTS / scale;
    let mut clients: Vec<Child> = Vec::new();
    for n in 0..count {
        let mut deploy = server.deploy(&dir, "quiet");
        deploy.args(["--project", &format!("bench-{n}")]);
        clients.push(deploy.spawn().unwrap());
        if clients.len() == AT_ONCE || n + 1 == count {
            for mut client in clients.drain(..) {
                assert!(client.wait().unwrap().success(), "a deployment failed");
            }
        }
    }
    server.rest();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let status = server.client("status").status().unwrap();
        times.push(begun.elapsed().as_secs_f64());
        assert!(status.success(), "status failed");
    }
    let what = format!("status of {count} with a process");
    alone(&what, median(times), "s", Budget::Most(0.1));
    drop(server);
    attic.retire(here, true);
}
