//! The fleet from outside: its operations and its command, as far as they need no etcd. And what may fail around a fleet, with
//! the tests that show what happens then: those of real servers are here beside this file, those of etcd's client, of a host's
//! own part and of rollouts in `src/client/etcd`, `src/engine/member` and `src/engine/rollout`.
//!
//! | what fails | tests |
//! | --- | --- |
//! | etcd is away before a deployment | `without_etcd_nothing_begins`, `a_full_disk_a_rollback_in_the_middle_and_ends_of_etcd_and_of_the_leader` |
//! | etcd goes while it is published | `a_publication_whose_answer_is_lost_is_found_or_done_again`, `a_publication_that_stays_unknown_ends_so_and_is_settled_later` |
//! | etcd is away from the hosts, or killed in the midst | `without_etcd_what_has_begun_ends_and_who_waits_does_not_go`, `hosts_take_what_one_built_and_one_that_was_off_catches_up_without_etcd_in_between` |
//! | a node of etcd is in the minority | `a_host_at_the_minority_of_etcd_stays_as_it_is`, `a_node_without_a_leader_is_left_for_another` |
//! | its history is compacted | `a_host_comes_back_after_a_frozen_etcd_and_a_compaction`, `a_watch_says_how_it_ended` |
//! | an older backup of it is restored | `a_store_that_was_put_back_or_emptied_turns_no_host_back`, `a_generation_is_above_all_that_any_host_has_heard_of` |
//! | the same, and its revision is as high again | `a_host_holds_what_it_cannot_trust`, `who_writes_to_etcd_without_the_key_makes_no_host_do_anything` |
//! | it is emptied | `a_store_that_was_put_back_or_emptied_turns_no_host_back`, `an_emptied_etcd_is_filled_again_only_by_who_says_so` |
//! | it has no space | `a_full_etcd_takes_no_publication_and_is_told_later`, `etcd_that_is_full_takes_nothing_and_can_be_read` |
//! | a lease ends, or etcd is frozen | `a_lost_lease_is_taken_anew_with_all_that_went_with_it`, `a_host_comes_back_after_a_frozen_etcd_and_a_compaction`, `a_leader_that_lost_its_lease_opens_nothing` |
//! | the disk of a host is full | `a_full_disk_a_rollback_in_the_middle_and_ends_of_etcd_and_of_the_leader`, `what_is_not_remembered_is_not_begun`, `what_passes_is_tried_again_and_nothing_else` |
//! | two people deploy one component | `eight_hosts_go_in_waves_stop_at_a_bad_canary_and_come_back`, `of_two_who_deploy_the_second_is_told_of_the_first_before_its_upload`, `who_waits_follows_a_claim_of_another_host` |
//! | a claim ends, and both publish | `who_loses_the_claim_publishes_nothing_and_follows_who_won`, `of_two_claims_of_which_one_ended_one_publishes` |
//! | a rollback during a rollout | `a_full_disk_a_rollback_in_the_middle_and_ends_of_etcd_and_of_the_leader`, `a_rollback_goes_everywhere_at_once_and_not_back_again` |
//! | a deployment during a rollout | `of_two_who_deploy_the_second_is_told_of_the_first_before_its_upload` |
//! | the leader of a rollout is killed | `a_full_disk_a_rollback_in_the_middle_and_ends_of_etcd_and_of_the_leader`, `a_leader_takes_a_rollout_to_its_end_and_another_one_goes_on_when_it_dies` |
//! | a clock is wrong | `clocks_labels_newer_words_and_other_fleets_confuse_no_host`, `what_was_not_sent_was_not_done` |
//! | a host is removed, or its user | `a_host_that_was_taken_out_goes_on_as_it_is`, `a_host_that_is_removed_is_expected_no_longer`, `a_host_needs_no_right_but_to_its_own_keys_and_lives_on_without_them`, `a_host_that_was_removed_says_so_until_it_is_forgotten` |
//! | two hosts have one name | `hosts_take_what_one_built_and_one_that_was_off_catches_up_without_etcd_in_between`, `a_name_belongs_to_one_root` |
//! | a host was off for long, and the payload is gone everywhere | `bad_holders_lost_payloads_and_foreign_binaries_fail_where_they_are`, `a_host_that_was_off_goes_to_the_newest_and_a_restored_store_turns_nobody_back`, `a_host_takes_back_that_it_has_a_payload_before_that_goes` |
//! | a holder sends something else, or hardly anything | `bad_holders_lost_payloads_and_foreign_binaries_fail_where_they_are`, `a_host_that_sends_something_else_is_told_and_not_asked_again`, `a_host_that_is_slow_or_none_at_all_is_left_for_another` |
//! | a host is of another architecture | `bad_holders_lost_payloads_and_foreign_binaries_fail_where_they_are`, `clocks_labels_newer_words_and_other_fleets_confuse_no_host` |
//! | a watch is silent for ever | `a_watch_says_how_it_ended`, `a_silent_watch_is_begun_anew_and_the_lease_goes_on` |
//! | a document is of a newer gangplank | `an_unknown_version_is_held`, `a_document_is_read_by_its_version`, `clocks_labels_newer_words_and_other_fleets_confuse_no_host` |
//! | etcd's certificate does not do, or etcd wants one | `etcd_may_want_a_certificate` |
//! | somebody writes to etcd who should not | `who_writes_to_etcd_without_the_key_makes_no_host_do_anything`, `a_host_with_a_trust_takes_only_what_is_signed`, `what_is_published_is_signed_by_who_has_the_key`, `what_strangers_write_ends_no_list_and_fills_no_memory`, `numbers_that_nobody_means_end_no_leader`, `a_long_reason_and_odd_numbers_keep_no_host_from_going_on` |

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::test_server::{TempDir, TestServer, gangplank, tar};
use crate::tidy::{rust_files, top};

