//! What a client keeps of what it has deployed: with it, only the difference is sent. Without it, or with a wrong one,
//! everything is as it would be otherwise.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::delta::cut::stopping;
use crate::delta::{deploy, deploy_at, is_live, noise, sample, tree};
use crate::test_server::{TempDir, TestServer, await_some, threads_of};

/// A proxy before a server, and how many bytes its clients have sent.
fn counting(host: &TestServer) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (server, count) = (host.address.clone(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&server) else {
                continue;
            };
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || pass(from, to, &AtomicU64::new(0)));
            let counted = Arc::clone(&counted);
            thread::spawn(move || pass(client, server, &counted));
        }
    });
    (address, count)
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        count.fetch_add(read as u64, Ordering::AcqRel);
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The first deployment of a sample, whose tree the server knows by then.
fn first(host: &TestServer, source: &Path) {
    let (record, _) = deploy(host, source, &[]);
    tree(host, record["deployment_id"].as_str().unwrap());
}

#[test]
fn one_changed_file_is_a_few_bytes_in_all() {
    let host = TestServer::start();
    let (proxy, count) = counting(&host);
    let source = sample();
    let path = |name: &str| source.0.join(name);
    fs::write(path("large"), noise(5 << 20, 3)).unwrap();
    let (record, _) = deploy_at(&host, &proxy, &source.0, &[]);
    tree(&host, record["deployment_id"].as_str().unwrap());
    let [kept] = &host.kept()[..] else {
        panic!("{:?}", host.kept());
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(kept), mode(kept.parent().unwrap())), (0o600, 0o700));
    let rest = |what: &str, most: u64, more: &[&str]| {
        let before = count.load(Ordering::Acquire);
        let (record, said) = deploy_at(&host, &proxy, &source.0, more);
        is_live(&host, &source.0, what);
        let sent = count.load(Ordering::Acquire) - before;
        assert!(sent <= most, "{what}: {sent} bytes, {said}");
        assert_eq!(record["payload_kind"], "delta", "{what}");
        (record, said)
    };
    fs::write(path("d1/f1"), "new").unwrap();
    let (record, said) = rest("one file", 2048, &[]);
    let size = record["payload_size"].as_u64().unwrap();
    let line = format!("Uploaded {size} B, reused 60 of 61 files (6.1 MiB)");
    assert!(said.contains(&line), "{line} in {said}");
    rest("nothing", 2048, &[]);
    rest("nothing, and all is read", 2048, &["--rehash"]);
    let mut large = fs::read(path("large")).unwrap();
    large[3_000_000] ^= 1;
    fs::write(path("large"), large).unwrap();
    rest("a byte of a large file", 300_000, &[]);
    // Without what is kept the list is sent, and it counts.
    fs::remove_file(kept).unwrap();
    fs::write(path("d1/f1"), "newer").unwrap();
    let (record, said) = rest("nothing is kept", 12_000, &[]);
    let line = format!("Uploaded {} B,", record["payload_size"]);
    assert!(
        said.contains("reused 60 of 61") && !said.contains(&line),
        "{said}"
    );
    // What is damaged is not there.
    let mut bytes = fs::read(kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(kept, bytes).unwrap();
    rest("what is kept is damaged", 12_000, &[]);
    rest("all is well again", 2048, &[]);
    // And who has no place for it does without.
    for (variable, value) in [("XDG_CACHE_HOME", "/proc/none"), ("HOME", "relative")] {
        let dir = source.0.to_str().unwrap();
        let mut command = host.cli_command(&["deploy", dir, "--project", "demo"]);
        command.env_remove("XDG_CACHE_HOME").env(variable, value);
        if variable == "XDG_CACHE_HOME" {
            command.env_remove("HOME");
        }
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && !said.contains("cache"), "{said}");
    }
}

/// How many bytes a process has read.
fn has_read(process: &Child) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.unwrap().parse().unwrap()
}

