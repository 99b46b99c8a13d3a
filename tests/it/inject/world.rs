//! A server whose calls can be made to fail, perhaps with another one that it deploys to, and a component on both.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Told, ask, told};
use super::scene::{Action, Bad, Comes, Scene, Side};
use super::state::{Resources, Tree, look, operate, settled};
use super::tracer::Tracer;
use crate::delta::{hostile, spare::inode};
use crate::package::web::{Web, bytes};
use crate::test_server::{TempDir, TestServer, await_some, form, gzip};

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long background work may take.
pub(super) const BACKGROUND: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) scene: Scene,
    /// The one that the client talks to, and its peer if it has one.
    pub(super) hosts: Vec<TestServer>,
    pub(super) project: String,
    /// The newest version that was sent.
    pub(super) version: u32,
    /// What can be gone back to: deployments, with their versions.
    pub(super) past: Vec<(String, u32)>,
    /// What each has of the system when nothing happens.
    pub(super) idle: Vec<Resources>,
    pub(super) tracer: Tracer,
    files: TempDir,
    count: u32,
    web: Web,
    /// What the web server gives.
    served: Arc<Mutex<Vec<u8>>>,
}

impl World {
    pub(super) fn new(scene: Scene) -> Result<World, String> {
        let files = TempDir::new();
        let root = Arc::new(TempDir::new());
        let tracer = Tracer::start(&root.0);
        let keep = if scene.prune { "1" } else { "1000" };
        let mut flags = vec!["--keep-releases", keep, "--keep-payloads", keep];
        flags.extend(["--keep-deployments", if scene.prune { "3" } else { "1000" }]);
        let (mut watched, other) = (tracer.command(), Arc::new(TempDir::new()));
        if scene.comes == Comes::Spare {
            watched.env("GANGPLANK_TEST_SPARE", "small");
        }
        let hosts = match scene.side {
            Side::Alone => vec![TestServer::launch(watched, root, &flags)],
            Side::Origin => {
                let peer = TestServer::on(other, &flags, &[]);
                let peers = peer_flags(&files, &peer);
                flags.extend(peers.iter().map(String::as_str));
                vec![TestServer::launch(watched, root, &flags), peer]
            }
            Side::Peer => {
                let peer = TestServer::launch(watched, root, &flags);
                let peers = peer_flags(&files, &peer);
                flags.extend(peers.iter().map(String::as_str));
                vec![TestServer::on(other, &flags, &[]), peer]
            }
        };
        tracer.has_server();
        let served = Arc::new(Mutex::new(Vec::new()));
        let given = Arc::clone(&served);
        let web = Web::start(move |_| bytes(&given.lock().unwrap()));
        let mut world = World {
            scene,
            hosts,
            project: "demo".to_owned(),
            version: 0,
            past: Vec::new(),
            idle: Vec::new(),
            tracer,
            files,
            count: 0,
            web,
            served,
        };
        let prepared = (0..3).try_for_each(|_| world.deploys());
        prepared.map_err(|why| format!("without any injection: {why}"))?;
        if scene.first {
            world.drops()?;
        }
        world.wait_idle();
        world.idle = world.hosts.iter().map(Resources::at_rest).collect();
        Ok(world)
    }

    /// Waits until nobody works on anything at any server.
    pub(super) fn wait_idle(&self) {
        for host in &self.hosts {
            settled(BACKGROUND, || Resources::of(host), Resources::idle);
        }
    }

    /// A component that nobody had yet.
    pub(super) fn begin(&mut self) {
        if self.scene.first {
            self.count += 1;
            self.project = format!("demo{}", self.count);
            self.past.clear();
        }
    }

    /// Deploys a new version, which must go well and be live everywhere then.
    pub(super) fn deploys(&mut self) -> Result<(), String> {
        let version = self.version + 1;
        let payload = match self.scene.comes {
            // A spare that is there is used, whatever was before.
            Comes::Spare => self.delta(self.live(), version),
            _ => self.payload(version, Bad::No),
        };
        let told = self.send(&self.fields("echo built"), &payload, false);
        let Told::Success(Some(id)) = told else {
            return Err(format!("a deployment: {told:?}"));
        };
        self.version = version;
        self.past.push((id, version));
        for (n, host) in self.hosts.iter().enumerate() {
            let state = look(host, &self.project)?;
            if state.tree != self.tree(version, Bad::No) {
                return Err(format!("a deployment: host {n} has something else live"));
            }
            let runs = state.processes.iter();
            let runs =
                runs.filter(|one| Some(&one.release) == state.live.as_ref() && one.pid.is_some());
            if runs.count() != usize::from(self.scene.restart) {
                return Err(format!(
                    "a deployment: host {n} does not run it: {:?}",
                    state.processes
                ));
            }
        }
        Ok(())
    }

