//! The listening sockets of processes: held here, so that they outlive the processes, and passed on to the next server, so
//! that they outlive this one.

use std::collections::BTreeMap;
use std::net::{TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::error::{Doing, Error};
use crate::api::name::Project;
use crate::engine::processes::{ComponentProcesses, ProcessPlan, Processes};
use crate::system::notify;
use crate::system::passing::{ListeningSocket, PassedSocket};

/// With what the name of such a socket begins when it is passed on; then come its component and its type.
pub const HELD: &str = "held.";

/// A listening socket that outlives the processes that listen on it.
#[derive(Clone)]
pub(super) struct HeldSocket {
    pub(super) address: String,
    pub(super) listener: Arc<TcpListener>,
}

/// The sockets that the server before held.
pub(super) struct PassedSockets(Mutex<BTreeMap<String, TcpListener>>);

impl PassedSockets {
    pub(super) fn new(passed: Vec<PassedSocket>) -> PassedSockets {
        let passed = passed.into_iter().filter_map(|one| match one.socket {
            ListeningSocket::Tcp(listener) => Some((one.name, listener)),
            ListeningSocket::Unix(_) => None,
        });
        PassedSockets(Mutex::new(passed.collect()))
    }

    /// The one of a type, if it still is where the type is to listen.
    fn take(&self, name: &str, address: &str) -> Option<TcpListener> {
        let listener = self.lock().remove(name)?;
        let is = listener.local_addr().ok()?;
        let mut wanted = address.to_socket_addrs().ok()?;
        let fits = wanted.any(|one| one.ip() == is.ip() && [0, is.port()].contains(&one.port()));
        fits.then_some(listener)
    }

    /// Closes those of a component, which nothing is to listen on any longer.
    pub(super) fn drop_component(&self, project: &Project) {
        self.lock().retain(|name, _| !is_of(name, project));
    }

    /// Closes those that no process has taken, but for components that are not started yet.
    pub(super) fn drop_all(&self, but: &[Project]) {
        self.lock().retain(|name, _| {
            let stays = but.iter().any(|project| is_of(name, project));
            if !stays {
                // A supervisor may have passed it, and keep it still.
                notify::let_go(name);
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, TcpListener>> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither a component's name nor a type's has a dot.
fn name(project: &Project, kind: &str) -> String {
    format!("{HELD}{project}.{kind}")
}

fn is_of(name: &str, project: &Project) -> bool {
    let of = name
        .strip_prefix(HELD)
        .and_then(|rest| rest.split_once('.'));
    of.is_some_and(|(of, _)| of == project.as_str())
}

impl Processes {
    /// The listening socket of a type, if it has one: the one that is held already, one that the server before held, or a
    /// new one.
    pub(super) fn held(
        &self,
        plan: &ProcessPlan,
        (project, component): (&Project, &ComponentProcesses),
        kind: &str,
    ) -> Result<Option<HeldSocket>, Error> {
        let Some(address) = plan.manifest.sockets.get(kind) else {
            return Ok(None);
        };
        // That of another type will do, too, if this release does not have it there any longer.
        let fits = |(of, held): &(&String, &HeldSocket)| {
            held.address == *address
                && (*of == kind || plan.manifest.sockets.get(*of) != Some(address))
        };
        let known = component
            .sockets()
            .iter()
            .find(fits)
            .map(|(_, held)| held.clone());
        if known.is_some() {
            return Ok(known);
        }
        let listener = match self.passed.take(&name(project, kind), address) {
            Some(listener) => listener,
            None => {
                TcpListener::bind(address).doing(|| format!("listening on {address} for {kind}"))?
            }
        };
        Ok(Some(HeldSocket {
            address: address.clone(),
            listener: Arc::new(listener),
        }))
    }

    /// All that are held, and their names, to be passed on.
    pub fn held_sockets(&self) -> BTreeMap<String, Arc<TcpListener>> {
        let mut all = BTreeMap::new();
        for (project, component) in self.components().iter() {
            for (kind, held) in component.sockets().iter() {
                all.insert(name(project, kind), Arc::clone(&held.listener));
            }
        }
        all
    }

    /// Gives a supervisor those to keep that are held now, and lets go the others.
    pub(super) fn keep_sockets(&self) {
        if self.is_stopping() {
            // They are for the next server.
            return;
        }
        let held = self.held_sockets();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |name: &String, listener: &Arc<TcpListener>| {
            let now = held.get(name);
            now.is_some_and(|now| Arc::ptr_eq(now, listener))
        };
        for (name, _) in kept.iter().filter(|(name, one)| !stays(name, one)) {
            notify::let_go(name);
        }
        kept.retain(|name, one| stays(name, one));
        for (name, listener) in held {
            kept.entry(name).or_insert_with_key(|name| {
                notify::keep(name, &*listener);
                listener
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_the_server_before_is_taken_where_the_type_listens_there_still() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = |name: &str| {
            let socket = ListeningSocket::Tcp(listener.try_clone().unwrap());
            PassedSockets::new(vec![PassedSocket {
                name: name.to_owned(),
                socket,
            }])
        };
        let demo: Project = "demo".parse().unwrap();
        let name = name(&demo, "web");
        let same = format!("127.0.0.1:{port}");
        let table = [
            (&*same, true),
            ("localhost:0", true),
            ("127.0.0.1:1", false),
            ("127.0.0.2:0", false),
        ];
        for (address, fits) in table {
            assert_eq!(
                passed(&name).take(&name, address).is_some(),
                fits,
                "{address}"
            );
        }
        assert!(passed("held.demo.other").take(&name, &same).is_none());
        assert!(passed("held.demo2.web").take(&name, &same).is_none());
        let of_demo = passed(&name);
        of_demo.drop_component(&"demo2".parse().unwrap());
        of_demo.drop_all(std::slice::from_ref(&demo));
        assert_eq!(of_demo.lock().len(), 1);
        of_demo.drop_component(&demo);
        assert!(of_demo.lock().is_empty());
    }
}