#[test]
fn every_test_of_the_table_is_there() {
    let sources = ["src", "tests/it"].map(|dir| rust_files(&top().join(dir)));
    let sources = sources.concat();
    let sources = sources.iter().map(|file| fs::read_to_string(file).unwrap());
    let sources: String = sources.collect();
    let table = fs::read_to_string(top().join("tests/it/fleet.rs")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("//! | "));
    let mut count = 0;
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        assert!(
            sources.contains(&format!("\nfn {name}("))
                || sources.contains(&format!("    fn {name}(")),
            "{name}"
        );
        count += 1;
    }
    assert!(count > 50, "{count}");
}

#[test]
fn a_server_without_a_fleet_refuses_before_anything_is_sent() {
    let server = TestServer::start();
    let asked = [
        json!({"operation": "get_fleet"}),
        json!({"operation": "get_fleet", "project": "demo", "follow": true}),
        json!({"operation": "change_fleet", "action": "rollback", "project": "demo"}),
        json!({"operation": "change_fleet", "action": "remove", "host": "two"}),
    ];
    for operation in asked {
        let answer = server.operate(&operation);
        assert_eq!(answer.status, 503, "{operation}: {}", answer.text());
        let (code, why) = answer.refusal();
        assert_eq!(code, "fleet_unavailable");
        assert!(why.contains("belongs to no fleet"), "{why}");
    }
    let payload = tar(&[("./v", "1")]);
    let refused = server.deploy(&[("project", "demo"), ("fleet", "true")], &payload);
    assert_eq!(refused.refusal().0, "fleet_unavailable");
    let list = server.operate(&json!({"operation": "list_deployments"}));
    assert_eq!(list.json()["total"], 0, "nothing has begun");
    let dir = TempDir::new().with(&[("v", "1")]);
    let dir = dir.0.to_str().unwrap();
    for command in [
        &["deploy", dir, "--project", "demo", "--fleet"][..],
        &["rollback", "demo", "--fleet"],
        &["fleet", "demo"],
        &["fleet", "publish-current", "demo"],
    ] {
        let output = server.cli(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{command:?}: {said}");
        assert!(said.contains("(fleet_unavailable)"), "{said}");
    }
}

#[test]
fn wrong_words_about_the_fleet_are_named() {
    let server = TestServer::start();
    let table = [
        (
            json!({"operation": "get_fleet", "follow": true}),
            "'project'",
        ),
        (json!({"operation": "change_fleet"}), "'action'"),
        (
            json!({"operation": "change_fleet", "action": "remove", "host": "a/b"}),
            "'host'",
        ),
        (
            json!({"operation": "change_fleet", "action": "pin"}),
            "'project'",
        ),
    ];
    for (operation, part) in table {
        let answer = server.operate(&operation);
        let (code, why) = answer.refusal();
        assert!(
            code == "bad_request" && why.contains(part),
            "{operation}: {why}"
        );
    }
    let table = [
        ("wave", "0%", "'wave'"),
        ("canary", "x", "'canary'"),
        ("labels", "[]", "'labels'"),
        ("replicated", "true", "'fleet' cannot go with"),
        ("activate", "false", "'fleet' cannot go with"),
    ];
    for (field, value, part) in table {
        let fields = [("project", "demo"), ("fleet", "true"), (field, value)];
        let answer = server.deploy(&fields, &tar(&[("./v", "1")]));
        let (code, why) = answer.refusal();
        assert!(
            code == "bad_request" && why.contains(part),
            "{field}={value}: {why}"
        );
    }
    for (words, part) in [
        (
            &["deploy", ".", "--canary", "1"][..],
            "--canary goes with --fleet alone",
        ),
        (
            &["deploy", ".", "--detach"],
            "--detach goes with --fleet alone",
        ),
        (&["deploy", ".", "--fleet", "--wave", "0"], "--wave"),
        (&["deploy", ".", "--fleet", "--label", "x"], "KEY=VALUE"),
        (
            &["rollback", "demo", "--fleet", "--replicated"],
            "neither --to nor --replicated",
        ),
        (&["fleet", "--follow"], "--follow needs a PROJECT"),
        (&["fleet", "remove"], "HOST"),
    ] {
        let output = server.cli(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}

#[test]
fn fleet_key_makes_a_pair_and_overwrites_none() {
    let dir = TempDir::new();
    let file = dir.0.join("key");
    let make = || {
        let mut command = gangplank();
        command.args(["fleet", "key"]).arg(&file);
        command.env("GANGPLANK_ROOT", &dir.0).output().unwrap()
    };
    let made = make();
    assert!(made.status.success(), "{made:?}");
    let mode = |name: &str| {
        let meta = fs::metadata(dir.0.join(name)).unwrap();
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("key"), 0o600);
    let (secret, public) = (
        fs::read_to_string(&file).unwrap(),
        fs::read_to_string(dir.0.join("key.pub")).unwrap(),
    );
    assert!(secret.starts_with("gangplank-ed25519-secret:"));
    assert!(public.starts_with("gangplank-ed25519-public:"));
    let said = String::from_utf8_lossy(&made.stdout) + String::from_utf8_lossy(&made.stderr);
    assert!(
        !said.contains(secret.trim()),
        "the key itself is shown to nobody"
    );
    assert_eq!(make().status.code(), Some(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), secret);
}
