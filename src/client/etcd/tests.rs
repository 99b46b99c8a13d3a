//! The client against a real etcd.

use super::*;
use crate::client::kv::{KvChange, KvCondition, KvNews, KvWrite, VALUE_LEN_MAX};
use crate::etcd_server::EtcdServer;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

fn options(endpoints: &str) -> EtcdOptions {
    EtcdOptions {
        endpoints: endpoints.split(',').map(str::to_owned).collect(),
        spread_by: "one".to_owned(),
        user: None,
        ca: None,
        certificate: None,
        call_max: CALL_MAX,
        silence: PATIENCE,
    }
}

fn client(endpoints: &str) -> EtcdStore {
    EtcdStore::new(options(endpoints)).unwrap()
}

fn as_host(endpoints: &str, password: &str) -> EtcdStore {
    EtcdStore::new(EtcdOptions {
        user: Some(("host".to_owned(), Secret::new(password))),
        ..options(endpoints)
    })
    .unwrap()
}

/// The next message of a watch.
fn next(watch: &KvWatch) -> Result<KvNews, KvError> {
    watch
        .news
        .recv_timeout(PATIENCE)
        .expect("the watch tells something")
}

/// The next change of a watch, as its key and its value.
fn change(watch: &KvWatch) -> (String, Vec<u8>) {
    loop {
        match next(watch).unwrap() {
            KvNews::Changes(changes) => match &changes[..] {
                [KvChange::Put(entry)] => return (entry.key.clone(), entry.value.clone()),
                other => panic!("{other:?}"),
            },
            KvNews::Watching | KvNews::Progress(_) => {}
        }
    }
}

/// What ends a watch.
fn end(watch: &KvWatch) -> KvError {
    loop {
        if let Err(error) = next(watch) {
            return error;
        }
    }
}

fn set(key: &str, condition: KvCondition) -> KvTransaction {
    KvTransaction {
        conditions: vec![condition],
        writes: vec![KvWrite::Put {
            key: key.to_owned(),
            value: b"new".to_vec(),
            lease: None,
        }],
    }
}

#[test]
fn etcd_takes_the_six_calls() {
    let Some(server) = EtcdServer::start() else {
        return;
    };
    let store = client(&server.urls());
    let first = store.put("a/1", b"one", None).unwrap();
    let listing = store.list(&KvRange::prefix("a/")).unwrap();
    assert_eq!((listing.revision, listing.entries.len()), (first, 1));
    let entry = &listing.entries[0];
    assert_eq!(
        (entry.key.as_str(), entry.value.as_slice(), entry.created),
        ("a/1", &b"one"[..], first)
    );

    // Two ranges by one request; a third key is nobody's.
    let ranges = [KvRange::prefix("a/"), KvRange::key("b")];
    let watch = store.watch(&ranges, first).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    store.put("c", b"unseen", None).unwrap();
    store.put("b", b"two", None).unwrap();
    assert_eq!(change(&watch), ("b".to_owned(), b"two".to_vec()));

    // A comparison that does not hold is answered with what is there.
    let lost = store
        .cas(&set("a/1", KvCondition::Absent("a/1".to_owned())))
        .unwrap();
    assert!(matches!(lost, CasOutcome::Lost(there) if there[0].value == b"one"));
    let lost = store
        .cas(&set(
            "a/1",
            KvCondition::Modified("a/1".to_owned(), first + 1),
        ))
        .unwrap();
    assert!(matches!(lost, CasOutcome::Lost(_)));
    let lost = store
        .cas(&set(
            "a/1",
            KvCondition::Created("a/1".to_owned(), first + 1),
        ))
        .unwrap();
    assert!(matches!(lost, CasOutcome::Lost(_)));
    let won = store
        .cas(&set("a/1", KvCondition::Created("a/1".to_owned(), first)))
        .unwrap();
    let CasOutcome::Won(second) = won else {
        panic!("{won:?}");
    };
    assert_eq!(change(&watch), ("a/1".to_owned(), b"new".to_vec()));
    assert!(matches!(
        store
            .cas(&set("a/1", KvCondition::Modified("a/1".to_owned(), second)))
            .unwrap(),
        CasOutcome::Won(_)
    ));
    assert_eq!(change(&watch).0, "a/1");

    let lease = store.alive(None, MINUTE).unwrap();
    store.put("a/2", b"leased", Some(&lease)).unwrap();
    assert_eq!(store.alive(Some(&lease), MINUTE).unwrap(), lease);
    let leased = store.list(&KvRange::key("a/2")).unwrap();
    assert_eq!(leased.entries[0].lease.as_ref(), Some(&lease));
    server.ask(0, "/v3/lease/revoke", &serde_json::json!({"ID": lease.0}));
    assert_eq!(
        store.alive(Some(&lease), MINUTE).unwrap_err().trouble,
        KvTrouble::Gone
    );
    assert_eq!(
        store.put("a/2", b"x", Some(&lease)).unwrap_err().trouble,
        KvTrouble::Gone
    );
    assert_eq!(change(&watch).0, "a/2");
    assert!(matches!(next(&watch).unwrap(), KvNews::Changes(gone)
        if matches!(&gone[..], [KvChange::Deleted { key, .. }] if key == "a/2")));

    store.delete(&KvRange::prefix("a/")).unwrap();
    assert!(
        store
            .list(&KvRange::prefix("a/"))
            .unwrap()
            .entries
            .is_empty()
    );
}

