//! Whole deployments, as they stand in a log or on a terminal in the end.

use super::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A writer that others can read.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const AROUND: Surroundings = Surroundings {
    terminal: true,
    ci: false,
    dumb: false,
    runner: None,
    no_color: true,
    utf8: false,
    columns: || 80,
};

/// A screen with its tape and its clock.
struct Stage {
    screen: Screen,
    tape: Tape,
    now: Arc<Mutex<Instant>>,
}

impl Stage {
    fn new(progress: Progress, raw: bool, around: Surroundings) -> Stage {
        let tape = Tape::default();
        let now = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&now);
        let clock = Box::new(move || *clock.lock().unwrap());
        let screen = Screen::with(progress, raw, around, Box::new(tape.clone()), clock);
        Stage { screen, tape, now }
    }

    fn pass(&self, ms: u64) {
        *self.now.lock().unwrap() += Duration::from_millis(ms);
    }

    /// What was written since the last time.
    fn written(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.tape.0.lock().unwrap())).unwrap()
    }

    fn install(&mut self, line: &str) {
        let data =
            serde_json::json!({"manager": "npm", "stream": "stdout", "line": line}).to_string();
        self.screen.record(Some("9"), "install", &data);
    }
}

const MIB: u64 = 1 << 20;

/// A deployment with all that can happen, as records of a stream.
const RECORDS: &[(&str, &str)] = &[
    (
        "deployment",
        r#"{"deployment_id":"0198c0de-0000-7000-8000-000000000001","project":"demo"}"#,
    ),
    ("phase", r#"{"phase":"extract","status":"start","at":1}"#),
    (
        "phase",
        r#"{"phase":"extract","status":"done","at":2,"elapsed_ms":420,"files":3}"#,
    ),
    ("phase", r#"{"phase":"install","status":"start","at":3}"#),
    (
        "install",
        r#"{"manager":"npm","stream":"stdout","line":"added 42 packages in 3s"}"#,
    ),
    (
        "install",
        r#"{"manager":"npm","stream":"stderr","line":"\u001b[33mnpm warn\u001b[0m ##[set-env]"}"#,
    ),
    (
        "install",
        r#"{"manager":"npm","stream":"stdout","line":"::set-output name=a::b"}"#,
    ),
    (
        "phase",
        r#"{"phase":"install","status":"done","at":4,"elapsed_ms":12345}"#,
    ),
    ("future", r#"{"a": 1}"#),
    ("warning", r#"{"message":"::low disk 50%"}"#),
    ("phase", r#"{"phase":"load","status":"start"}"#),
    (
        "peer",
        r#"{"peer":"two","event":"phase","data":{"phase":"install","status":"start"}}"#,
    ),
    (
        "peer",
        r#"{"peer":"two","event":"warning","data":{"message":"slow"}}"#,
    ),
    (
        "phase",
        r#"{"phase":"load","status":"error","message":"Procfile line 2: no command"}"#,
    ),
    (
        "error",
        r#"{"message":"loading: Procfile line 2: no command","code":"load_failed","phase":"load"}"#,
    ),
];

fn deployment(stage: &mut Stage) {
    stage.screen.upload(3 * MIB / 10, 10 * MIB);
    stage.pass(1000);
    stage.screen.upload(4_404_020, 10 * MIB);
    stage.pass(1000);
    stage.screen.uploaded(10 * MIB);
    for (id, (event, data)) in (1..).zip(RECORDS) {
        let id = (id as u64).to_string();
        stage.screen.record(Some(&id), event, data);
        stage.pass(150);
        stage.screen.tick();
    }
    stage.screen.remark("connecting again");
    stage.screen.finish();
}

#[test]
fn a_deployment_in_plain() {
    let mut stage = Stage::new(Progress::Plain, false, AROUND);
    deployment(&mut stage);
    assert_eq!(
        stage.written(),
        "\
Uploaded 4.2 MiB / ~10.0 MiB (40%)
Uploaded 10.0 MiB / ~10.0 MiB (100%)
deployment 0198c0de-0000-7000-8000-000000000001
extract...
extract done (0.4s)
install...
install: using npm
  | added 42 packages in 3s
  ! npm warn ## [set-env]
  | ::set-output name=a::b
install done (3 log lines, 12.3s)
warning: ::low disk 50%
load...
[two] install...
warning: [two] slow
load ERROR: Procfile line 2: no command
error: loading: Procfile line 2: no command (load_failed)
connecting again
"
    );
}

#[test]
fn a_deployment_for_github() {
    let mut stage = Stage::new(Progress::Github, true, AROUND);
    deployment(&mut stage);
    assert_eq!(
        stage.written(),
        "\
Uploaded 4.2 MiB / ~10.0 MiB (40%)
Uploaded 10.0 MiB / ~10.0 MiB (100%)
deployment 0198c0de-0000-7000-8000-000000000001
::group::extract
extract done (0.4s)
::endgroup::
::group::install
install: using npm
  | added 42 packages in 3s
  ! \x1b[33mnpm warn\x1b[0m ## [set-env]
  | ::set-output name=a::b
install done (3 log lines, 12.3s)
::endgroup::
::warning::::low disk 50%25
::group::load
[two] install...
::warning::[two] slow
load ERROR: Procfile line 2: no command
::endgroup::
::error::loading: Procfile line 2: no command (load_failed)
connecting again
"
    );
}

#[test]
fn a_deployment_for_gitlab_and_for_buildkite() {
    // The times of GitLab's marks are left out.
    let expected = [
        (
            Progress::Gitlab,
            "\
Uploaded 4.2 MiB / ~10.0 MiB (40%)
Uploaded 10.0 MiB / ~10.0 MiB (100%)
deployment 0198c0de-0000-7000-8000-000000000001
<section_start:gangplank_extract>extract
extract done (0.4s)
<section_end:gangplank_extract>
<section_start:gangplank_install>install
install: using npm
  | added 42 packages in 3s
  ! npm warn ## [set-env]
  | ::set-output name=a::b
install done (3 log lines, 12.3s)
<section_end:gangplank_install>
warning: ::low disk 50%
<section_start:gangplank_load>load
[two] install...
warning: [two] slow
load ERROR: Procfile line 2: no command
<section_end:gangplank_load>
error: loading: Procfile line 2: no command (load_failed)
connecting again
",
        ),
        (
            Progress::Buildkite,
            "\
Uploaded 4.2 MiB / ~10.0 MiB (40%)
Uploaded 10.0 MiB / ~10.0 MiB (100%)
deployment 0198c0de-0000-7000-8000-000000000001
--- extract
extract done (0.4s)
--- install
install: using npm
  | added 42 packages in 3s
  ! npm warn ## [set-env]
  | ::set-output name=a::b
install done (3 log lines, 12.3s)
warning: ::low disk 50%
--- load
[two] install...
warning: [two] slow
load ERROR: Procfile line 2: no command
^^^ +++
error: loading: Procfile line 2: no command (load_failed)
+++ end
connecting again
",
        ),
    ];
    for (progress, expected) in expected {
        let mut stage = Stage::new(progress, false, AROUND);
        deployment(&mut stage);
        let mut written = stage.written();
        while let Some(at) = written.find("\x1b[0Ksection_") {
            let end = at + written[at..].find("\r\x1b[0K").unwrap();
            let mark = written[at + 4..end].to_owned();
            let mut parts = mark.split(':');
            let (word, time, name) = (parts.next(), parts.next(), parts.next());
            assert!(time.unwrap().parse::<u64>().unwrap() > 1_700_000_000);
            let mark = format!("<{}:{}>", word.unwrap(), name.unwrap());
            written.replace_range(at..end + 5, &mark);
        }
        assert_eq!(written, expected, "{progress:?}");
    }
}

#[test]
fn a_deployment_in_ndjson() {
    let mut stage = Stage::new(Progress::Ndjson, false, AROUND);
    deployment(&mut stage);
    stage.screen.warning("w");
    stage.screen.error("e", Some("busy"));
    stage.screen.record(None, "future", "not JSON\n::x");
    stage.screen.finish();
    let written = stage.written();
    let mut lines = written.lines();
    let mut expected = vec![
        r#"{"event":"upload","data":{"bytes":314572,"total":10485760}}"#.to_owned(),
        r#"{"event":"upload","data":{"bytes":4404020,"total":10485760}}"#.to_owned(),
        r#"{"event":"upload","data":{"bytes":10485760,"total":10485760}}"#.to_owned(),
    ];
    for (number, (event, data)) in (1..).zip(RECORDS) {
        let data = data.replace("{\"a\": 1}", "{\"a\":1}");
        let data = data.replace("##[", "##\\u005b");
        expected.push(format!(
            r#"{{"event":"{event}","id":"{number}","data":{data}}}"#
        ));
    }
    expected.extend([
        r#"{"event":"client","data":{"message":"connecting again"}}"#.to_owned(),
        r#"{"event":"client","data":{"message":"w","level":"warning"}}"#.to_owned(),
        r#"{"event":"client","data":{"message":"e","level":"error","code":"busy"}}"#.to_owned(),
        r#"{"event":"future","data":"not JSON\n::x"}"#.to_owned(),
    ]);
    for line in expected {
        assert_eq!(lines.next(), Some(&*line));
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn ndjson_reports_the_upload_ten_times_a_second_and_never_acts() {
    let mut stage = Stage::new(
        Progress::Ndjson,
        false,
        Surroundings {
            runner: Some(Progress::Github),
            ..AROUND
        },
    );
    for bytes in 0..1000 {
        stage.screen.upload(bytes, 1000);
        stage.pass(1);
    }
    stage.screen.tick();
    let written = stage.written();
    assert_eq!(written.lines().count(), 11);
    assert!(written.ends_with("{\"bytes\":999,\"total\":1000}}\n"));
    stage.screen.record(None, "a", r###"{"x":"##[y]"}"###);
    stage.screen.flush();
    assert_eq!(
        stage.written(),
        "{\"event\":\"a\",\"data\":{\"x\":\"##\\u005by]\"}}\n"
    );
}

#[test]
fn quiet_shows_errors_only() {
    let mut stage = Stage::new(Progress::Quiet, false, AROUND);
    deployment(&mut stage);
    stage.screen.warning("w");
    assert_eq!(
        stage.written(),
        "error: loading: Procfile line 2: no command (load_failed)\n"
    );
    stage.screen.error("a\nb\x1b", None);
    stage.screen.record(None, "error", "odd");
    assert_eq!(stage.written(), "error: a\n  b^[\nerror: odd\n");
}

#[test]
fn an_upload_ends_at_100_percent() {
    let table: [(&[u64], u64, &[&str]); 5] = [
        (&[], 0, &["Uploaded 0 B / ~0 B (100%)"]),
        (&[0], 0, &["Uploaded 0 B / ~0 B (100%)"]),
        (&[5], 5, &["Uploaded 5 B / ~5 B (100%)"]),
        (
            &[1, 2, 3],
            3,
            &[
                "Uploaded 1 B / ~3 B (30%)",
                "Uploaded 2 B / ~3 B (60%)",
                "Uploaded 3 B / ~3 B (100%)",
            ],
        ),
        (
            &[3, 2],
            3,
            &["Uploaded 2 B / ~3 B (60%)", "Uploaded 3 B / ~3 B (100%)"],
        ),
    ];
    for (reports, total, expected) in table {
        let mut stage = Stage::new(Progress::Plain, false, AROUND);
        for bytes in reports {
            stage.screen.upload(*bytes, total);
        }
        stage.screen.uploaded(total);
        stage.screen.uploaded(total);
        stage.screen.finish();
        assert_eq!(stage.written().lines().collect::<Vec<_>>(), expected);
    }
    // An upload that nobody declared complete is, once the server answers; one that was cut short is not.
    for (bytes, expected) in [
        (7, "Uploaded 7 B / ~7 B (100%)\nload...\n"),
        (1, "Uploaded 1 B / ~7 B (10%)\nload...\n"),
    ] {
        let mut stage = Stage::new(Progress::Plain, false, AROUND);
        stage.screen.upload(bytes, 7);
        stage
            .screen
            .record(None, "phase", r#"{"phase":"load","status":"start"}"#);
        stage.screen.finish();
        assert_eq!(stage.written(), expected);
    }
}

#[test]
fn silence_is_explained() {
    let mut stage = Stage::new(Progress::Plain, false, AROUND);
    let waited = |stage: &mut Stage, seconds: u64| {
        for _ in 0..seconds {
            stage.pass(1000);
            stage.screen.tick();
        }
        stage.written()
    };
    assert_eq!(waited(&mut stage, 9), "");
    assert_eq!(
        waited(&mut stage, 1),
        "still waiting for the server (10s)\n"
    );
    stage.screen.upload(1, 100);
    assert_eq!(
        waited(&mut stage, 11),
        "still waiting for the upload (10s)\n"
    );
    stage.screen.upload(2, 100);
    assert_eq!(waited(&mut stage, 9), "");
    stage.screen.uploaded(100);
    stage.written();
    assert_eq!(
        waited(&mut stage, 10),
        "Uploaded 100 B / ~100 B (100%)\nstill waiting for the answer of the server (10s)\n"
    );
    stage
        .screen
        .record(None, "phase", r#"{"phase":"install","status":"start"}"#);
    stage.screen.flush();
    assert_eq!(stage.written(), "install...\n");
    assert_eq!(
        waited(&mut stage, 75),
        "still waiting for install (10s)\nstill waiting for install (40s)\nstill waiting for install (1m10s)\n"
    );
    stage.screen.record(None, "done", r#"{"result":{}}"#);
    assert_eq!(waited(&mut stage, 100), "");
    // With `--wait` another deployment follows.
    stage.screen.upload(1, 100);
    assert_eq!(
        waited(&mut stage, 10),
        "still waiting for the upload (10s)\n"
    );
}

#[test]
fn a_command_that_is_answered_at_once_shows_no_live_line() {
    let mut stage = Stage::new(Progress::Bar, false, AROUND);
    stage.pass(400);
    stage.screen.tick();
    stage.screen.remark("r");
    assert_eq!(stage.written(), "r\n");
    stage.pass(100);
    stage.screen.tick();
    assert_eq!(
        terminal(&stage.written(), 80),
        ["/ waiting for the server (0s)"]
    );
    // What is said of a deployment is not held back for it.
    let mut stage = Stage::new(Progress::Bar, false, AROUND);
    stage.screen.record(None, RECORDS[0].0, RECORDS[0].1);
    stage.screen.flush();
    assert!(stage.written().starts_with("deployment 0198"));
}

#[test]
fn lines_are_gathered_until_flush_or_tick() {
    let mut stage = Stage::new(Progress::Plain, false, AROUND);
    stage.install("x");
    assert_eq!(stage.written(), "");
    stage.screen.flush();
    assert_eq!(stage.written(), "install: using npm\n  | x\n");
    stage.install("y");
    stage.screen.tick();
    assert_eq!(stage.written(), "  | y\n");
    stage.install("z");
    drop(stage.screen);
    assert_eq!(stage.tape.0.lock().unwrap().as_slice(), b"  | z\n");
}

/// What a runner must not obey.
const HOSTILE: &[&str] = &[
    "::error::x",
    " \t::add-path::x",
    "##[add-path]x",
    "a ##Vso[x]",
    "##teamcity[x]",
    "a\n::error::x",
    "a\r::error::x",
    "\x1b[1m::error::x",
    "\u{85}::x",
    "\u{feff}::x",
];

#[test]
fn no_relayed_text_is_a_command_to_a_ci_system() {
    for progress in [
        Progress::Github,
        Progress::Gitlab,
        Progress::Buildkite,
        Progress::Plain,
        Progress::Quiet,
        Progress::Bar,
        Progress::Auto,
        Progress::Ndjson,
    ] {
        let ways = [(false, false), (false, true), (true, false), (true, true)];
        let all = HOSTILE.iter().flat_map(|text| ways.map(|way| (text, way)));
        for (text, (raw, github)) in all {
            let around = Surroundings {
                runner: github.then_some(Progress::Github),
                terminal: false,
                ..AROUND
            };
            let mut stage = Stage::new(progress, raw, around);
            let value = serde_json::json!({
                "phase": text, "status": "start", "message": text, "manager": text, "stream": "stdout", "line": text, "type": text,
                "peer": text, "event": "warning", "data": {"message": text}, "code": text,
            });
            let mut other = value.clone();
            other["line"] = serde_json::Value::Null;
            for event in [
                "phase",
                "install",
                "process",
                "peer",
                "warning",
                "error",
                "deployment",
                *text,
            ] {
                stage.screen.record(Some(text), event, &value.to_string());
                stage.screen.record(Some(text), event, &other.to_string());
                stage.screen.record(Some(text), event, text);
            }
            stage.screen.remark(text);
            stage.screen.warning(text);
            stage.screen.error(text, Some(text));
            stage.screen.finish();
            let written = stage.written();
            let lower = written.to_ascii_lowercase();
            for command in ["##[", "##vso[", "##teamcity["] {
                assert!(!lower.contains(command), "{progress:?} {text:?}: {written}");
            }
            for line in written.split(['\n', '\r', '\u{85}', '\u{2028}']) {
                let start = line.trim_start_matches(|sign: char| {
                    sign.is_whitespace() || sign.is_control() || sign == '\u{feff}'
                });
                let start = start
                    .trim_start_matches("[1m")
                    .trim_start_matches("[2K")
                    .trim_start();
                let ours = ["::group::", "::endgroup::", "::error::", "::warning::"];
                let ours = matches!(progress, Progress::Github | Progress::Auto)
                    && ours.iter().any(|command| line.starts_with(command));
                assert!(
                    ours || !start.starts_with("::"),
                    "{progress:?} {text:?} {raw}: {line:?} in {written}"
                );
            }
        }
    }
}

/// What a terminal of some width shows in the end of what was written to it: its lines, without blanks at their end.
fn terminal(written: &str, columns: usize) -> Vec<String> {
    let (mut rows, mut row, mut column) = (vec![Vec::new()], 0, 0);
    let mut signs = written.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\r' => column = 0,
            '\n' => (row, column) = (row + 1, 0),
            '\x1b' => {
                let sequence: String = signs
                    .by_ref()
                    .take_while(|sign| !sign.is_ascii_alphabetic())
                    .collect();
                if sequence == "[2" {
                    rows[row].clear();
                }
            }
            _ => {
                if column == columns {
                    (row, column) = (row + 1, 0);
                }
                rows.resize(rows.len().max(row + 1), Vec::new());
                let width = rows[row].len().max(column + 1);
                rows[row].resize(width, ' ');
                rows[row][column] = sign;
                column += 1;
            }
        }
        rows.resize(rows.len().max(row + 1), Vec::new());
    }
    rows.iter()
        .map(|row| row.iter().collect::<String>().trim_end().to_owned())
        .collect()
}

#[test]
fn an_upload_of_somebody_else_is_a_live_line_too() {
    let mut stage = Stage::new(Progress::Auto, false, AROUND);
    let start = r#"{"phase":"extract","status":"start"}"#;
    stage.screen.record(None, "phase", start);
    stage
        .screen
        .record(None, "upload", r#"{"bytes":0,"total":10485760}"#);
    stage.pass(1000);
    stage
        .screen
        .record(None, "upload", r#"{"bytes":4404020,"total":10485760}"#);
    assert_eq!(
        terminal(&stage.written(), 80),
        [
            "extract...",
            "Uploading [############-----------------] 42% | 4.2 MiB / ~10.0 MiB | 4.2 MiB/s"
        ]
    );
    // Without a size that anybody knows.
    stage.pass(1000);
    stage.screen.record(None, "upload", r#"{"bytes":8388608}"#);
    assert_eq!(
        terminal(&stage.written(), 80),
        ["Uploading 8.0 MiB | 4.0 MiB/s"]
    );
    let done = r#"{"phase":"extract","status":"done","elapsed_ms":420,"payload_size":10485760}"#;
    stage.pass(1000);
    stage.screen.record(None, "phase", done);
    stage.screen.finish();
    let shown = terminal(&stage.written(), 80);
    assert!(
        shown[0].starts_with("Uploading [####") && shown[0].contains("] 100% | 10.0 MiB"),
        "{shown:?}"
    );
    assert_eq!(shown[1..], ["extract done (0.4s)", ""]);
}

#[test]
fn a_deployment_on_a_terminal() {
    let mut stage = Stage::new(Progress::Auto, false, AROUND);
    stage.screen.upload(0, 10 * MIB);
    stage.pass(1000);
    stage.screen.upload(4_404_020, 10 * MIB);
    assert_eq!(
        terminal(&stage.written(), 80),
        ["Uploading [############-----------------] 42% | 4.2 MiB / ~10.0 MiB | 4.2 MiB/s"]
    );
    stage.pass(1000);
    stage.screen.uploaded(10 * MIB);
    let shown = terminal(&stage.written(), 80);
    assert_eq!(
        shown,
        [
            "Uploading [###########################] 100% | 10.0 MiB / ~10.0 MiB | 5.0 MiB/s",
            "| waiting for the answer (0s)"
        ]
    );
    for (event, data) in &RECORDS[..5] {
        stage.screen.record(None, event, data);
    }
    stage.pass(2000);
    stage.screen.tick();
    let shown = terminal(&stage.written(), 80);
    assert_eq!(
        shown[1..5],
        [
            "extract...",
            "extract done (0.4s)",
            "install...",
            "install: using npm"
        ]
    );
    assert_eq!(
        shown[5..],
        ["  | added 42 packages in 3s", "| install (1 log line, 2s)"]
    );
    for (event, data) in &RECORDS[5..] {
        stage.screen.record(None, event, data);
    }
    stage.screen.finish();
    let written = stage.written();
    assert!(written.starts_with("\r\x1b[2K  ! "), "{written:?}");
    let shown = terminal(&written, 80);
    assert_eq!(
        shown[shown.len() - 2..],
        [
            "error: loading: Procfile line 2: no command (load_failed)",
            ""
        ]
    );
    // Afterwards there is no live line any longer.
    stage.screen.error("late", None);
    stage.pass(1000);
    stage.screen.tick();
    stage.screen.finish();
    drop(stage.screen);
    assert_eq!(stage.tape.0.lock().unwrap().as_slice(), b"error: late\n");
}

#[test]
fn the_live_line_never_wraps_and_is_drawn_ten_times_a_second() {
    let narrow: [(fn() -> u16, usize); 6] = [
        (|| 0, 1),
        (|| 1, 1),
        (|| 2, 2),
        (|| 12, 12),
        (|| 30, 30),
        (|| 60, 60),
    ];
    for (columns, width) in narrow {
        let mut stage = Stage::new(Progress::Bar, false, Surroundings { columns, ..AROUND });
        for bytes in 0..100 {
            stage.screen.upload(bytes * MIB, 100 * MIB);
            stage.pass(10);
        }
        let written = stage.written();
        assert_eq!(terminal(&written, width).len(), 1, "{width}: {written:?}");
        let drawn = written.matches("Upl").count();
        assert!(width < 4 || (9..=10).contains(&drawn), "{width}: {drawn}");
        stage.screen.record(
            None,
            "phase",
            &format!(
                r#"{{"phase":"{}\u6f22","status":"start"}}"#,
                "x".repeat(100)
            ),
        );
        stage.screen.flush();
        stage.written();
        for _ in 0..100 {
            stage.pass(10);
            stage.screen.tick();
        }
        assert_eq!(terminal(&stage.written(), width).len(), 1);
        drop(stage.screen);
        assert_eq!(stage.tape.0.lock().unwrap().as_slice(), b"\r\x1b[2K");
    }
}

#[test]
fn the_table_of_hosts_is_as_wide_as_the_terminal_and_whole_in_a_log() {
    let why = "building demo: ".to_owned() + &"the disk is full ".repeat(12);
    let end = serde_json::json!({"result": {"message": "done", "peer_results": [
        {"node": "two", "status": "failed", "error": why, "started_at": 0, "completed_at": 1000},
    ]}})
    .to_string();
    for (progress, columns, rows) in [(Progress::Bar, 80, 5), (Progress::Plain, 300, 2)] {
        let mut stage = Stage::new(progress, false, AROUND);
        stage.screen.record(Some("1"), "done", &end);
        stage.screen.finish();
        let written = stage.written();
        let shown: Vec<&str> = written
            .lines()
            .map(|line| line.rsplit('\r').next().unwrap_or_default())
            .map(|line| line.trim_start_matches("\x1b[2K"))
            .skip_while(|line| !line.starts_with("HOST"))
            .collect();
        assert_eq!(shown.len(), rows, "{written:?}");
        assert!(
            shown.iter().all(|line| line.len() <= columns),
            "{written:?}"
        );
    }
}

#[test]
fn a_screen_gives_way_to_what_is_printed_beside_it() {
    for (progress, waiting) in [
        (Progress::Bar, "waiting for the first line (1s)"),
        (Progress::Plain, ""),
    ] {
        let mut stage = Stage::new(progress, false, AROUND);
        stage.screen.waits_for("waiting for the first line");
        stage.pass(1000);
        stage.screen.tick();
        assert!(stage.written().contains(waiting));
        stage.screen.gives_way();
        let cleared = stage.written();
        assert_eq!(
            cleared.ends_with("\r\x1b[2K"),
            !waiting.is_empty(),
            "{cleared:?}"
        );
        for _ in 0..600 {
            stage.pass(100);
            stage.screen.tick();
        }
        assert_eq!(stage.written(), "", "{progress:?}");
        // What went wrong is said all the same.
        stage.screen.remark("trying again");
        stage.screen.flush();
        assert_eq!(stage.written(), "trying again\n", "{progress:?}");
    }
}

#[test]
fn a_burst_is_printed_in_few_pieces_and_loses_nothing() {
    let mut stage = Stage::new(Progress::Bar, false, AROUND);
    stage.pass(1000);
    let long = "y".repeat(300);
    for number in 0..100_000 {
        stage.install(if number % 100 == 0 {
            &long
        } else {
            "some line that npm prints"
        });
        stage.screen.flush();
        if number % 100 == 0 {
            stage.pass(1);
        }
    }
    stage.screen.finish();
    let written = stage.written();
    // A second of lines: ten redraws, and some lines printed between them.
    assert!(written.matches("log lines,").count() <= 11);
    assert_eq!(written.matches("  | ").count(), 100_000);
    assert_eq!(terminal(&written, 80).last().unwrap(), "");
}

#[test]
fn the_line_is_given_back_on_a_panic() {
    let mut stage = Stage::new(Progress::Bar, false, AROUND);
    let tape = stage.tape.clone();
    let _ = std::thread::spawn(move || {
        stage.pass(1000);
        stage.screen.tick();
        assert!(terminal(&stage.written(), 80)[0].contains("waiting"));
        std::panic::resume_unwind(Box::new(()));
    })
    .join();
    assert_eq!(tape.0.lock().unwrap().as_slice(), b"\r\x1b[2K");
}

#[test]
fn colours_are_modest() {
    for (no_color, dumb, expected) in [
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let mut stage = Stage::new(
            Progress::Bar,
            false,
            Surroundings {
                no_color,
                dumb,
                ..AROUND
            },
        );
        stage.screen.error("x", None);
        stage
            .screen
            .record(None, "phase", r#"{"phase":"load","status":"done"}"#);
        stage.screen.finish();
        assert_eq!(
            stage.written().contains("\x1b[31merror\x1b[0m: x\n"),
            expected
        );
    }
    // What a program left on ends with its line.
    let mut stage = Stage::new(Progress::Bar, true, AROUND);
    stage.install("\x1b[1mbold");
    stage.screen.finish();
    assert!(stage.written().ends_with("  | \x1b[1mbold\x1b[0m\n"));
}

#[test]
fn auto_chooses() {
    let table = [
        (AROUND, Progress::Bar),
        (
            Surroundings {
                runner: Some(Progress::Github),
                ..AROUND
            },
            Progress::Bar,
        ),
        (Surroundings { ci: true, ..AROUND }, Progress::Plain),
        (
            Surroundings {
                dumb: true,
                ..AROUND
            },
            Progress::Plain,
        ),
        (
            Surroundings {
                terminal: false,
                ..AROUND
            },
            Progress::Plain,
        ),
        (
            Surroundings {
                terminal: false,
                runner: Some(Progress::Github),
                ..AROUND
            },
            Progress::Github,
        ),
        (
            Surroundings {
                ci: true,
                runner: Some(Progress::Github),
                ..AROUND
            },
            Progress::Github,
        ),
    ];
    for (around, expected) in table {
        assert_eq!(around.choose(Progress::Auto), expected, "{around:?}");
        assert_eq!(around.choose(Progress::Quiet), Progress::Quiet);
    }
    let error = "fancy".parse::<Progress>().unwrap_err();
    for word in [
        "auto",
        "bar",
        "plain",
        "ndjson",
        "github",
        "gitlab",
        "buildkite",
        "quiet",
    ] {
        assert!(word.parse::<Progress>().is_ok() && error.contains(word));
    }
}

#[test]
fn locales() {
    let table = [
        (["", "", ""], false),
        (["", "", "en_US.UTF-8"], true),
        (["C", "", "en_US.UTF-8"], false),
        (["", "de_DE.utf8", "C"], true),
        (["", "POSIX", "C.UTF-8"], false),
    ];
    for (locale, expected) in table {
        assert_eq!(is_utf8(locale), expected, "{locale:?}");
    }
}

/// `cargo test --release --lib screen -- --ignored --nocapture` prints the speed.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn speed() {
    const COUNT: u32 = 1_000_000;
    for progress in [
        Progress::Plain,
        Progress::Github,
        Progress::Bar,
        Progress::Ndjson,
    ] {
        let null = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/null")
            .unwrap();
        let mut screen = Screen::with(
            progress,
            false,
            AROUND,
            Box::new(null),
            Box::new(Instant::now),
        );
        let begun = Instant::now();
        for number in 0..COUNT {
            screen.record(Some("7"), "install", r#"{"manager":"npm","stream":"stdout","line":"added 42 packages, and audited 43 packages in 3s"}"#);
            // The caller's channel is empty now and then.
            if number % 50 == 0 {
                screen.flush();
            }
        }
        screen.finish();
        println!(
            "{progress:?}: {:.2} M lines/s",
            f64::from(COUNT) / begun.elapsed().as_secs_f64() / 1e6
        );
    }
}
