//! `sync`, where the peer does not do its part.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::test_server::{TempDir, TestServer, await_some};

#[test]
fn a_sync_that_waits_for_its_peer_ends_with_the_server() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("far=http://{}", silent.local_addr().unwrap());
    let dir = TempDir::new();
    let file = dir.0.join("token");
    fs::write(&file, "0".repeat(64)).unwrap();
    let token = format!("far={}", file.display());
    for accept in ["text/event-stream", "application/json"] {
        let mut host = TestServer::with(&["--peer", &peer, "--peer-token-file", &token], &[]);
        let (address, admin) = (host.address.clone(), host.token.clone());
        let asked = std::thread::spawn(move || {
            let body = json!({"operation": "sync", "from": "far"}).to_string();
            let headers = [
                &format!("Authorization: Bearer {admin}"),
                "Content-Type: application/json",
                &format!("Accept: {accept}"),
            ];
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let request = crate::test_server::request("POST", "/", &headers, body.as_bytes());
            std::io::Write::write_all(&mut stream, &request).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let (mut held, _) = silent.accept().unwrap();
        held.read_exact(&mut [0; 4]).unwrap();
        let begun = Instant::now();
        host.signal(Signal::TERM);
        let status = await_some("its end", || host.server.try_wait().unwrap());
        let took = begun.elapsed();
        assert!(
            status.success() && took < Duration::from_secs(5),
            "{status} after {took:?}"
        );
        let answer = asked.join().unwrap();
        let (status, end) = match accept {
            "text/event-stream" => ("200", "event: error"),
            _ => ("50", "\"code\":"),
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(end), "{answer}");
    }
}
