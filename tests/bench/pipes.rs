//! What a deployment is measured beside: `tar` on both sides of a TCP connection, alone or with a compressor between.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use rustix::process::Signal;

/// Copies a tree from one directory into another, new one, through this compressor if one is named.
pub(crate) fn copy(from: &Path, to: &Path, compressor: Option<&str>) {
    std::fs::create_dir_all(to).unwrap();
    let mut children = Vec::new();
    let mut sent = start(&mut children, &mut packed(from), None);
    if let Some(program) = compressor {
        sent = start(&mut children, Command::new(program).arg("-1"), Some(sent));
    }

    let mut tar = Command::new("tar");
    tar.args(["-x"]).current_dir(to).stdin(Stdio::piped());
    let mut received = if let Some(program) = compressor {
        let mut decompress = Command::new(program);
        let mut decompress = decompress
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin(decompress.stdout.take().unwrap());
        input(&mut children, decompress)
    } else {
        let tar = tar.spawn().unwrap();
        input(&mut children, tar)
    };
    if compressor.is_some() {
        children.push(tar.spawn().unwrap());
        // What stays here of the pipe would keep it open.
        drop(tar);
    }

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut arriving, _) = listener.accept().unwrap();
    let sender = thread::spawn(move || {
        // The kernel moves the bytes: std splices between pipes and sockets.
        io::copy(&mut sent, &mut out).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    match io::copy(&mut arriving, &mut received) {
        // tar ends at the end marker, and may leave the padding behind it unread.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            io::copy(&mut arriving, &mut io::sink()).unwrap();
        }
        copied => {
            copied.unwrap();
        }
    }
    drop(received);
    sender.join().unwrap();
    for mut child in children {
        let status = child.wait().unwrap();
        // The same padding, behind the compressor.
        let padding = status.signal() == Some(Signal::PIPE.as_raw());
        assert!(
            status.success() || padding,
            "a pipe beside failed: {status}"
        );
    }
}

/// How many bytes `tar | gzip -6` makes of a directory.
pub(crate) fn gzipped(from: &Path) -> u64 {
    let mut children = Vec::new();
    let tar = start(&mut children, &mut packed(from), None);
    let mut gzip = start(&mut children, Command::new("gzip").arg("-6"), Some(tar));
    let bytes = io::copy(&mut gzip, &mut io::sink()).unwrap();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    bytes
}

fn packed(from: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["-c", "."]).current_dir(from);
    tar
}

fn start(
    children: &mut Vec<Child>,
    command: &mut Command,
    input: Option<ChildStdout>,
) -> ChildStdout {
    if let Some(input) = input {
        command.stdin(input);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    children.push(child);
    output
}

fn input(children: &mut Vec<Child>, mut child: Child) -> ChildStdin {
    let input = child.stdin.take().unwrap();
    children.push(child);
    input
}
