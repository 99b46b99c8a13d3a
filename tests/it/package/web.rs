//! Servers that packages come from: a web server that answers as it is told, and git's own daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use crate::test_server::TempDir;

/// What somebody asked the web server for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What the web server does with a request.
pub(crate) enum Reply {
    /// An answer with its length.
    Answer(u16, Vec<String>, Vec<u8>),
    /// These bytes, and then the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, until the client goes.
    Silence,
    /// A body without an end, a byte at a time.
    Drip,
    /// A chunked body without an end, as fast as it is taken.
    Flood,
}

/// An answer with a tarball.
pub(crate) fn bytes(body: &[u8]) -> Reply {
    Reply::Answer(200, Vec::new(), body.to_vec())
}

pub(crate) fn redirect(location: &str) -> Reply {
    Reply::Answer(302, vec![format!("Location: {location}")], Vec::new())
}

/// A web server, which is there until the test process ends.
pub(crate) struct Web {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    let Some(asked) = read(&stream) else { return };
                    seen.lock().unwrap().push(asked.clone());
                    // A client that goes is what some of these tests are about.
                    let _ = reply(stream, answer(&asked));
                });
            }
        });
        Web { address, asked }
    }

    /// Gives the files of a directory to who shows the right credentials, if there are any.
    pub(crate) fn of_files(dir: &Path, wanted: Option<&'static str>) -> Web {
        let dir = dir.to_owned();
        Web::start(move |asked| {
            if wanted.is_some() && asked.authorization.as_deref() != wanted {
                let ask = "WWW-Authenticate: Basic realm=\"x\"".to_owned();
                return Reply::Answer(401, vec![ask], Vec::new());
            }
            let path = asked
                .path
                .split('?')
                .next()
                .unwrap()
                .trim_start_matches('/');
            match std::fs::read(dir.join(path)) {
                Ok(found) => bytes(&found),
                Err(_) => Reply::Answer(404, Vec::new(), Vec::new()),
            }
        })
    }

    /// Puts TLS before it, for `localhost`; gives the port.
    pub(crate) fn behind_tls(&self, (key, certificate): &(PathBuf, PathBuf)) -> u16 {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(key).unwrap(),
        );
        let config = Arc::new(config.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = self.address.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let session = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut tls = rustls::StreamOwned::new(session, stream.unwrap());
                let address = address.clone();
                std::thread::spawn(move || {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") {
                        // Who does not trust the certificate goes.
                        if tls.read(&mut byte).unwrap_or(0) == 0 {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let mut plain = TcpStream::connect(address).unwrap();
                    plain.write_all(&head).unwrap();
                    let _ = std::io::copy(&mut plain, &mut tls);
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                });
            }
        });
        port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    Some(Asked {
        path: head[0].split(' ').nth(1)?.to_owned(),
        authorization: header("Authorization"),
    })
}

fn reply(mut stream: TcpStream, reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Answer(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
            for header in headers {
                head.push_str(&header);
                head.push_str("\r\n");
            }
            head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                stream.write_all(b"x")?;
                // How slow it drips, and not what anything waits for.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        Reply::Flood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let chunk = [b"10000\r\n", &[0_u8; 0x10000][..], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk)?;
            }
        }
    }
}

/// Runs git as the tests want it: without anybody's settings.
pub(crate) fn git(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(words)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2024-01-01T00:00:00Z")
        .env("GIT_AUTHOR_DATE", "2024-01-01T00:00:00Z")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Bare repositories, and a daemon of git's that serves them: one process a connection.
pub(crate) struct Repositories {
    pub(crate) dir: TempDir,
    pub(crate) address: String,
}

impl Repositories {
    pub(crate) fn start() -> Repositories {
        let dir = TempDir::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let base = dir.0.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), base.clone());
            }
        });
        Repositories { dir, address }
    }

    /// Makes `NAME.git` of some files, in one commit on the branch `main`. Gives its working tree and the commit.
    pub(crate) fn add(&self, name: &str, files: &[(&str, &str)]) -> (PathBuf, String) {
        let tree = self.dir.0.join(name);
        std::fs::create_dir(&tree).unwrap();
        git(&tree, &["init", "-q", "-b", "main"]);
        let commit = self.commit(name, files);
        (tree, commit)
    }

    /// Adds a commit, and publishes it.
    pub(crate) fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let tree = self.dir.0.join(name);
        for (file, content) in files {
            let path = tree.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        git(&tree, &["add", "-A", "-f"]);
        git(&tree, &["commit", "-q", "-m", "x"]);
        self.publish(name);
        git(&tree, &["rev-parse", "HEAD"])
    }

    pub(crate) fn publish(&self, name: &str) {
        let bare = format!("{name}.git");
        let _ = std::fs::remove_dir_all(self.dir.0.join(&bare));
        git(&self.dir.0, &["clone", "-q", "--bare", name, &bare]);
        git(&self.dir.0.join(&bare), &["update-server-info"]);
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("git://{}/{name}.git", self.address)
    }
}

fn serve(stream: TcpStream, base: PathBuf) {
    let input = OwnedFd::from(stream.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut daemon = Command::new("git");
        daemon
            .args(["daemon", "--inetd", "--export-all", "--reuseaddr"])
            .arg(format!("--base-path={}", base.display()))
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(OwnedFd::from(stream)))
            .stderr(Stdio::null());
        // Whoever asked may be gone before it ends.
        let _ = daemon.status();
    });
}
