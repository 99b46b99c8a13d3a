//! Uploads that are cut: by the wire, and by the end of the server. What has arrived whole is not sent again.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::json;

use crate::delta::edits::payload;
use crate::delta::{deploy, is_live, noise, walk};
use crate::test_server::{TempDir, TestServer, await_some};

/// More than what goes into the buffers on the way.
const FILES: usize = 170;
const FILE_LEN: usize = 100_000;
const TOTAL: u64 = FILES as u64 * FILE_LEN as u64;

fn sample() -> TempDir {
    let source = TempDir::new();
    for n in 0..FILES {
        fs::write(source.0.join(format!("f{n}")), noise(FILE_LEN, n as u64)).unwrap();
    }
    source
}

/// A proxy before a server. Connections that carry more than `most` bytes are cut there, `cuts` of them.
pub(crate) fn cutting(host: &TestServer, most: u64, cuts: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = host.address.clone();
    let left = Arc::new(AtomicU64::new(cuts));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&server) else {
                continue;
            };
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass(from, to, u64::MAX, &AtomicU64::new(0)));
            let left = Arc::clone(&left);
            thread::spawn(move || pass(client, server, most, &left));
        }
    });
    address
}

/// A proxy before a server. Connections that carry more than `most` bytes stand still there: what is behind that waits.
pub(crate) fn stopping(host: &TestServer, most: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = host.address.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(&server).unwrap();
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass(from, to, u64::MAX, &AtomicU64::new(0)));
            thread::spawn(move || {
                let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
                while let Ok(read @ 1..) = client.read(&mut buffer) {
                    passed += read;
                    if passed > most || server.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                if passed > most {
                    // For as long as the other side is there.
                    let _ = server.read(&mut buffer);
                }
            });
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, most: u64, cuts: &AtomicU64) {
    let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        passed += read as u64;
        let cut = |left: u64| left.checked_sub(1);
        if passed > most
            && cuts
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, cut)
                .is_ok()
        {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// How many bytes of a cut upload are kept.
fn partial(host: &TestServer) -> Option<u64> {
    let meta = fs::metadata(host.path("store/demo/partial"));
    meta.ok().map(|meta| meta.len()).filter(|len| *len > 0)
}

#[test]
fn what_a_cut_upload_has_brought_is_not_sent_again() {
    let host = TestServer::start();
    let source = sample();
    let mut before = 0;
    // Twice, each time somewhere else, and in the end the tree is another one.
    for (round, most) in [5_000_000, 7_000_123].into_iter().enumerate() {
        let proxy = cutting(&host, most, 1);
        let mut command = host.cli_command(&[
            "deploy",
            source.0.to_str().unwrap(),
            "--project",
            "demo",
            "--retry-for",
            "0",
        ]);
        command.env("GANGPLANK_TARGET", format!("http://{proxy}"));
        let cut = command.output().unwrap();
        let said = String::from_utf8_lossy(&cut.stderr).into_owned();
        assert_eq!(cut.status.code(), Some(3), "{said}");
        let kept = await_some("what was cut", || {
            partial(&host).filter(|len| *len > before)
        });
        assert!(
            kept > before + most - 500_000 && kept < before + most,
            "{round}: {kept}"
        );
        before = kept;
    }
    fs::write(source.0.join("f3"), "another one").unwrap();
    let (record, said) = deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, "after two cuts");
    assert_eq!(record["payload_kind"], "delta", "{said}");
    let size = record["payload_size"].as_u64().unwrap();
    assert!(
        size < TOTAL - before + 50_000,
        "{size} after {before}: {said}"
    );
    assert_eq!(partial(&host), None);
    // Its payload is all of it.
    assert!(payload(&host, record["deployment_id"].as_str().unwrap()) == walk(&source.0));
}

