//! Names of files that a peer chooses, in a folder full of traps: whatever passes for a name leads to a place in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use echo_core::FileName;
use echo_folder::{Folder, Unsynced};

use crate::input::{Input, folder};

/// What no name may come to, and what is no name itself.
const SECRET: &[u8] = b"the\nsecret";

/// Each line is a name: it is checked, walked to, made, written and read.
pub fn paths(data: &[u8]) {
    let outside = folder();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("folder")).unwrap();
    fs::write(outside.path().join("secret"), SECRET).unwrap();
    fs::write(root.join("file"), "a file").unwrap();
    let traps = [("up", ".."), ("link", "../secret"), ("folder/up", "../.."), ("self", ".")];
    for (name, target) in traps.into_iter().chain([("new", "../made"), ("etc", "/etc")]) {
        symlink(target, root.join(name)).unwrap();
    }
    let before = outside_of(outside.path());
    let opened = Folder::open(&root).unwrap();
    let mut input = Input::new(data);
    while !input.is_empty() {
        let line = input.line();
        if let Ok(name) = FileName::new(line) {
            assert_eq!(name.as_bytes(), line);
            visit(&opened, &root, name);
        }
    }
    assert_eq!(outside_of(outside.path()), before, "something was changed outside");
    for (name, target) in traps {
        assert_eq!(fs::read_link(root.join(name)).unwrap(), Path::new(target), "{name}");
    }
}

fn visit(opened: &Folder, root: &Path, name: FileName<'_>) {
    if let Ok((place, last)) = opened.walk(name)
        && let Ok((mut file, stat)) = place.read(last)
    {
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).unwrap();
        assert_eq!(contents.len() as u64, echo_folder::size(&stat));
        assert_ne!(contents, SECRET, "{name:?} leads out");
    }
    let unsynced = Unsynced::default();
    let Ok((place, last, _grown)) = opened.make(name, &unsynced) else { return };
    let Ok((mut file, _)) = place.write(last, true) else { return };
    file.set_len(0).unwrap();
    file.write_all(name.as_bytes()).unwrap();
    // The name is the path, byte for byte, and none of its components is a link.
    let mut path = root.to_owned();
    for component in name.components() {
        use std::os::unix::ffi::OsStrExt;
        path.push(std::ffi::OsStr::from_bytes(component));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "{name:?} leads elsewhere");
    }
    assert_eq!(fs::read(&path).unwrap(), name.as_bytes(), "{name:?}");
}

/// All there is beside the root, with its contents.
fn outside_of(outside: &Path) -> BTreeMap<std::ffi::OsString, Option<Vec<u8>>> {
    let entries = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), fs::read(entry.path()).ok())).collect()
}
