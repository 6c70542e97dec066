//! Whole exchanges: RFC 7677's, every state with every message, and channel binding in all its ways.

use std::sync::Arc;

use super::*;
use crate::keys::Keys;

const ROUNDS: u32 = MIN_ITERATIONS;

fn credentials(user: &str, password: &str) -> Arc<Credentials> {
    Arc::new(Credentials::new(user, Password::new(password).unwrap()).unwrap())
}

fn verifier(password: &str) -> Verifier {
    Verifier::derive(&Password::new(password).unwrap(), ROUNDS).unwrap()
}

/// RFC 7677 section 3.
#[test]
fn the_vector_of_the_rfc() {
    let salt = [
        0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa,
        0x81,
    ];
    let keys = Keys::derive(&Password::new("pencil").unwrap(), &salt, 4096);
    let verifier = Verifier::from_parts(&salt, 4096, *keys.stored_key(), *keys.server_key);
    let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
    let (client, first) =
        Client::start_with(credentials("user", "pencil"), Binding::Unsupported, nonce);
    assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let server = Server::start(Mechanism::Sha256, None, &first).unwrap();
    let (server, challenge) = server.challenge_with(verifier, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let expected =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(challenge, expected.as_bytes());
    let (client, proof) = client.answer(&challenge).unwrap();
    let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(proof, expected.as_bytes());
    let signature = server.finish(&proof).unwrap();
    assert_eq!(signature, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    client.verify(&signature).unwrap();
}

/// One exchange, to what the client comes to.
fn exchange(
    verifier: Verifier,
    credentials: Arc<Credentials>,
    client: Binding,
    server: Option<&[u8]>,
) -> Result<(), Error> {
    let mechanism = client.mechanism();
    let (client, first) = Client::start(credentials, client)?;
    let (server, challenge) = Server::start(mechanism, server, &first)?.challenge(verifier)?;
    let (client, proof) = client.answer(&challenge)?;
    client.verify(&server.finish(&proof)?)
}

#[test]
fn names_and_passwords_of_every_kind_come_in() {
    for user in ["user", "a,b=c", "=2C", "m\u{fc}ller", "\u{2168}"] {
        for password in ["pencil", "p,=\"\\", "pa\u{df}wort \u{2168}"] {
            let server = Server::start(
                Mechanism::Sha256,
                None,
                &Client::start(credentials(user, password), Binding::Unsupported).unwrap().1,
            );
            assert_eq!(server.unwrap().user(), prepare_name(user).unwrap());
            let came = exchange(
                verifier(password),
                credentials(user, password),
                Binding::Unsupported,
                None,
            );
            assert_eq!(came, Ok(()), "{user} {password}");
        }
    }
    // Equal once they are prepared.
    let came = exchange(verifier("IX"), credentials("u", "\u{2168}"), Binding::Unsupported, None);
    assert_eq!(came, Ok(()));
}

#[test]
fn wrong_passwords_and_unknown_users_are_denied_alike() {
    let wrong =
        exchange(verifier("pencil"), credentials("u", "pencils"), Binding::Unsupported, None);
    let unknown = Verifier::unknown(b"secret", "u", ROUNDS);
    let nobody = exchange(unknown.clone(), credentials("u", "pencil"), Binding::Unsupported, None);
    assert_eq!((wrong, nobody), (Err(Error::Denied), Err(Error::Denied)));
    // The salt is always the same for a name, another one for another, and as long as any.
    assert_eq!(unknown.salt(), Verifier::unknown(b"secret", "u", ROUNDS).salt());
    assert_ne!(unknown.salt(), Verifier::unknown(b"secret", "v", ROUNDS).salt());
    assert_ne!(unknown.salt(), Verifier::unknown(b"secret2", "u", ROUNDS).salt());
    assert_eq!(unknown.salt().len(), verifier("x").salt().len());
    assert_ne!(verifier("x").salt(), verifier("x").salt());
}

/// What the client says of channel binding, and what the channel and the server know of it.
#[test]
fn a_downgrade_is_noticed_and_a_foreign_channel_too() {
    let channel = [7u8; 32];
    let (ours, other) = (channel.to_vec(), vec![8u8; 32]);
    let bound = |binding, server| exchange(verifier("p"), credentials("u", "p"), binding, server);
    let none: Option<&[u8]> = None;
    for (client, server, expected) in [
        (Binding::Unsupported, none, Ok(())),
        (Binding::Unsupported, Some(&channel[..]), Ok(())),
        (Binding::NotOffered, None, Ok(())),
        // The server did offer it: somebody in between has taken it out of the list.
        (Binding::NotOffered, Some(&channel), Err(Error::Downgraded)),
        (Binding::TlsExporter(ours.clone()), Some(&channel), Ok(())),
        // Two channels, with somebody in between.
        (Binding::TlsExporter(other), Some(&channel), Err(Error::OtherChannel)),
        (Binding::TlsExporter(ours), None, Err(Error::Downgraded)),
        (Binding::TlsExporter(Vec::new()), Some(&channel), Err(Error::OtherChannel)),
    ] {
        assert_eq!(bound(client.clone(), server), expected, "{client:?} {server:?}");
    }
    // The word on channel binding goes with the mechanism.
    for (mechanism, header, expected) in [
        (Mechanism::Sha256, "n,,", Ok(())),
        (Mechanism::Sha256, "y,,", Err(Error::Downgraded)),
        (Mechanism::Sha256, "p=tls-exporter,,", Err(Error::Downgraded)),
        (Mechanism::Sha256Plus, "n,,", Err(Error::Downgraded)),
        (Mechanism::Sha256Plus, "y,,", Err(Error::Downgraded)),
        (Mechanism::Sha256Plus, "p=tls-unique,,", Err(Error::Downgraded)),
        (Mechanism::Sha256Plus, "p=tls-server-end-point,,", Err(Error::Downgraded)),
        (Mechanism::Sha256Plus, "p=tls-exporter,,", Ok(())),
        (Mechanism::Sha256Plus, "p=tls-exporter,a=u,", Ok(())),
        (Mechanism::Sha256Plus, "p=tls-exporter,a=root,", Err(Error::Denied)),
    ] {
        let first = format!("{header}n=u,r=abc");
        let started = Server::start(mechanism, Some(&channel), first.as_bytes());
        assert_eq!(started.map(drop), expected, "{mechanism:?} {header}");
    }
    // A header that was changed on the way, in both messages.
    let (client, first) = Client::start(credentials("u", "p"), Binding::NotOffered).unwrap();
    let changed = String::from_utf8(first).unwrap().replacen('y', "n", 1);
    let server = Server::start(Mechanism::Sha256, Some(&channel), changed.as_bytes()).unwrap();
    let (server, challenge) = server.challenge(verifier("p")).unwrap();
    let (_, proof) = client.answer(&challenge).unwrap();
    assert_eq!(server.finish(&proof), Err(Error::OtherChannel));
}

/// Once a server has proved itself the password is gone: the same salt needs it no more, another one asks
/// for it.
#[test]
fn the_password_is_kept_no_longer_than_needed() {
    let (user, same) = (credentials("u", "p"), verifier("p"));
    for _ in 0..2 {
        let used = exchange(same.clone(), Arc::clone(&user), Binding::Unsupported, None);
        assert_eq!(used, Ok(()));
    }
    let (client, first) = Client::start(user, Binding::Unsupported).unwrap();
    let server = Server::start(Mechanism::Sha256, None, &first).unwrap();
    let (_, challenge) = server.challenge(verifier("p")).unwrap();
    assert_eq!(client.answer(&challenge).unwrap_err(), Error::Forgotten);
}

/// Every state with every message: the right one alone goes on.
#[test]
fn every_state_with_every_message() {
    let parts = || {
        let (client, first) = Client::start(credentials("u", "p"), Binding::Unsupported).unwrap();
        let server = Server::start(Mechanism::Sha256, None, &first).unwrap();
        let (server, challenge) = server.challenge(verifier("p")).unwrap();
        (client, server, first, challenge)
    };
    let (client, server, first, challenge) = parts();
    let (_, proof) = client.answer(&challenge).unwrap();
    let signature = server.finish(&proof).unwrap();
    let error = b"e=other-error".to_vec();
    let events = [first, challenge, proof, signature, error, Vec::new(), b"\xff\0".to_vec()];
    let malformed = |part| Err(Error::Malformed(part));
    for (index, event) in events.iter().enumerate() {
        // A new server reads a first message, and nothing else.
        let started = Server::start(Mechanism::Sha256, None, event).map(drop);
        let expected = if index == 0 { Ok(()) } else { malformed(Part::ClientFirst) };
        assert_eq!(started, expected, "start {index}");
        // A client in its first state reads a challenge; one of an earlier exchange is not for it.
        let (client, server, ..) = parts();
        let expected = match index {
            1 => Err(Error::ForeignNonce),
            _ => malformed(Part::ServerFirst),
        };
        assert_eq!(client.answer(event).map(drop), expected, "answer {index}");
        // A server that has challenged reads a proof; one that was made for another is wrong.
        let expected = match index {
            2 => Err(Error::Denied),
            _ => malformed(Part::ClientFinal),
        };
        assert_eq!(server.finish(event).map(drop), expected, "finish {index}");
        // A client that has proved reads a signature or an error.
        let (client, _, _, challenge) = parts();
        let (client, _) = client.answer(&challenge).unwrap();
        let expected = match index {
            3 => Err(Error::Impostor),
            4 => Err(Error::Refused("other-error".to_owned())),
            _ => malformed(Part::ServerFinal),
        };
        assert_eq!(client.verify(event), expected, "verify {index}");
    }
}

#[test]
fn a_proof_of_any_length_is_only_wrong() {
    for len in [0, 1, 31, 32, 33, 64, 300] {
        let (client, first) = Client::start(credentials("u", "p"), Binding::Unsupported).unwrap();
        let server = Server::start(Mechanism::Sha256, None, &first).unwrap();
        let (server, challenge) = server.challenge(verifier("p")).unwrap();
        let (_, proof) = client.answer(&challenge).unwrap();
        let proof = String::from_utf8(proof).unwrap();
        let (without, _) = proof.rsplit_once(",p=").unwrap();
        let wrong = format!("{without},p={}", message::encode(&vec![0; len]));
        assert_eq!(server.finish(wrong.as_bytes()), Err(Error::Denied), "{len}");
    }
}

#[test]
fn a_client_judges_the_challenge() {
    let answer = |challenge: &str| {
        let nonce = "abc".to_owned();
        let (client, _) = Client::start_with(credentials("u", "p"), Binding::Unsupported, nonce);
        client.answer(challenge.as_bytes()).map(drop)
    };
    assert_eq!(answer("r=abcd,s=AAEC,i=4096"), Ok(()));
    assert_eq!(answer("r=abc,s=AAEC,i=4096"), Err(Error::ForeignNonce));
    assert_eq!(answer("r=abd,s=AAEC,i=4096"), Err(Error::ForeignNonce));
    for wrong in [1, 4095, u64::from(MAX_ITERATIONS) + 1, 1 << 32 | 4096, u64::MAX] {
        let challenge = format!("r=abcd,s=AAEC,i={wrong}");
        assert_eq!(answer(&challenge), Err(Error::Iterations(wrong)));
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_noticed() {
    let (client, first) = Client::start(credentials("u", "p"), Binding::Unsupported).unwrap();
    let server = Server::start(Mechanism::Sha256, None, &first).unwrap();
    let (_, challenge) = server.challenge(Verifier::unknown(b"x", "u", ROUNDS)).unwrap();
    let (client, _) = client.answer(&challenge).unwrap();
    let lie = format!("v={}", message::encode(&[0; 32]));
    assert_eq!(client.verify(lie.as_bytes()), Err(Error::Impostor));
}

#[test]
fn nothing_shows_a_secret() {
    let canary = "canary-7h2k";
    let credentials = credentials("u", canary);
    let (client, first) =
        Client::start(Arc::clone(&credentials), Binding::TlsExporter(canary.into())).unwrap();
    let server = Server::start(Mechanism::Sha256Plus, Some(canary.as_bytes()), &first).unwrap();
    let verifier = verifier(canary);
    let shown = format!("{credentials:?} {client:?} {server:?} {verifier:?}");
    let (server, challenge) = server.challenge(verifier).unwrap();
    let (client, proof) = client.answer(&challenge).unwrap();
    let shown = format!("{shown} {client:?} {server:?}");
    assert!(!shown.contains(canary), "{shown}");
    assert!(!shown.contains("key"), "{shown}");
    client.verify(&server.finish(&proof).unwrap()).unwrap();
}