#[test]
fn what_is_sent_for_the_first_time_is_read_for_the_next_beside_that_and_by_nobody_in_ci() {
    const SIZE: u64 = 32 << 20;
    let host = TestServer::start();
    let source = TempDir::new();
    let large = fs::File::create(source.0.join("large")).unwrap();
    large.set_len(SIZE).unwrap();
    // All that the buffers on the way take is far less than that.
    let address = stopping(&host, 1_000_000);
    let begin = |project: &str| {
        let dir = source.0.to_str().unwrap();
        let mut command = host.cli_command(&["deploy", dir, "--project", project]);
        command.env("GANGPLANK_TARGET", format!("http://{address}"));
        command.stderr(Stdio::null());
        command
    };
    let mut client = begin("demo").spawn().unwrap();
    await_some("all of it is read", || {
        (has_read(&client) >= SIZE).then_some(())
    });
    await_some("the end of who reads it", || {
        let reads = threads_of(&client).iter().any(|name| name == "list");
        (!reads).then_some(())
    });
    client.kill().unwrap();
    client.wait().unwrap();
    // Where each run begins with an empty disk, nobody will use it again.
    let mut client = begin("other").env("CI", "true").spawn().unwrap();
    await_some("the upload in CI", || {
        let is_sending = threads_of(&client).iter().any(|name| name == "pack");
        (is_sending && has_read(&client) > 1_000_000).then_some(())
    });
    let threads = threads_of(&client);
    assert!(!threads.iter().any(|name| name == "list"), "{threads:?}");
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn directories_components_and_commands_at_once_do_not_get_in_each_others_way() {
    let host = TestServer::start();
    let (one, two) = (sample(), sample());
    fs::write(two.0.join("only here"), "2").unwrap();
    first(&host, &one.0);
    for n in 0..2 {
        for source in [&one, &two] {
            fs::write(source.0.join("d3/f3"), format!("{n}")).unwrap();
            let (record, said) = deploy(&host, &source.0, &[]);
            assert_eq!(record["payload_kind"], "delta", "{said}");
            is_live(&host, &source.0, "two directories");
        }
        let other = ["deploy", one.0.to_str().unwrap(), "--project", "other"];
        assert!(host.cli(&other).status.success());
        assert_eq!(
            fs::read_to_string(host.path("components/other/d3/f3")).unwrap(),
            n.to_string()
        );
    }
    assert_eq!(host.kept().len(), 3);
    let dir = one.0.to_str().unwrap();
    fs::write(one.0.join("d4/f4"), "at once").unwrap();
    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = host.cli_command(&["deploy", dir, "--project", "demo", "--wait"]);
            command
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for one in both {
        let done = one.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    is_live(&host, &one.0, "two at once");
    fs::write(one.0.join("d4/f4"), "afterwards").unwrap();
    let (record, _) = deploy(&host, &one.0, &[]);
    assert!(record["payload_size"].as_u64().unwrap() < 600, "{record}");
    is_live(&host, &one.0, "after two at once");
}

#[test]
fn a_server_that_has_lost_what_was_kept_is_asked() {
    let host = TestServer::start();
    let source = sample();
    first(&host, &source.0);
    // Another one has its releases, and the server no longer the tree.
    let dropped = host.cli(&["drop", "demo", "--yes"]);
    assert!(
        dropped.status.success(),
        "{}",
        String::from_utf8_lossy(&dropped.stderr)
    );
    fs::write(source.0.join("d0/f0"), "new").unwrap();
    let (_, said) = deploy(&host, &source.0, &[]);
    is_live(&host, &source.0, "after it was dropped");
    assert!(!said.contains("stale") && !said.contains("lacks"), "{said}");
    // What is kept is that of the last end.
    let (record, _) = deploy(&host, &source.0, &[]);
    tree(&host, record["deployment_id"].as_str().unwrap());
    fs::write(source.0.join("d0/f0"), "newer").unwrap();
    let (record, _) = deploy(&host, &source.0, &[]);
    assert!(record["payload_size"].as_u64().unwrap() < 600, "{record}");
}

#[test]
fn a_large_file_is_live_as_it_is_after_each_edit() {
    let host = TestServer::start();
    let source = sample();
    let path = source.0.join("large");
    let mut bytes = noise(4 << 20, 1);
    fs::write(&path, &bytes).unwrap();
    first(&host, &source.0);
    for n in 0..8_u64 {
        let at = (n as usize * 700_001 + 5) % (bytes.len() - 100_000);
        let piece = noise(50_000 + n as usize, n);
        match n % 4 {
            0 => bytes[at..at + piece.len()].copy_from_slice(&piece),
            1 => drop(bytes.splice(at..at, piece)),
            2 => bytes.truncate(bytes.len() - piece.len()),
            _ => bytes.extend(piece),
        }
        fs::write(&path, &bytes).unwrap();
        let (record, said) = deploy(&host, &source.0, &[]);
        is_live(&host, &source.0, &format!("edit {n}"));
        let size = record["payload_size"].as_u64().unwrap();
        assert!(size < 700_000, "{n}: {size}, {said}");
    }
}

#[test]
fn a_command_goes_on_with_what_another_one_had_sent() {
    let host = TestServer::start();
    let source = sample();
    let proxy = super::cut::cutting(&host, 4_000_000, 1);
    let (record, _) = deploy_at(&host, &proxy, &source.0, &[]);
    tree(&host, record["deployment_id"].as_str().unwrap());
    for n in 0..12 {
        fs::write(source.0.join(format!("n{n}")), noise(500_000, 900 + n)).unwrap();
    }
    let dir = source.0.to_str().unwrap();
    let mut command = host.cli_command(&["deploy", dir, "--project", "demo", "--retry-for", "0"]);
    command.env("GANGPLANK_TARGET", format!("http://{proxy}"));
    let cut = command.output().unwrap();
    let said = String::from_utf8_lossy(&cut.stderr);
    assert_eq!(cut.status.code(), Some(3), "{said}");
    await_some("what was cut", || {
        let meta = fs::metadata(host.path("store/demo/partial")).ok()?;
        (meta.len() > 3_000_000).then_some(())
    });
    let (record, said) = deploy_at(&host, &proxy, &source.0, &[]);
    is_live(&host, &source.0, "after a cut");
    assert!(
        record["payload_size"].as_u64().unwrap() < 3_000_000,
        "{said}"
    );
    // And then it is as before.
    fs::write(source.0.join("n1"), "1").unwrap();
    let (record, said) = deploy_at(&host, &proxy, &source.0, &[]);
    assert!(record["payload_size"].as_u64().unwrap() < 600, "{said}");
}
