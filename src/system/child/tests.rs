use std::os::unix::process::ExitStatusExt;

use super::*;
use crate::system::child::lines::LINE_LEN_MAX;
use crate::system::stop;

const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Runs a script that nobody stops.
fn lines_of(script: &str, limit: Duration) -> (Ended, Vec<Line>) {
    let (_stopper, stop) = stop::pair().unwrap();
    let mut lines = Vec::new();
    let ended = run(
        sh(script),
        RunOptions::within(limit, None),
        &stop,
        &mut |line| {
            lines.push(line);
            Ok(())
        },
    );
    (ended.unwrap(), lines)
}

fn texts(lines: &[Line], stream: Stream) -> Vec<&str> {
    lines
        .iter()
        .filter(|line| line.stream == stream)
        .map(|line| line.text.as_str())
        .collect()
}

/// Whether a process is there, and no zombie.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

/// Killed processes need a moment to go; nothing but that is waited for.
fn goes(pid: &str) -> bool {
    let begin = Instant::now();
    while lives(pid) {
        if begin.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn what_is_printed_arrives() {
    let table: &[(&str, &[&str], &[&str])] = &[
        ("true", &[], &[]),
        ("echo a; echo; printf b", &["a", "", "b"], &[]),
        ("echo a; echo b >&2; echo c", &["a", "c"], &["b"]),
        (
            r"printf 'a\303'; sleep 0.05; printf '\244\r'; sleep 0.05; printf '\nb\r\n'",
            &["aä", "b"],
            &[],
        ),
        (r"printf '\377\000\033[1m\n'", &["\u{fffd}\0\u{1b}[1m"], &[]),
        (r"printf '1%%\r2%%\r3%%\n' >&2", &[], &["1%", "2%", "3%"]),
        ("cat", &[], &[]),
        ("exec >&-; echo b >&2; exec 2>&-; sleep 0.05", &[], &["b"]),
    ];
    for (script, out, err) in table {
        let (ended, lines) = lines_of(script, LONG);
        assert!(
            matches!(ended, Ended::Exited(status) if status.success()),
            "{script}: {ended:?}"
        );
        assert_eq!(texts(&lines, Stream::Stdout), *out, "{script}");
        assert_eq!(texts(&lines, Stream::Stderr), *err, "{script}");
    }
}

#[test]
fn ends() {
    let table = [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("no-such-program-here", Some(127), None),
        ("kill -TERM $$", None, Some(15)),
        ("kill -KILL $$", None, Some(9)),
    ];
    for (script, code, signal) in table {
        let (ended, _) = lines_of(script, Duration::MAX);
        let Ended::Exited(status) = ended else {
            panic!("{script}: {ended:?}")
        };
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
    }
}

#[test]
fn a_missing_program_is_told_apart() {
    let (_stopper, stop) = stop::pair().unwrap();
    let command = Command::new("no-such-program-here");
    let error = run(command, RunOptions::within(LONG, None), &stop, &mut |_| {
        Ok(())
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("starting no-such-program-here: "),
        "{error}"
    );
    assert_eq!(error.io().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_long_line_comes_in_pieces() {
    let (_, lines) = lines_of(
        "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo end",
        LONG,
    );
    assert_eq!(lines.len(), 129);
    assert!(
        lines[..127]
            .iter()
            .all(|line| line.continued && line.text.len() == LINE_LEN_MAX)
    );
    assert!(!lines[127].continued && lines[127].text.len() == LINE_LEN_MAX);
    assert_eq!(lines[128].text, "end");
}

#[test]
fn a_million_lines_are_counted() {
    let (_stopper, stop) = stop::pair().unwrap();
    let mut expected = 0u32;
    run(
        sh("seq 1000000"),
        RunOptions::within(LONG, None),
        &stop,
        &mut |line| {
            expected += 1;
            assert_eq!(line.text, expected.to_string());
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(expected, 1_000_000);
}

#[test]
fn nothing_printed_just_before_the_end_is_lost() {
    for _ in 0..20 {
        let (_, lines) = lines_of("head -c 65536 /dev/zero | tr '\\0' '\\n'; printf end", LONG);
        assert_eq!(lines.len(), 65537);
    }
}

#[test]
fn a_slow_reader_gets_all_of_what_an_ended_command_left() {
    // The command has ended before the first line is looked at, and reading takes longer than all lingering, while a
    // stranger holds the pipe.
    let (_stopper, stop) = stop::pair().unwrap();
    let script = "setsid sleep 5 & exec seq 10000";
    let mut count = 0;
    run(
        sh(script),
        RunOptions::within(LONG, None),
        &stop,
        &mut |_| {
            if count == 0 {
                std::thread::sleep(LINGER_MAX + LINGER);
            }
            count += 1;
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(count, 10_000);
}

#[test]
fn a_time_out_ends_the_whole_family() {
    let script = "trap '' TERM; (trap '' TERM; sleep 60; sleep 60) & echo $!; echo $$; while :; do sleep 60; done";
    let begin = Instant::now();
    let (ended, lines) = lines_of(script, Duration::from_millis(300));
    assert_eq!(ended, Ended::TimedOut);
    assert!(begin.elapsed() >= GRACE + Duration::from_millis(300));
    let pids = texts(&lines, Stream::Stdout);
    assert_eq!(pids.len(), 2);
    assert!(
        !std::path::Path::new(&format!("/proc/{}", pids[1])).exists(),
        "a zombie is left"
    );
    assert!(pids.iter().all(|pid| goes(pid)));
}

#[test]
fn a_family_that_obeys_ends_at_once_and_may_say_goodbye() {
    let begin = Instant::now();
    // The leader dies of the signal, its child still tidies up.
    let script = "(trap 'sleep 0.1; echo tidy; exit' TERM; echo up; while :; do sleep 0.01; done) & echo up; wait";
    let (stopper, stop) = stop::pair().unwrap();
    let mut stopper = Some(stopper);
    let mut lines = Vec::new();
    let ended = run(
        sh(script),
        RunOptions::within(LONG, None),
        &stop,
        &mut |line| {
            lines.push(line);
            if lines.len() == 2 {
                stopper.take();
            }
            Ok(())
        },
    );
    assert_eq!(ended.unwrap(), Ended::Stopped);
    // On stderr the shell remarks that its `sleep` was terminated.
    assert_eq!(texts(&lines, Stream::Stdout), ["up", "up", "tidy"]);
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
}

#[test]
fn a_stop_before_the_start_starts_nothing() {
    let (stopper, stop) = stop::pair().unwrap();
    drop(stopper);
    let ended = run(
        Command::new("no-such-program-here"),
        RunOptions::within(LONG, None),
        &stop,
        &mut |_| Ok(()),
    );
    assert_eq!(ended.unwrap(), Ended::Stopped);
}

#[test]
fn a_flood_can_be_timed_out() {
    let begin = Instant::now();
    let (ended, lines) = lines_of("while :; do echo y; done", Duration::from_millis(50));
    assert_eq!(ended, Ended::TimedOut);
    assert!(!lines.is_empty() && begin.elapsed() < GRACE + LINGER_MAX);
}

#[test]
fn nobody_who_holds_the_pipe_hangs_it() {
    let table = [
        // Of the group: killed with it.
        ("sleep 60 & echo $!; echo end", true, LINGER),
        (
            "(trap '' HUP TERM; sleep 60) & echo $!; echo end",
            true,
            LINGER,
        ),
        // Of a session of its own: left behind, and its pipe is closed after a silence.
        (
            "setsid sleep 60 & echo $!; echo end",
            false,
            LINGER + LINGER,
        ),
        // Even one that never is silent.
        (
            "setsid sh -c 'while echo; do :; done' & echo $!; sleep 0.1; echo end",
            false,
            LINGER_MAX + LINGER,
        ),
    ];
    for (script, killed, limit) in table {
        let begin = Instant::now();
        let (ended, lines) = lines_of(script, LONG);
        // A busy machine is given a second.
        assert!(
            begin.elapsed() < limit + Duration::from_secs(1),
            "{script}: {:?}",
            begin.elapsed()
        );
        assert!(
            matches!(ended, Ended::Exited(status) if status.success()),
            "{script}"
        );
        let texts = texts(&lines, Stream::Stdout);
        assert!(texts.contains(&"end"), "{script}");
        let pid = texts
            .iter()
            .find(|text| !text.is_empty() && **text != "end")
            .unwrap();
        if killed {
            assert!(goes(pid), "{script}");
        } else {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_failing_reader_ends_the_family() {
    let (_stopper, stop) = stop::pair().unwrap();
    let mut pids = Vec::new();
    let script = "sleep 60 & echo $!; echo $$; while :; do echo; done";
    let error = run(
        sh(script),
        RunOptions::within(LONG, None),
        &stop,
        &mut |line| {
            if line.text.is_empty() {
                return Err(Error::new("writing the journal", "no"));
            }
            pids.push(line.text);
            Ok(())
        },
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "writing the journal: no");
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| goes(pid)));
    assert!(
        !std::path::Path::new(&format!("/proc/{}", pids[1])).exists(),
        "a zombie is left"
    );
}

#[test]
fn a_child_is_read_only_as_fast_as_its_lines_are_taken() {
    let (stopper, stop) = stop::pair().unwrap();
    let mut stopper = Some(stopper);
    let mut taken = 0u64;
    // Counts what it could print until its reader has taken ten lines slowly.
    let script = "i=0; while :; do i=$((i+1)); echo $i; done";
    let mut highest = 0u64;
    run(
        sh(script),
        RunOptions::within(LONG, None),
        &stop,
        &mut |line| {
            taken += 1;
            if taken <= 10 {
                std::thread::sleep(Duration::from_millis(20));
            } else {
                stopper.take();
            }
            highest = highest.max(line.text.parse().unwrap_or(0));
            Ok(())
        },
    )
    .unwrap();
    // All that was printed was also taken, but for a line torn at the end.
    assert!(highest <= taken, "{highest} {taken}");
}

#[test]
fn survivors_are_found_by_their_environment() {
    let ids = [
        "01890000-0000-7000-8000-000000000001",
        "01890000-0000-7000-8000-000000000002",
    ];
    let own = format!("/a/root/of/{}", std::process::id());
    let other = format!("{own}0");
    // Each leaves its group, and is left alone when it has said its pid. The third ignores SIGTERM.
    let started = [
        (&own, ids[0], "setsid sh -c 'echo $$; exec sleep 60'"),
        (&own, ids[1], "setsid sh -c 'echo $$; exec sleep 60'"),
        (
            &own,
            ids[0],
            "setsid sh -c 'trap \"\" TERM; echo $$; sleep 60; sleep 60'",
        ),
        (&other, ids[0], "setsid sh -c 'echo $$; exec sleep 60'"),
    ]
    .map(|(root, id, script)| {
        let (_stopper, stop) = stop::pair().unwrap();
        let mut command = sh(&format!("{script}; true"));
        command.env(MARK, root).env(PROCESS, id);
        let mut pid = String::new();
        let left = run(
            command,
            RunOptions::within(LONG, None),
            &stop,
            &mut |line| {
                pid = line.text;
                Err(Error::new("listening", "enough"))
            },
        );
        assert!(left.is_err());
        pid
    });
    let living = || started.iter().map(|pid| lives(pid)).collect::<Vec<_>>();
    let mark = ServerMark::new(&own, std::path::Path::new("/nowhere"));
    assert_eq!(living(), [true; 4]);
    // The third has a child of its own, too.
    assert!(end_survivors(&mark, SurvivorScope::Process(ids[0])).unwrap() >= 2);
    assert_eq!(living(), [false, true, false, true]);
    assert_eq!(end_survivors(&mark, SurvivorScope::All).unwrap(), 1);
    assert_eq!(living(), [false, false, false, true]);
    assert_eq!(end_survivors(&mark, SurvivorScope::All).unwrap(), 0);
    // By its path, as an earlier version marked it.
    let earlier = ServerMark::new("id", std::path::Path::new(&other));
    assert_eq!(end_survivors(&earlier, SurvivorScope::All).unwrap(), 1);
    assert_eq!(living(), [false; 4]);
}

/// Run with `cargo test --release -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn throughput_of_lines() {
    let table = [
        ("short lines", "yes 123456789 | head -c 1000000000"),
        ("one long line", "head -c 1000000000 /dev/zero"),
    ];
    for (what, script) in table {
        let (_stopper, stop) = stop::pair().unwrap();
        let mut lines = 0u64;
        let mut bytes = 0;
        let begin = Instant::now();
        run(
            sh(script),
            RunOptions::within(LONG, None),
            &stop,
            &mut |line| {
                lines += 1;
                bytes += line.text.len() + usize::from(!line.continued);
                Ok(())
            },
        )
        .unwrap();
        let s = begin.elapsed().as_secs_f64();
        eprintln!(
            "{what}: {:.0} MB/s, {:.1} M lines/s",
            bytes as f64 / s / 1e6,
            lines as f64 / s / 1e6
        );
    }
}
