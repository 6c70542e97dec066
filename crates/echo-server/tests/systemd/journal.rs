//! What a real journal keeps of the server's log.

use crate::inside::{TCP, must, run, settings};
use crate::support::process::eventually;
use crate::support::traffic::assert_serves;
use crate::under_systemd;

/// The service's entries, each a map of fields.
fn entries() -> Vec<serde_json::Value> {
    must("journalctl --sync");
    let lines = must("journalctl --no-pager -o json -u echo-server.service");
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those whose `field` contains `text`.
fn with(field: &str, text: &str) -> Vec<serde_json::Value> {
    let contains = |it: &serde_json::Value| it[field].as_str().is_some_and(|it| it.contains(text));
    entries().into_iter().filter(contains).collect()
}

#[test]
fn entries_have_all_their_fields() {
    under_systemd(|| {
        settings("access-log = true\n");
        must("systemctl start echo-server.service");
        assert_serves(TCP);
        eventually("the connection's end is in the journal", || {
            !with("MESSAGE", "connection").is_empty()
        });
        let ended = with("MESSAGE", "connection").remove(0);
        assert_eq!((&ended["PRIORITY"], &ended["ECHO_TARGET"]), (&"6".into(), &"access".into()));
        assert_eq!(ended["ECHO_ENDING"], "completed", "{ended}");
        assert_eq!(ended["ECHO_LISTENER"], TCP, "{ended}");
        for entry in entries() {
            assert!(entry["MESSAGE"].as_str().is_some_and(|it| !it.is_empty()), "{entry}");
        }
    });
}

/// What systemctl's reload asks for fails once, and as an error.
#[test]
fn a_bad_reload_is_one_error() {
    under_systemd(|| {
        must("systemctl start echo-server.service");
        for key in ["max-farme", "max-framme"] {
            settings(&format!("{key} = 5\n"));
            assert!(!run("systemctl reload echo-server.service").0);
            let told = format!("unknown key \"{key}\"");
            eventually("it is in the journal", || !with("MESSAGE", &told).is_empty());
            let told = with("MESSAGE", &told);
            assert_eq!((told.len(), &told[0]["PRIORITY"]), (1, &"3".into()), "{told:?}");
        }
    });
}
