use super::*;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a host does when it is asked once.
#[derive(Clone)]
enum Does {
    /// Sends these bytes from where it is asked to, and ends.
    Sends(Vec<u8>),
    /// The same, but the connection breaks after so many.
    Breaks(Vec<u8>, usize),
    /// The same, but from the beginning, whatever it is asked.
    SendsAll(Vec<u8>),
    Says(HolderAnswer),
}

/// Hosts that do one thing after the other; the last one goes on.
struct Script {
    hosts: Mutex<HashMap<String, VecDeque<Does>>>,
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

impl AskHolder for Script {
    fn ask(
        &self,
        holder: &PayloadHolder,
        part: &mut PartialPayload,
        _: &Stop,
    ) -> Result<HolderAnswer, Refusal> {
        lock(&self.asked).push((holder.name.clone(), part.length));
        let mut hosts = lock(&self.hosts);
        let todo = hosts.get_mut(&holder.name).unwrap();
        let does = match todo.len() {
            1 => todo[0].clone(),
            _ => todo.pop_front().unwrap(),
        };
        let from = usize::try_from(part.length).unwrap();
        match does {
            Does::Sends(bytes) => {
                part.begins_at(&holder.name, part.length)?;
                part.take(bytes.get(from..).unwrap_or_default())?;
                Ok(HolderAnswer::Ended)
            }
            Does::Breaks(bytes, count) => {
                part.begins_at(&holder.name, part.length)?;
                part.take(&bytes[from..from + count])?;
                Ok(HolderAnswer::Broken("cut".into()))
            }
            Does::SendsAll(bytes) => {
                part.begins_at(&holder.name, 0)?;
                part.take(&bytes)?;
                Ok(HolderAnswer::Ended)
            }
            Does::Says(answer) => Ok(answer),
        }
    }
}

struct Run {
    result: Result<Vec<u8>, (Code, String)>,
    asked: Vec<(String, u64)>,
    told: Vec<String>,
}

const GOOD: &[u8] = b"0123456789";

/// Fetches `GOOD` from these hosts, the last of them the origin.
fn run(name: &str, hosts: &[(&str, &[Does])], left: &[u8]) -> Run {
    let dir = std::env::temp_dir().join(format!("gangplank-holders-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let store = Store::open(&dir, Duration::ZERO).unwrap();
    let sha256 = hex::encode(Sha256::digest(GOOD));
    if !left.is_empty() {
        fs::create_dir_all(store.fetched_payloads()).unwrap();
        fs::write(store.partly_fetched_payload(&sha256), left).unwrap();
        fs::write(store.partly_fetched_payload("other"), left).unwrap();
    }
    let script = hosts.iter().map(|(name, does)| {
        let does: VecDeque<Does> = does.iter().cloned().collect();
        ((*name).to_owned(), does)
    });
    let asked = Arc::default();
    let script = Script {
        hosts: Mutex::new(script.collect()),
        asked: Arc::clone(&asked),
    };
    let fetcher = PayloadFetcher::asking(Box::new(script), Duration::ZERO);
    let holder = |(name, _): &(&str, &[Does])| PayloadHolder {
        name: (*name).to_owned(),
        url: format!("http://{name}"),
        is_near: name.starts_with("near"),
    };
    let mut all: Vec<PayloadHolder> = hosts.iter().map(holder).collect();
    let origin = all.pop();
    let wanted = WantedPayload {
        project: "demo",
        sha256: &sha256,
        size: GOOD.len() as u64,
    };
    let mut told = Vec::new();
    let result = fetcher.fetch_into(
        &store,
        &wanted,
        &mut || PayloadHolders {
            others: all.clone(),
            origin: origin.clone(),
        },
        &Stop::never(),
        &mut |text| told.push(text.to_owned()),
    );
    let result = result.map(|mut payload| {
        let mut bytes = Vec::new();
        payload.file.read_to_end(&mut bytes).unwrap();
        // Whoever asks this host has it now.
        assert_eq!(fs::read(store.fetched_payload(&sha256)).unwrap(), bytes);
        bytes
    });
    if result.is_ok() {
        assert_eq!(fs::read_dir(store.fetched_payloads()).unwrap().count(), 0);
    }
    let result = result.map_err(|refusal| (refusal.code, refusal.message));
    let _ = fs::remove_dir_all(&dir);
    let asked = lock(&asked).clone();
    Run {
        result,
        asked,
        told,
    }
}

fn names(run: &Run) -> Vec<(&str, u64)> {
    run.asked.iter().map(|(name, at)| (&**name, *at)).collect()
}

#[test]
fn the_origin_is_asked_last() {
    let sends = [Does::Sends(GOOD.to_vec())];
    let fetched = run("last", &[("a", &sends), ("origin", &sends)], b"");
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
    assert_eq!(names(&fetched), [("a", 0)]);
    let lacks = [Does::Says(HolderAnswer::Lacks)];
    let fetched = run("lacks", &[("a", &lacks), ("origin", &sends)], b"");
    assert_eq!(names(&fetched), [("a", 0), ("origin", 0)]);
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
}

#[test]
fn hosts_of_the_same_place_are_asked_first() {
    let (lacks, sends) = (
        [Does::Says(HolderAnswer::Lacks)],
        [Does::Sends(GOOD.to_vec())],
    );
    let hosts: [(&str, &[Does]); 7] = [
        ("far-1", &lacks),
        ("near-1", &lacks),
        ("far-2", &lacks),
        ("near-2", &lacks),
        ("near-3", &lacks),
        ("far-3", &lacks),
        ("origin", &sends),
    ];
    let fetched = run("near", &hosts, b"");
    let asked = names(&fetched);
    let places: Vec<&str> = asked
        .iter()
        .filter_map(|(name, _)| name.split('-').next())
        .collect();
    assert_eq!(
        places,
        ["near", "near", "near", "far", "far", "far", "origin"]
    );
}

#[test]
fn what_breaks_off_goes_on_elsewhere_from_where_it_stood() {
    let breaks = [Does::Breaks(GOOD.to_vec(), 4)];
    let sends = [Does::Sends(GOOD.to_vec())];
    let fetched = run("cut", &[("a", &breaks), ("origin", &sends)], b"");
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
    assert_eq!(names(&fetched), [("a", 0), ("origin", 4)]);
    // What an earlier server left counts too, and what it left of others is removed.
    let fetched = run("left", &[("origin", &sends)], &GOOD[..7]);
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
    assert_eq!(names(&fetched), [("origin", 7)]);
    // A host that does not know parts begins at the beginning.
    let all = [Does::SendsAll(GOOD.to_vec())];
    let fetched = run("all", &[("a", &breaks), ("origin", &all)], b"");
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
}

#[test]
fn a_host_that_sends_something_else_is_told_and_not_asked_again() {
    let wrong = [Does::Sends(b"9876543210".to_vec())];
    let long = [Does::Sends(b"01234567890".to_vec())];
    let sends = [Does::Says(HolderAnswer::Busy), Does::Sends(GOOD.to_vec())];
    for bad in [&wrong, &long] {
        let fetched = run("bad", &[("a", bad), ("origin", &sends)], b"");
        assert_eq!(fetched.result.as_deref(), Ok(GOOD));
        assert_eq!(names(&fetched), [("a", 0), ("origin", 0), ("origin", 0)]);
        assert!(fetched.told.len() == 1 && fetched.told[0].starts_with("a sent another payload"));
    }
}

#[test]
fn of_several_that_made_a_wrong_whole_each_has_to_send_all() {
    // Nobody knows whether the first half or the second was wrong.
    let half = [
        Does::Breaks(b"9876543210".to_vec(), 5),
        Does::Sends(b"9876543210".to_vec()),
    ];
    let sends = [Does::Sends(GOOD.to_vec())];
    let fetched = run("mixed", &[("a", &half), ("origin", &sends)], b"");
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
    assert_eq!(
        names(&fetched),
        [("a", 0), ("origin", 5), ("a", 0), ("origin", 0)]
    );
    assert_eq!(fetched.told.len(), 1);
    // And so it is with what an earlier server left.
    let fetched = run("stale", &[("origin", &sends)], b"xxxx");
    assert_eq!(fetched.result.as_deref(), Ok(GOOD));
    assert_eq!(names(&fetched), [("origin", 4), ("origin", 0)]);
}

#[test]
fn it_gives_up_and_says_why() {
    let lacks = [Does::Says(HolderAnswer::Lacks)];
    let broken = [Does::Says(HolderAnswer::Broken("refused".into()))];
    let wrong = [Does::Sends(b"9876543210".to_vec())];
    type Hosts<'a> = &'a [(&'a str, &'a [Does])];
    let table: [(Hosts<'_>, Code, &str); 4] = [
        (
            &[("a", &lacks), ("b", &lacks)],
            Code::NotFound,
            "no host has it any longer",
        ),
        (
            &[("a", &lacks), ("b", &broken)],
            Code::FetchFailed,
            "b: refused",
        ),
        (
            &[("a", &wrong)],
            Code::FetchFailed,
            "there is no host to ask",
        ),
        (&[], Code::FetchFailed, "there is no host to ask"),
    ];
    for (hosts, code, why) in table {
        let (found, message) = run("gives-up", hosts, b"").result.unwrap_err();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(why), "{message}");
    }
}
