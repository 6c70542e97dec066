//! The store, where there is one.

use super::exposition::Exposition;
use crate::files::{Fate, Files};

pub(super) fn expose(out: &mut Exposition, files: &Files) {
    let (used, counts) = (files.used(), files.counts());
    out.gauge("echo_files", "Files in the store, those that are not whole yet among them.")
        .sample(&[], used.files);
    out.gauge("echo_files_folders", "Folders in the store, which count as files do.")
        .sample(&[], used.folders);
    out.gauge("echo_files_stored_bytes", "Bytes of them, and of what is not whole yet.")
        .sample(&[], used.bytes);
    out.gauge("echo_files_transfers", "Uploads and downloads that are open.")
        .sample(&[], used.transfers);
    out.gauge("echo_files_parked", "Unfinished uploads that wait to go on.")
        .sample(&[], files.parked());
    let operations = [("put", &counts.put), ("get", &counts.got), ("remove", &counts.removed)];
    let mut done = out.counter(
        "echo_files_done",
        "Files that have appeared (put), were sent to their end (get), were removed.",
    );
    for (operation, it) in operations {
        done.sample(&[("operation", operation)], it.count());
    }
    let mut bytes = out.counter(
        "echo_files_moved_bytes",
        "Bytes of files that came (put), were sent (get), were removed; whole or not.",
    );
    for (operation, it) in operations {
        bytes.sample(&[("operation", operation)], it.bytes());
    }
    out.counter(
        "echo_files_unlisted",
        "Files and folders that were left out of a list, as no client can ask for a name so long or deep.",
    )
    .sample(&[], counts.unlisted());
    let mut refused = out.counter(
        "echo_files_refused",
        "Frames about files that were answered with ERROR, what was sent behind one not counted again.",
    );
    for (reason, count) in counts.refused() {
        refused.sample(&[("reason", reason)], count);
    }
    let mut parts = out.counter(
        "echo_files_parts",
        "What became of unfinished uploads: parked, resumed; lost (could not be parked, or were found \
         broken), expired (nobody went on with them in time), swept (remains of a crash).",
    );
    for fate in Fate::ALL {
        parts.sample(&[("fate", fate.word())], counts.parts(fate));
    }
}
