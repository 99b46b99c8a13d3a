//! Whether new processes are healthy: by being up, by their own word, by a URL or by a command.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::error::{Doing, Error};
use crate::client;
use crate::engine::manifest::Health;
use crate::engine::processes::process::Process;
use crate::system::account::Account;
use crate::system::child::{self, Ended, RunOptions, random};
use crate::system::host;
use crate::system::socket;
use crate::system::stop::Stop;

/// A process that is up for so long is healthy, if nothing else is said.
const UP: Duration = Duration::from_secs(2);
/// How long one try of a URL or of a command may take.
const TRY_MAX: Duration = Duration::from_secs(5);
/// Between two tries.
const BETWEEN: Duration = Duration::from_millis(250);
/// How often a process is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// The id of root, who may do what every user may.
const ROOT: u32 = 0;
/// Messages that are read at one look: whoever floods the socket does not hold up the look at the process.
const MESSAGES_MAX: usize = 64;

/// Where a new process says that it is ready, by the convention of systemd: a datagram socket without a file, so that the
/// process reaches it as whichever user it runs. Its name is random, but no secret: the system says who sends, and only that
/// user and root are heard.
pub(super) struct ReadySocket {
    socket: UnixDatagram,
    user: u32,
    name: String,
    said: bool,
}

impl ReadySocket {
    /// For a process of this account, or of the server's own user.
    pub(super) fn new(account: Option<&Account>) -> Result<ReadySocket, Error> {
        let what = || "making a socket for READY=1".to_owned();
        let name = format!("gangplank-{}", random()?);
        let address = SocketAddr::from_abstract_name(&name).doing(what)?;
        let socket = UnixDatagram::bind_addr(&address).doing(what)?;
        socket::name_senders(&socket).doing(what)?;
        let user = account.map_or_else(host::user_id, |account| account.uid);
        Ok(ReadySocket {
            socket,
            user,
            name,
            said: false,
        })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn variable(&self) -> String {
        format!("@{}", self.name)
    }

    fn said(&mut self) -> bool {
        // What is left unread would block who sends it.
        for _ in 0..MESSAGES_MAX {
            match self.receive() {
                Some(ready) => self.said |= ready,
                None => break,
            }
        }
        self.said
    }

    /// Whether the next message says so, if there is one.
    fn receive(&self) -> Option<bool> {
        let mut message = [0; 4096];
        let (length, sender) = socket::receive_named(&self.socket, &mut message)?;
        let heard = sender.is_some_and(|user| user == self.user || user == ROOT);
        let mut lines = message[..length].split(|byte| *byte == b'\n');
        Some(heard && lines.any(|line| line == b"READY=1"))
    }
}

/// A process that is waited for.
pub(super) struct AwaitedProcess {
    pub(super) process: Arc<Process>,
    pub(super) ready: ReadySocket,
    pub(super) health: Option<Health>,
}

impl AwaitedProcess {
    /// What it waits for, in words.
    pub(super) fn awaits(&self) -> String {
        match &self.health {
            None => "2 s without an exit, or READY=1".to_owned(),
            Some(Health::Notify) => "READY=1".to_owned(),
            Some(Health::Http(url)) => format!("{url} to answer"),
            Some(Health::Command(command)) => format!("'{command}' to exit with 0"),
        }
    }

    /// Waits until it is healthy. None of `all` may exit meanwhile.
    ///
    /// # Errors
    /// Why it is not, and whose output tells more.
    pub(super) fn healthy(
        &mut self,
        all: &[Arc<Process>],
        deadline: Instant,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<(), (String, Arc<Process>)> {
        let mut last = String::new();
        let mut next = Instant::now();
        loop {
            for process in all {
                if let Some(how) = process.facts().ended {
                    let why = format!(
                        "{} ended before it was healthy ({how})",
                        process.launch.kind
                    );
                    return Err((why, Arc::clone(process)));
                }
            }
            let facts = self.process.facts();
            let up = facts.pid.is_some();
            let ready = self.ready.said();
            let healthy = match &self.health {
                None => ready || up && facts.since.elapsed() >= UP,
                Some(Health::Notify) => ready,
                Some(_) if Instant::now() < next => false,
                Some(Health::Http(url)) => match client::probe(url, TRY_MAX) {
                    Ok(status) if (200..400).contains(&status) => true,
                    Ok(status) => {
                        last = format!(": it answers {status}");
                        false
                    }
                    Err(error) => {
                        last = format!(": {error}");
                        false
                    }
                },
                Some(Health::Command(command)) => match self.try_command(command) {
                    Ok(()) => true,
                    Err(why) => {
                        last = format!(": {why}");
                        false
                    }
                },
            };
            if healthy {
                return Ok(());
            }
            let fail = |why: String| Err((why, Arc::clone(&self.process)));
            if is_stopping() {
                return fail("the server is stopping".to_owned());
            }
            if Instant::now() >= deadline {
                let (kind, awaits) = (&self.process.launch.kind, self.awaits());
                return fail(format!(
                    "{kind} timed out while it waited for {awaits}{last}"
                ));
            }
            if Instant::now() >= next {
                next = Instant::now() + BETWEEN;
            }
            self.process.wait(LOOK);
        }
    }

    fn try_command(&self, text: &str) -> Result<(), String> {
        let launch = &self.process.launch;
        let mut command = Command::new("sh");
        let environment = launch.environment.iter();
        command
            .args(["-c", text])
            .current_dir(&launch.dir)
            .env_clear()
            .envs(environment.map(|(key, value)| (key, value)));
        let mut last = String::new();
        let how = RunOptions::within(TRY_MAX, launch.account.as_deref());
        let ended = child::run(command, how, &Stop::never(), &mut |line| {
            last = line.text;
            Ok(())
        });
        match ended {
            Ok(Ended::Exited(status)) if status.success() => Ok(()),
            Ok(Ended::Exited(status)) => {
                let said = if last.is_empty() {
                    last
                } else {
                    format!(", {last}")
                };
                Err(format!(
                    "{}{said}",
                    crate::engine::processes::process::exit(status)
                ))
            }
            Ok(_) => Err(format!("it timed out after {} s", TRY_MAX.as_secs())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// So that a caller's error says what was being done to what.
impl std::fmt::Debug for ReadySocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadySocket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_process_says_that_it_is_ready() {
        let mut ready = ReadySocket::new(None).unwrap();
        assert!(ready.variable().starts_with("@gangplank-"));
        let sender = UnixDatagram::unbound().unwrap();
        let send = |text: &str| {
            let address = SocketAddr::from_abstract_name(&ready.name)?;
            sender.send_to_addr(text.as_bytes(), &address).map(drop)
        };
        let table: [(&str, bool); 4] = [
            ("STATUS=loading", false),
            ("NOTREADY=1", false),
            ("STATUS=on\nREADY=1\n", true),
            ("STATUS=later", true),
        ];
        for (text, _) in &table[..2] {
            send(text).unwrap();
        }
        let first: io::Result<()> = send(table[2].0);
        first.unwrap();
        assert!(ready.said());
        let address = SocketAddr::from_abstract_name(&ready.name).unwrap();
        sender
            .send_to_addr(table[3].0.as_bytes(), &address)
            .unwrap();
        assert!(ready.said(), "once is for good");

        // Somebody else may find the name and is not heard.
        let app = Account::find("app", "app:x:4242:4242::/", "").unwrap();
        let mut others = ReadySocket::new(Some(&app)).unwrap();
        let address = SocketAddr::from_abstract_name(&others.name).unwrap();
        sender.send_to_addr(b"READY=1", &address).unwrap();
        assert_eq!(others.said(), host::is_root());
    }
}