    /// Drops the component everywhere, which must go well.
    pub(super) fn drops(&self) -> Result<(), String> {
        let operation = json!({"operation": "drop_component", "project": self.project});
        for host in &self.hosts {
            let (status, answer) = operate(host, &operation)?;
            if status != 200 {
                return Err(format!("a drop: {status} {answer}"));
            }
            let state = look(host, &self.project)?;
            if state.live.is_some() || !state.releases.is_empty() || !state.processes.is_empty() {
                return Err(format!(
                    "a drop left {} releases, {:?}",
                    state.releases.len(),
                    state.processes
                ));
            }
        }
        Ok(())
    }

    fn fields(&self, install: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("project", self.project.clone()),
            ("install_command", install.to_owned()),
        ];
        if self.scene.restart {
            fields.push(("restart", "true".to_owned()));
        }
        if self.scene.side != Side::Alone {
            fields.push(("replicated", "true".to_owned()));
        }
        fields
    }

    fn send(&self, fields: &[(&'static str, String)], payload: &[u8], live: bool) -> Told {
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let (media, body) = form(&fields, payload);
        let mut headers = vec![&*media];
        if live {
            headers.push("Accept: text/event-stream");
        }
        told(ask(
            &self.hosts[0],
            &headers,
            ("POST", "/"),
            &body,
            PATIENCE,
        ))
    }

    fn operation(&self, operation: &Value, live: bool) -> Told {
        let mut headers = vec!["Content-Type: application/json"];
        if live {
            headers.push("Accept: text/event-stream");
        }
        let body = operation.to_string();
        told(ask(
            &self.hosts[0],
            &headers,
            ("POST", "/"),
            body.as_bytes(),
            PATIENCE,
        ))
    }

    /// The version that the scene makes live.
    pub(super) fn wanted(&self) -> u32 {
        match self.scene.action {
            Action::Rollback => self.target().1,
            _ => self.version + 1,
        }
    }

    fn target(&self) -> &(String, u32) {
        &self.past[self.past.len() - 2]
    }

    /// Does what the scene is about, and gives what the client is told: of the deployment first, if there is one.
    pub(super) fn act(&self, arm: &(dyn Fn() + Sync)) -> Vec<Told> {
        let Scene {
            action, live, bad, ..
        } = self.scene;
        if action == Action::Cancel {
            return self.cancel(arm);
        }
        arm();
        vec![match action {
            Action::Drop => self.operation(
                &json!({"operation": "drop_component", "project": self.project}),
                live,
            ),
            Action::Rollback => {
                let mut operation = json!({"operation": "rollback_component", "project": self.project,
                    "deployment_id": self.target().0});
                if self.scene.restart {
                    operation["restart"] = true.into();
                }
                self.operation(&operation, live)
            }
            Action::Deploy | Action::Cancel => {
                let install = if bad == Bad::Install {
                    "exit 7"
                } else {
                    "echo built"
                };
                let (fields, version) = (self.fields(install), self.version + 1);
                match self.scene.comes {
                    Comes::Whole => self.send(&fields, &self.payload(version, bad), live),
                    Comes::Delta | Comes::Spare => {
                        self.send(&fields, &self.delta(Some(self.version), version), live)
                    }
                    Comes::Fetched => {
                        *self.served.lock().unwrap() = self.payload(version, bad);
                        let mut operation = json!({"operation": "deploy_component"});
                        for (name, value) in fields {
                            operation[name] = value.into();
                        }
                        operation["package"] = self.web.url("x.tgz").into();
                        self.operation(&operation, live)
                    }
                }
            }
        }]
    }

    fn cancel(&self, arm: &(dyn Fn() + Sync)) -> Vec<Told> {
        let [started, go] = ["started", "go"].map(|name| self.files.0.join(name));
        for file in [&started, &go] {
            let _ = fs::remove_file(file);
        }
        let known = crate::test_server::names(&self.hosts[0].path("deployments"));
        let waits = format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.02; done",
            started.display(),
            go.display()
        );
        let fields = self.fields(&waits);
        let payload = self.payload(self.version + 1, Bad::No);
        std::thread::scope(|scope| {
            let deployment = scope.spawn(|| self.send(&fields, &payload, true));
            await_some("the installation", || started.exists().then_some(()));
            let now = crate::test_server::names(&self.hosts[0].path("deployments"));
            let id = now.iter().find(|id| !known.contains(id)).unwrap();
            arm();
            let cancel = json!({"operation": "cancel_deployment", "deployment_id": id});
            let told = self.operation(&cancel, false);
            if !matches!(told, Told::Success(_)) {
                fs::write(&go, "").unwrap();
            }
            vec![deployment.join().unwrap(), told]
        })
    }

    /// What runs in a version, and the manifest that says when it is healthy.
    fn process(&self, bad: Bad) -> [(&'static str, String); 2] {
        let place = self.hosts.last().unwrap().root.0.display().to_string();
        let (sick, healthy) = match bad {
            Bad::Health => (
                format!("case $PWD in {place}*) exit 3;; esac; "),
                format!("case $PWD in {place}*) exit 1;; esac"),
            ),
            _ => (String::new(), "true".to_owned()),
        };
        [
            ("Procfile", format!("web: {sick}sleep 1000\n")),
            (
                "gangplank.json",
                json!({"health": {"command": healthy}}).to_string(),
            ),
        ]
    }

    fn files(&self, version: u32, bad: Bad) -> Vec<(&'static str, String)> {
        let mut files = vec![
            ("v", version.to_string()),
            ("d/a", format!("a of {version}\n")),
        ];
        // What a delta need not bring.
        files.push(("same", "the same\n".to_owned()));
        if self.scene.comes == Comes::Spare {
            files.push(("large", large(version).concat()));
        }
        if self.scene.restart {
            files.extend(self.process(bad));
        }
        if self.scene.release {
            files.push(("Procfile", "release: true\n".to_owned()));
        }
        files
    }

    /// What a release of a version holds, whole.
    pub(super) fn tree(&self, version: u32, bad: Bad) -> Tree {
        let mut tree: Tree = self
            .files(version, bad)
            .into_iter()
            .map(|(path, text)| (path.to_owned(), text))
            .collect();
        tree.insert("link".to_owned(), "-> v".to_owned());
        tree.insert("hard".to_owned(), version.to_string());
        tree
    }

    /// The list of a version's tree, and the identity of it.
    fn list(&self, version: u32) -> (String, Vec<u8>) {
        let (v, a) = (version.to_string(), format!("a of {version}\n"));
        let lines = [
            "d 755 d\n".to_owned(),
            hostile::file("d/a", &a),
            hostile::file("hard", &v),
            match self.scene.comes {
                Comes::Spare => hostile::large_file("large", &large(version)),
                _ => String::new(),
            },
            "l v\0link\n".to_owned(),
            hostile::file("same", "the same\n"),
            hostile::file("v", &v),
        ];
        hostile::list(&lines.concat())
    }

    /// A version as a delta to another one, or to none.
    fn delta(&self, from: Option<u32>, version: u32) -> Vec<u8> {
        let base = from.map(|from| self.list(from).0);
        let (tree, list) = self.list(version);
        let mut objects = vec![format!("a of {version}\n"), version.to_string()];
        if self.scene.comes == Comes::Spare {
            let old = from.map(large).unwrap_or_default();
            let new = large(version).into_iter();
            objects.extend(new.filter(|piece| !old.contains(piece)));
        }
        if from.is_none() {
            objects.push("the same\n".to_owned());
        }
        let mut records: Vec<Vec<u8>> = objects
            .iter()
            .map(|object| hostile::object(object, object))
            .collect();
        records.push(hostile::end(objects.len() as u32));
        hostile::delta(base.as_deref(), &tree, &list, &records)
    }

    /// The version that is live at the first host.
    fn live(&self) -> Option<u32> {
        let v = fs::read_to_string(self.hosts[0].path("components/demo/v"));
        v.ok()?.parse().ok()
    }

    /// The spare of what is live, which is waited for, in the scene that has one.
    pub(super) fn spare(&self) -> Option<u64> {
        if self.scene.comes != Comes::Spare {
            return None;
        }
        let tree = self.list(self.version).0;
        await_some("the spare", || {
            let index = fs::read(self.hosts[0].path("store/demo/spare.index")).ok()?;
            let head = index.split(|byte| *byte == b'\n').next()?;
            let is_there = head.ends_with(tree.as_bytes());
            is_there.then(|| inode(&self.hosts[0].path("store/demo/spare")))
        })
        .into()
    }

    /// Whether the release that is live was made of a spare.
    pub(super) fn is_made_of(&self, spare: u64) -> bool {
        inode(&self.hosts[0].path("components/demo/")) == spare
    }

    fn payload(&self, version: u32, bad: Bad) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in self.files(version, bad) {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        for (path, kind) in [
            ("link", tar::EntryType::Symlink),
            ("hard", tar::EntryType::Link),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o777);
            builder.append_link(&mut header, path, "v").unwrap();
        }
        gzip(&builder.into_inner().unwrap())
    }
}

/// The pieces of a large file: two of them are the same in all versions, and in their place.
fn large(version: u32) -> Vec<String> {
    const PIECE: usize = 220_000;
    let same = |char: &str| char.repeat(PIECE);
    let own = |what| format!("{what}{version:09}").repeat(PIECE / 10);
    vec![same("a"), own("b"), same("c"), own("d"), same("e")]
}

fn peer_flags(files: &TempDir, peer: &TestServer) -> [String; 4] {
    let token = files.0.join("token");
    fs::write(&token, &peer.token).unwrap();
    [
        "--peer".to_owned(),
        format!("two=http://{}", peer.address),
        "--peer-token-file".to_owned(),
        format!("two={}", token.display()),
    ]
}
