//! How a deployment for several hosts went on each of them, as a table.

use std::time::Duration;

use serde_json::Value;

use crate::cli::screen::layout::{Fit, Rows};
use crate::cli::screen::{lines, units};

/// The reason is what is read; of a host's name the beginning tells it from the others.
const FIT: &[Fit] = &[
    Fit::Wrap("REASON", 32),
    Fit::Cut("HOST", 12),
    Fit::Wrap("REASON", 16),
];

/// The table of what ends a deployment: of the origin's name, result and reason, where it is known, and of its peers. Empty
/// if it has none. With a width, it is to fit into so many columns.
pub(super) fn table(
    origin: Option<(&str, &str, &str)>,
    end: &Value,
    width: Option<usize>,
) -> String {
    let peers = end.get("peer_results").and_then(Value::as_array);
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else {
        return String::new();
    };
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
    let head = ["HOST", "RESULT", "TOOK", "REASON"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    // Where each host does its own, the origin may have done well what a peer has not.
    let own = end.get("origin_result").filter(|own| own.is_object());
    let origin = origin.filter(|_| own.is_none());
    rows.extend(origin.map(|(name, result, reason)| {
        let took = took(number(end, "elapsed_ms"));
        [name, result, &took, reason].map(cell).to_vec()
    }));
    rows.extend(own.into_iter().chain(peers).map(|peer| {
        let text = |key: &str| peer.get(key).and_then(Value::as_str).unwrap_or_default();
        let times = number(peer, "started_at").zip(number(peer, "completed_at"));
        let took = took(times.map(|(from, to)| to.saturating_sub(from)));
        [text("node"), text("status"), &took, text("error")]
            .map(cell)
            .to_vec()
    }));
    Rows(rows).lines(FIT, width)
}

fn took(ms: Option<u64>) -> String {
    ms.map_or_else(String::new, |ms| units::duration(Duration::from_millis(ms)))
}

fn cell(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => lines::message(text).join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_host_has_a_row() {
        let peers = json!([
            {"node": "two", "status": "success", "error": null, "started_at": 1000, "completed_at": 3500},
            {"node": "three", "status": "failed", "error": "no\nroom\u{1b}[2J", "started_at": 1000},
        ]);
        let end = json!({"elapsed_ms": 4000, "peer_results": peers});
        let expected = "\
HOST   RESULT   TOOK  REASON
one    success  4.0s  -
two    success  2.5s  -
three  failed   -     no room^[[2J
";
        assert_eq!(table(Some(("one", "success", "")), &end, None), expected);
        let own = json!({"node": "one", "status": "success"});
        let end_of_restart = json!({"origin_result": own, "peer_results": end["peer_results"]});
        let shown = table(Some(("one", "failed", "c")), &end_of_restart, None);
        assert_eq!(shown, expected.replace("4.0s", "-   "));
        let unnamed = table(None, &end, None);
        assert_eq!(unnamed.lines().count(), 3);
        for none in [json!({}), json!({"peer_results": []}), json!(null)] {
            assert_eq!(table(None, &none, None), "", "{none}");
        }
    }

    #[test]
    fn it_fits_into_the_terminal() {
        let peers = json!([
            {"node": "a-peer-with-a-rather-long-name-in-amsterdam", "status": "failed",
             "error": "connecting to http://10.20.30.40:9925: Connection refused (os error 111)"},
        ]);
        let end = json!({"elapsed_ms": 4000, "peer_results": peers});
        let wide = table(Some(("one", "success", "")), &end, Some(80));
        let expected = "\
HOST                               RESULT   TOOK  REASON
one                                success  4.0s  -
a-peer-with-a-rather-long-name-..  failed   -     connecting to
                                                    http://10.20.30.40:9925:
                                                    Connection refused (os error
                                                    111)
";
        assert_eq!(wide, expected);
        for width in [40, 60, 79, 80, 100, 120] {
            let table = table(Some(("one", "success", "")), &end, Some(width));
            let widest = table.lines().map(str::len).max();
            assert!(widest <= Some(width.max(53)), "{width}:\n{table}");
        }
    }
}
