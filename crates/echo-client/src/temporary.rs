//! What files of this host are called that are not fetched to their end.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest as _, Sha256};

/// The longest name that gets a readable temporary.
const READABLE: usize = 240;

/// How such a name begins and ends.
const MARKS: (&str, &str) = (".", ".echo-part");

/// Whether a file of that name is one that is not fetched to its end.
pub(crate) fn is_temporary(last: &OsStr) -> bool {
    let last = last.as_bytes();
    last.starts_with(MARKS.0.as_bytes()) && last.ends_with(MARKS.1.as_bytes())
}

/// What a file of that name is called until then.
pub(crate) fn temporary(last: &OsStr) -> OsString {
    let mut name = OsString::from(MARKS.0);
    if last.len() <= READABLE {
        name.push(last);
    } else {
        let digest = Sha256::digest(last.as_bytes());
        name.push(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    name.push(MARKS.1);
    name
}