#[test]
fn etcd_lists_by_pages() {
    let Some(server) = EtcdServer::start() else {
        return;
    };
    let store = client(&server.urls());
    let puts = |from: usize| {
        let writes = (from..from + 120).map(|n| KvWrite::Put {
            key: format!("a/{n:04}"),
            value: n.to_string().into_bytes(),
            lease: None,
        });
        KvTransaction {
            conditions: Vec::new(),
            writes: writes.collect(),
        }
    };
    for from in (0..1200).step_by(120) {
        assert!(matches!(
            store.cas(&puts(from)).unwrap(),
            CasOutcome::Won(_)
        ));
    }
    let range = KvRange::prefix("a/");
    let all = store.list(&range).unwrap().entries;
    let keys: Vec<usize> = all
        .iter()
        .map(|one| one.key[2..].parse().unwrap())
        .collect();
    assert_eq!(keys, (0..1200).collect::<Vec<_>>());
    let some = store
        .list(&range.clone().starting("a/0699").at_most(501))
        .unwrap()
        .entries;
    assert_eq!(
        (some.len(), some[0].key.as_str(), some[500].key.as_str()),
        (501, "a/0699", "a/1199")
    );
    let few = store.list(&range.at_most(3)).unwrap().entries;
    assert_eq!(few.len(), 3);
    // One more than etcd takes is refused before anything is sent.
    let mut many = puts(0);
    many.writes.extend(puts(120).writes.into_iter().take(9));
    assert_eq!(store.cas(&many).unwrap_err().trouble, KvTrouble::Refused);
}

#[test]
fn what_strangers_write_ends_no_list_and_fills_no_memory() {
    let Some(server) = EtcdServer::start() else {
        return;
    };
    let store = client(&server.urls());
    let base64 = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let watch = store.watch(&[KvRange::prefix("a/")], 0).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    // More keys than a page has, none of which is text: as text it would stand behind itself.
    for from in (0..600).step_by(100) {
        let put = |n: u32| {
            let key = [&b"a/\xff"[..], &n.to_be_bytes()].concat();
            serde_json::json!({"request_put": {"key": base64(&key), "value": ""}})
        };
        let puts: Vec<_> = (from..from + 100).map(put).collect();
        server.ask(0, "/v3/kv/txn", &serde_json::json!({"success": puts}));
    }
    assert_eq!(
        store.list(&KvRange::prefix("a/")).unwrap().entries.len(),
        600
    );
    // More than one answer may have.
    let large = base64(&vec![b'x'; 1_400_000]);
    for n in 0..18 {
        let key = base64(format!("b/{n:02}").as_bytes());
        let put = serde_json::json!({"key": key, "value": large});
        server.ask(0, "/v3/kv/put", &put);
    }
    store.put("b/last", b"small", None).unwrap();
    let entries = store.list(&KvRange::prefix("b/")).unwrap().entries;
    let lengths: Vec<usize> = entries.iter().map(|one| one.value.len()).collect();
    assert_eq!(lengths, [vec![VALUE_LEN_MAX; 18], vec![5]].concat());
    drop(watch);
    let watch = store.watch(&[KvRange::key("b/00")], 0).unwrap();
    assert_eq!(change(&watch).1.len(), VALUE_LEN_MAX);
}

