//! AUTH: payloads of frames, and SCRAM between two sides of which the bytes in between belong to somebody else.

use std::sync::{Arc, LazyLock};

use echo_core::{AuthReply, AuthRequest};
use echo_scram::{
    Binding, Client, Credentials, MIN_ITERATIONS, Mechanism, Password, Server, Verifier,
};

use crate::input::Input;

pub(crate) const USER: &str = "user";
const PASSWORD: &str = "pencil";

/// The user, who has kept what the server's salt makes of the password.
pub(crate) static CREDENTIALS: LazyLock<Arc<Credentials>> =
    LazyLock::new(|| Arc::new(Credentials::new(USER, Password::new(PASSWORD).unwrap()).unwrap()));

pub(crate) static VERIFIER: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::derive(&Password::new(PASSWORD).unwrap(), MIN_ITERATIONS).unwrap());

/// The first byte says what is tried.
pub fn auth(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    match how % 4 {
        0 => payloads(&data[1.min(data.len())..]),
        1 => {
            // Whatever a client says, without the password nobody comes in.
            let (first, last) = (input.line(), input.line());
            assert!(!comes_in(how, first, last), "somebody came in without the password");
        }
        2 => {
            let (challenge, verdict) = (input.line(), input.line());
            server_tries(how, challenge, verdict);
        }
        _ => in_between(how, &mut input),
    }
}

fn payloads(payload: &[u8]) {
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    if let Ok(parsed) = AuthRequest::parse(payload) {
        parsed.put(&mut request);
        assert_eq!(request, payload);
    }
    if let Ok(parsed) = AuthReply::parse(payload) {
        parsed.put(&mut reply);
        assert_eq!(reply, payload);
    }
}

/// The channel and the mechanism that go with `how`.
fn channel(how: u8) -> (Mechanism, Option<&'static [u8]>, Binding) {
    const CHANNEL: &[u8] = &[7; 32];
    match how >> 2 & 3 {
        0 => (Mechanism::Sha256, None, Binding::Unsupported),
        1 => (Mechanism::Sha256, None, Binding::NotOffered),
        2 => (Mechanism::Sha256, Some(CHANNEL), Binding::Unsupported),
        _ => (Mechanism::Sha256Plus, Some(CHANNEL), Binding::TlsExporter(CHANNEL.to_vec())),
    }
}

fn comes_in(how: u8, first: &[u8], last: &[u8]) -> bool {
    let (mechanism, binding, _) = channel(how);
    let Ok(server) = Server::start(mechanism, binding, first) else { return false };
    assert!(!server.user().is_empty());
    let (challenged, challenge) = server.challenge(VERIFIER.clone()).unwrap();
    // `@` stands for the nonce, which nobody can know before.
    let nonce = challenge[2..].split(|byte| *byte == b',').next().unwrap_or_default();
    let last = last.split(|byte| *byte == b'@').collect::<Vec<_>>().join(nonce);
    challenged.finish(&last).is_ok()
}

/// Whatever a server says, it has not proved to know the password.
fn server_tries(how: u8, challenge: &[u8], verdict: &[u8]) {
    let (_, _, binding) = channel(how);
    let (client, first) = Client::start(Arc::clone(&CREDENTIALS), binding).unwrap();
    let nonce = first.rsplit(|byte| *byte == b'=').next().unwrap_or_default();
    let challenge = challenge.split(|byte| *byte == b'@').collect::<Vec<_>>().join(nonce);
    // Honest work, which only takes time.
    if is_work(&challenge) {
        return;
    }
    if let Ok((proven, last)) = client.answer(&challenge) {
        assert!(last.starts_with(b"c=") && last.windows(3).any(|it| it == b",p="));
        assert!(proven.verify(verdict).is_err(), "a server passed without the verifier");
    }
}

/// Whether a challenge asks for more iterations than the fewest, and for few enough to be done.
fn is_work(challenge: &[u8]) -> bool {
    let field = challenge.split(|byte| *byte == b',').find_map(|it| it.strip_prefix(b"i="));
    let iterations = field.and_then(|it| std::str::from_utf8(it).ok()?.parse::<u64>().ok());
    iterations.is_some_and(|it| (u64::from(MIN_ITERATIONS) + 1..=2_000_000).contains(&it))
}

/// Two who know the password, and somebody who changes what they say: none of them believes what was changed.
fn in_between(how: u8, input: &mut Input<'_>) {
    let (mechanism, channel, binding) = channel(how);
    let mut changed = false;
    let mut passed_on = |message: Vec<u8>| {
        let passed = change(message.clone(), input);
        changed |= passed != message;
        passed
    };
    let (client, first) = Client::start(Arc::clone(&CREDENTIALS), binding).unwrap();
    let Ok(server) = Server::start(mechanism, channel, &passed_on(first)) else { return };
    let (server, challenge) = server.challenge(VERIFIER.clone()).unwrap();
    let challenge = passed_on(challenge);
    if is_work(&challenge) {
        return;
    }
    let Ok((client, last)) = client.answer(&challenge) else { return };
    let Ok(signature) = server.finish(&passed_on(last)) else { return };
    assert!(!changed, "the server believes what was changed");
    let told = change(signature.clone(), input);
    // Only what may stand behind it can be added.
    let whole = told == signature || told.starts_with(&[&signature[..], b","].concat());
    assert!(whole || client.verify(&told).is_err(), "the client believes another signature");
}

/// Changes a message in up to three places, as the script says.
pub(crate) fn change(mut message: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    for _ in 0..input.byte() % 4 {
        let (what, place) = (input.byte(), usize::from(input.byte()) % (message.len() + 1));
        match what % 4 {
            0 => drop(message.splice(place..place, input.piece().iter().copied())),
            1 => message.truncate(place),
            2 => {
                let end = (place + usize::from(input.byte() % 16)).min(message.len());
                drop(message.splice(place..end, input.piece().iter().copied()));
            }
            _ => {
                if let Some(byte) = message.get_mut(place) {
                    *byte ^= input.byte();
                }
            }
        }
    }
    message
}