#[test]
fn what_is_damaged_of_a_cut_upload_is_sent_again() {
    let host = TestServer::start();
    let source = super::sample();
    let (first, _) = deploy(&host, &source.0, &[]);
    super::tree(&host, first["deployment_id"].as_str().unwrap());
    for n in 0..12 {
        fs::write(source.0.join(format!("n{n}")), noise(300_000, 900 + n)).unwrap();
    }
    let proxy = cutting(&host, 2_500_000, 1);
    let dir = source.0.to_str().unwrap();
    let mut command = host.cli_command(&["deploy", dir, "--project", "demo", "--retry-for", "0"]);
    command.env("GANGPLANK_TARGET", format!("http://{proxy}"));
    let cut = command.output().unwrap();
    let said = String::from_utf8_lossy(&cut.stderr).into_owned();
    assert_eq!(cut.status.code(), Some(3), "{said}");
    let kept = await_some("what was cut", || partial(&host));
    let path = host.path("store/demo/partial");
    let mut bytes = fs::read(&path).unwrap();
    bytes[kept as usize / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    // A client that keeps nothing asks, and counts on it.
    for kept in host.kept() {
        fs::remove_file(kept).unwrap();
    }
    let (record, said) = deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, "after a damaged cut");
    assert_eq!(record["payload_kind"], "delta", "{said}");
    assert!(said.contains("sending more"), "{said}");
    assert_eq!(partial(&host), None);
}

#[test]
fn a_tree_of_which_nothing_is_here_is_sent_as_an_archive() {
    let host = TestServer::start();
    let source = sample();
    let (record, said) = deploy(&host, &source.0, &[]);
    assert_eq!(record["payload_kind"], "tar", "{said}");
    is_live(&host, &source.0, "a first upload");
    let asked = json!({"operation": "prepare_deployment", "project": "other"});
    let answer = host.operate(&asked).json();
    assert_eq!(
        (&answer["base"], &answer["missing"]),
        (&json!(null), &json!("all"))
    );
    let accepts = &answer["accepts"];
    assert!(accepts.as_array().unwrap().contains(&json!("delta")));
    let asked = json!({"operation": "prepare_deployment", "project": "demo"});
    await_some("the tree", || {
        let answer = host.operate(&asked).json();
        answer["base"].as_str().map(|_| ())
    });
}

#[test]
fn a_client_that_tries_again_goes_on_where_it_was_cut() {
    let host = TestServer::start();
    let source = sample();
    let proxy = cutting(&host, 6_000_000, 2);
    let dir = source.0.to_str().unwrap();
    let mut command = host.cli_command(&["deploy", dir, "--project", "demo", "--retry-for", "60"]);
    command.env("GANGPLANK_TARGET", format!("http://{proxy}"));
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(said.matches("upload broken").count(), 2, "{said}");
    is_live(&host, &source.0, "after two cuts");
    let id = fs::read_link(host.path("components/demo")).unwrap();
    let record = host.record(id.file_name().unwrap().to_str().unwrap());
    let size = record["payload_size"].as_u64().unwrap();
    assert!(size < TOTAL - 10_000_000, "{size}: {said}");
}

#[test]
fn what_has_come_survives_a_kill_of_the_server() {
    let root = Arc::new(TempDir::new());
    let source = sample();
    let mut host = TestServer::on(Arc::clone(&root), &[], &[]);
    let dir = source.0.to_str().unwrap();
    let address = stopping(&host, 8_000_000);
    let mut command = host.cli_command(&["deploy", dir, "--project", "demo"]);
    command.env("GANGPLANK_TARGET", format!("http://{address}"));
    let mut client = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    await_some("most of the upload", || {
        let deployments = crate::test_server::names(&host.path("deployments"));
        let payload = host
            .path("deployments")
            .join(deployments.first()?)
            .join("payload");
        fs::metadata(payload)
            .ok()
            // A buffer that is not full is not stored yet.
            .filter(|meta| meta.len() > 7_500_000)
    });
    host.server.kill().unwrap();
    host.server.wait().unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    drop(host);
    let host = TestServer::on(Arc::clone(&root), &[], &[]);
    let kept = await_some("what was cut", || partial(&host));
    assert!(kept > 7_000_000, "{kept}");
    let (record, said) = deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, "after a kill");
    let size = record["payload_size"].as_u64().unwrap();
    // What was cut is an archive, with its heads, and of its last file nothing counts.
    let most = TOTAL - kept + 250_000;
    assert!(size < most, "{size} after {kept}: {said}");
}