#[test]
fn a_watch_says_how_it_ended() {
    let Some(mut server) = EtcdServer::start() else {
        return;
    };
    let store = client(&server.urls());
    let range = [KvRange::prefix("a/")];
    let first = store.put("a/1", b"one", None).unwrap();
    for n in 0..5 {
        store.put("a/1", &[n], None).unwrap();
    }
    let last = store.list(&range[0]).unwrap().revision;
    server.ask(
        0,
        "/v3/kv/compaction",
        &serde_json::json!({"revision": last.to_string()}),
    );
    let compacted = store.watch(&range, first).unwrap();
    assert_eq!(end(&compacted).trouble, KvTrouble::Compacted);
    let early = store.watch(&range, last + 50).unwrap();
    assert_eq!(end(&early).trouble, KvTrouble::Behind);

    // Killed, and started again: what came meanwhile is listed, and the next watch goes on.
    let watch = store.watch(&range, last).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    server.kill(0);
    assert_eq!(end(&watch).trouble, KvTrouble::Unavailable);
    assert_eq!(
        store.list(&range[0]).unwrap_err().trouble,
        KvTrouble::Unavailable
    );
    let refused = store.watch(&range, last).unwrap();
    assert_eq!(end(&refused).trouble, KvTrouble::Unavailable);
    server.start_again(0);
    store.put("a/1", b"again", None).unwrap();
    let watch = store.watch(&range, last).unwrap();
    assert_eq!(change(&watch).1, b"again");

    // Asked to end, it says so on a last line.
    server.stop(0);
    let ended = end(&watch);
    assert_eq!(ended.trouble, KvTrouble::Unavailable);
    server.start_again(0);

    // Frozen, it says nothing at all.
    let hasty = EtcdStore::new(EtcdOptions {
        silence: Duration::from_secs(1),
        call_max: Duration::from_secs(1),
        ..options(&server.urls())
    });
    let hasty = hasty.unwrap();
    let watch = hasty.watch(&range, last).unwrap();
    assert_eq!(change(&watch).1, b"again");
    server.signal(0, "-STOP");
    assert_eq!(end(&watch).trouble, KvTrouble::Unavailable);
    assert_eq!(
        hasty.put("a/1", b"?", None).unwrap_err().trouble,
        KvTrouble::Unknown
    );
    server.signal(0, "-CONT");
    // Dropping a watch ends its request.
    let watch = store.watch(&range, last).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    let news = watch.news.clone();
    drop(watch);
    while news.recv_timeout(PATIENCE).is_ok_and(|one| one.is_ok()) {}
}

#[test]
fn etcd_that_is_full_takes_nothing_and_can_be_read() {
    let Some(server) = EtcdServer::with(1, &["--quota-backend-bytes", "2000000"]) else {
        return;
    };
    let store = client(&server.urls());
    let large = vec![b'x'; 400_000];
    let mut puts = (0..12).map(|n| store.put(&format!("a/{n}"), &large, None));
    let full = puts.find_map(Result::err).expect("it becomes full");
    assert_eq!(full.trouble, KvTrouble::NoSpace);
    assert!(
        full.message
            .ends_with("space exceeded, compact + defrag + disarm"),
        "{full}"
    );
    let listing = store.list(&KvRange::prefix("a/")).unwrap();
    assert!(!listing.entries.is_empty());
    let too_large = vec![b'x'; 2_200_000];
    assert_eq!(
        store.put("b", &too_large, None).unwrap_err().trouble,
        KvTrouble::Refused
    );
}

#[test]
fn a_host_of_etcd_has_its_own_keys() {
    let Some(server) = EtcdServer::start() else {
        return;
    };
    let urls = server.urls();
    // Until users are switched on, one who would log in goes on without.
    let host = as_host(&urls, "secret");
    host.put("status/h1/app", b"1", None).unwrap();
    server.with_users(&[("desired/", "READ"), ("status/h1/", "READWRITE")]);
    host.put("status/h1/app", b"2", None).unwrap();
    host.list(&KvRange::prefix("desired/")).unwrap();
    let trouble = |result: Result<i64, KvError>| result.unwrap_err().trouble;
    assert_eq!(
        trouble(host.put("status/h2/app", b"2", None)),
        KvTrouble::Denied
    );
    assert_eq!(
        trouble(host.put("desired/app", b"2", None)),
        KvTrouble::Denied
    );
    let watch = host.watch(&[KvRange::prefix("desired/")], 0).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    let all = host.watch(&[KvRange::prefix("status/")], 0).unwrap();
    assert_eq!(end(&all).trouble, KvTrouble::Denied);
    // A token that is not known any longer is fetched anew, for a watch as well.
    let spoil = || *host.0.token.lock().unwrap() = Some("odd.1".to_owned());
    spoil();
    host.put("status/h1/app", b"3", None).unwrap();
    spoil();
    let watch = host.watch(&[KvRange::prefix("desired/")], 0).unwrap();
    assert_eq!(next(&watch).unwrap(), KvNews::Watching);
    assert_eq!(
        trouble(as_host(&urls, "wrong").put("status/h1/app", b"4", None)),
        KvTrouble::Denied
    );
    assert_eq!(
        trouble(client(&urls).put("status/h1/app", b"4", None)),
        KvTrouble::Denied
    );
    let anonymous = client(&urls)
        .watch(&[KvRange::prefix("desired/")], 0)
        .unwrap();
    assert_eq!(end(&anonymous).trouble, KvTrouble::Denied);
}

