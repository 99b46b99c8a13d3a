//! What servers, installs and processes say is never a command to a CI system, whatever the form of the output.

use crate::test_server::{TempDir, TestServer};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// GitHub's, GitHub's old ones and Azure's, Azure's, TeamCity's.
const COMMANDS: [&str; 4] = ["##[", "##vso[", "##teamcity[", "\u{9b}"];

/// Whether some line of it is a command.
fn acts(shown: &str) -> bool {
    let lower = shown.to_lowercase();
    COMMANDS.iter().any(|command| lower.contains(command))
        || shown
            .lines()
            .any(|line| line.trim_start().starts_with("::"))
}

#[test]
fn no_output_on_stdout_or_stderr_is_a_command() {
    let host = TestServer::start();
    let app = TempDir::new().with(&[("index.txt", "x")]);
    let dir = app.0.to_str().unwrap();
    let hostile = " ::error::a ##[add-mask]b ##VSO[c] ##TeamCity[d] \u{9b}e\u{202e}";
    let command = format!("echo '{hostile}'; echo '{hostile}' >&2; exit 3");
    let mut failed = String::new();
    for progress in ["plain", "quiet", "ndjson", "bar"] {
        let deploy = ["deploy", dir, "--project", "app", "--progress", progress];
        let output = host.cli(&[&deploy[..], &["--install-command", &command]].concat());
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(
            !acts(&shown) && !shown.contains('\u{202e}'),
            "{progress}: {shown}"
        );
    }
    for output in ["json", "yaml", "text"] {
        let list = host.cli(&[
            "op",
            "list_deployments",
            "include_events=true",
            "--output",
            output,
        ]);
        let shown = text(&list.stdout);
        assert_eq!(list.status.code(), Some(0), "{}", text(&list.stderr));
        assert!(
            !acts(&shown) && !shown.contains('\u{202e}'),
            "{output}: {shown}"
        );
        if output == "json" {
            let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
            failed = value["deployments"][0]["event_log"].to_string();
        }
    }
    // It means the same.
    assert!(failed.contains("##[add-mask]b ##VSO[c]"), "{failed}");
}
