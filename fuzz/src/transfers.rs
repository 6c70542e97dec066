//! Frames of files and of AUTH to the daemon's own extension, with a store of its own for each script.
//!
//! A model follows what is answered: what may be visible, what a download has to bring, what a list has to say.

mod model;
mod talk;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echo_core::{Drain, Echo, Endpoint, Limits, Listener, Mode, Service, serve};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::auth::{Auth, Users};
use crate::exchange::{USER, VERIFIER};
use crate::extension::Extension;
use crate::files::{Bounds, Files, Quota, Rules};
use crate::input::{Input, folder, runtime};
use talk::Talk;

/// So little that scripts come to the end of it.
const BOUNDS: Bounds = Bounds { bytes: 200_000, files: 6, transfers: 3 };

/// One client after the other, on one store.
pub fn files(data: &[u8]) {
    let outside = folder();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let mut input = Input::new(data);
    let how = input.byte();
    let visible = runtime().block_on(async {
        let rules = Rules { anonymous_put: how & 1 == 0, total: BOUNDS, each: BOUNDS };
        let files = Arc::new(
            Files::open(&root, rules, Arc::new(Quota::new(rules.total, rules.each))).unwrap(),
        );
        let auth = Arc::new(Auth::default());
        auth.set((how & 2 != 0).then(|| Users::read(USERS.path()).unwrap()));
        let required = if how & 4 == 0 { "" } else { "?auth=required" };
        let endpoint: Endpoint = format!("tcp://127.0.0.1:1{required}").parse().unwrap();
        let extension = Extension::new(auth, Some(Arc::clone(&files))).at(&endpoint);
        let (listener, connector) = Listener::memory();
        let limits = Limits { max_frame: 64 << 10, ..Limits::default() };
        let service = Service::new(limits, Drain::new());
        let echo = Arc::new(Echo::new(Mode::Framed).extended(extension));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, service.clone(), echo));
        let mut talk = Talk::new(connector);
        talk.play(&mut input).await;
        let model = talk.end().await;
        service.drain().start(Duration::from_secs(1));
        serving.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(service.stats().ended.panicked, 0);
        files.settled(Instant::now() + Duration::from_secs(60)).await;
        model
    });
    visible.compare(&on_disk(&root));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2, "something was made outside");
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
}

/// The file of users, with one who may do everything.
static USERS: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let (salt, iterations) = (encode(VERIFIER.salt()), VERIFIER.iterations());
    let (stored, server) = (encode(VERIFIER.stored_key()), encode(VERIFIER.server_key()));
    let secret = encode(&[9; 32]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "version = 1\niterations = {iterations}\nsecret = \"{secret}\"\n[[user]]\nname = \"{USER}\"\n\
         allow = [\"echo\", \"list\", \"get\", \"put\", \"remove\"]\nsalt = \"{salt}\"\n\
         stored-key = \"{stored}\"\nserver-key = \"{server}\"\n"
    )
    .unwrap();
    file
});

/// All that is visible, by its name.
fn on_disk(root: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path == root.join(".echo-server") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().as_os_str().as_encoded_bytes();
                found.insert(name.to_vec(), fs::read(&path).unwrap());
            }
        }
    }
    found
}