#[test]
fn a_node_without_a_leader_is_left_for_another() {
    let Some(mut server) = EtcdServer::with(3, &[]) else {
        return;
    };
    let range = [KvRange::prefix("a/")];
    let store = client(&server.urls());
    store.put("a/1", b"one", None).unwrap();
    // One node goes, whichever it is: the others go on, and so does who asks them.
    let (mine, _) = store.0.endpoint();
    server.kill(mine);
    assert_eq!(store.list(&range[0]).unwrap().entries.len(), 1);
    let (mine, _) = store.0.endpoint();
    let watch = store.watch(&range, 0).unwrap();
    // A second one goes, and the node that is left is a minority.
    let other = (0..3)
        .find(|at| *at != mine && server.is_running(*at))
        .unwrap();
    server.kill(other);
    let ended = end(&watch);
    assert_eq!(ended.trouble, KvTrouble::Unavailable, "{ended}");
    let refused = store.watch(&range, 0).unwrap();
    assert_eq!(end(&refused).trouble, KvTrouble::Unavailable);
    server.start_again(other);
    assert_eq!(store.list(&range[0]).unwrap().entries.len(), 1);
}

/// An authority, and what it has signed for the two ends, in a directory.
fn certificates(dir: &std::path::Path) {
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let ca = [
        "req",
        "-x509",
        "-subj",
        "/CN=test-ca",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
    ];
    openssl(&[&ca[..], &key[..]].concat());
    for (name, usage) in [
        ("server", "serverAuth,clientAuth"),
        ("half", "serverAuth"),
        ("client", "clientAuth"),
    ] {
        let (key_file, request, out) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        let asked = [
            "req", "-subj", "/CN=x", "-keyout", &key_file, "-out", &request,
        ];
        openssl(&[&asked[..], &key[..]].concat());
        let extensions = format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n");
        std::fs::write(dir.join("extensions"), extensions).unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            &out,
        ]);
    }
}

#[test]
fn etcd_may_want_a_certificate() {
    if !crate::needs::have("openssl") || !crate::needs::have("etcd") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("gangplank-etcd-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    certificates(&dir);
    let file = |name: &str| dir.join(name);
    let launch = |name: &str| {
        let flag = |name: &str, of: &str| format!("--{name}={}", file(of).display());
        let flags = [
            flag("cert-file", &format!("{name}.pem")),
            flag("key-file", &format!("{name}.key")),
            flag("trusted-ca-file", "ca.pem"),
            "--client-cert-auth=true".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        EtcdServer::with(1, &flags).unwrap()
    };
    let server = launch("server");
    let store_at = |urls: &str, ca: Option<&str>, certificate: Option<(&str, &str)>| {
        EtcdStore::new(EtcdOptions {
            ca: ca.map(file),
            certificate: certificate.map(|(certificate, key)| (file(certificate), file(key))),
            ..options(urls)
        })
    };
    let urls = server.urls();
    let store = |ca, certificate| store_at(&urls, ca, certificate);
    let own = Some(("client.pem", "client.key"));
    let known = store(Some("ca.pem"), own).unwrap();
    // It listens before it answers.
    let start = std::time::Instant::now();
    while known.put("a", b"1", None).is_err() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let watch = known.watch(&[KvRange::key("a")], 0).unwrap();
    assert_eq!(change(&watch).1, b"1");
    let nameless = store(Some("ca.pem"), None)
        .unwrap()
        .put("a", b"2", None)
        .unwrap_err();
    assert!(nameless.message.contains("certificate"), "{nameless}");
    let doubtful = store(None, own).unwrap().put("a", b"2", None).unwrap_err();
    assert_eq!(doubtful.trouble, KvTrouble::Unavailable, "{doubtful}");
    for (ca, certificate) in [
        (Some("absent.pem"), own),
        (Some("ca.key"), own),
        (None, Some(("ca.key", "client.key"))),
        (None, Some(("client.pem", "client.pem"))),
    ] {
        assert!(store(ca, certificate).is_err(), "{ca:?} {certificate:?}");
    }
    // A certificate for servers alone does not do for etcd, whose gateway is a client of it.
    let half = launch("half");
    let store = store_at(&half.urls(), Some("ca.pem"), own).unwrap();
    let start = std::time::Instant::now();
    loop {
        let refused = store.list(&KvRange::key("a")).unwrap_err();
        let watch = store.watch(&[KvRange::key("a")], 0).unwrap();
        if [refused, end(&watch)]
            .iter()
            .all(|one| one.message.contains("needs clientAuth"))
        {
            break;
        }
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
