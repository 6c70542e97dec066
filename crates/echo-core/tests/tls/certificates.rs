//! Certificates that are not believed: each with a line of its own, on both sides.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use echo_core::client::{Client, Fault};
use echo_core::tls::{Authorities, Identity, Policy, Server};
use echo_core::{HandshakeFault, Limits};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};

use crate::support::{Authority, Running, quick, until};

/// Each way not to be believed, in words that say what to do; and the server knows why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_believed_is_told_why() {
    let stranger = Authority::new();
    let (authority, namesake) = (Authority::named("one"), Authority::named("one"));
    let day = |year| rcgen::date_time_ymd(year, 1, 1);
    let expired = authority.issue(|it| (it.not_before, it.not_after) = (day(2001), day(2002)));
    let early = authority.issue(|it| (it.not_before, it.not_after) = (day(2900), day(2901)));
    let named = authority.issue(|it| {
        it.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    });
    let nameless = authority.issue(|it| it.subject_alt_names.clear());
    for (identity, told) in [
        (nameless, "the server's certificate names no host: it needs one for 127.0.0.1"),
        (expired, "has expired"),
        (early, "is not valid yet"),
        (named, "is for other.example, not for 127.0.0.1: connect by such a name"),
        (stranger.identity(), "nobody trusted here vouches"),
        (
            namesake.identity(),
            "not signed by the authority that is trusted here under the same name",
        ),
        (authority.client_identity(), "is not for servers"),
        (
            authority.issue(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "shows a certificate for authorities: it needs one that is not (CA:FALSE)",
        ),
    ] {
        let server = Server::new(identity, None).unwrap();
        let running = Running::start(Policy::Always(server), Limits::default());
        let error = Client::connect(running.target(), authority.options()).await.unwrap_err();
        let words = error.to_string();
        assert!(words.starts_with("untrusted: tls://127.0.0.1:"), "{words}");
        assert!(words.contains(told), "{told}: {words}");
        assert_eq!(error.fault(), Fault::Server);
        until(|| running.service.stats().tls.failed(HandshakeFault::Rejected) == 1).await;
        // Whoever believes anybody gets in.
        let anybody = echo_core::tls::Client::new(None, None).unwrap();
        let options = echo_core::client::Options { tls: Some(anybody), ..quick() };
        let mut client = Client::connect(running.target(), options).await.unwrap();
        client.echo(b"x").await.unwrap();
        running.drain().await;
    }
    // A server without TLS: one that echoes what it gets, and one that says nothing of the kind.
    let plain = Running::start(Policy::Plain, Limits::default());
    let error = Client::connect(plain.target(), authority.options()).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS there: try tcp://"), "{error}");
    plain.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_show_certificates_where_they_have_to() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::new(authority.identity(), Some(authority.trusted())).unwrap();
    let running = Running::start(Policy::Always(server), Limits::default());
    let day = |year| rcgen::date_time_ymd(year, 1, 1);
    let term = |from, to| {
        authority.issue(|it| {
            it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            (it.not_before, it.not_after) = (day(from), day(to));
        })
    };
    let for_servers =
        authority.issue(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let for_authorities =
        authority.issue(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    for (identity, told, fault) in [
        (None, "requires a client certificate", HandshakeFault::NoCertificate),
        (
            Some(stranger.client_identity()),
            "does not know the authority",
            HandshakeFault::BadCertificate,
        ),
        // One alert stands for both.
        (
            Some(term(2001, 2002)),
            "has expired, or is not valid yet",
            HandshakeFault::BadCertificate,
        ),
        (
            Some(term(2900, 2901)),
            "has expired, or is not valid yet",
            HandshakeFault::BadCertificate,
        ),
        (Some(for_servers), "does not take our certificate (", HandshakeFault::BadCertificate),
        (Some(for_authorities), "does not take our certificate (", HandshakeFault::BadCertificate),
    ] {
        let before = running.service.stats().tls.failed(fault);
        let options = authority.options_with(identity);
        let error = Client::connect(running.target(), options).await.unwrap_err();
        assert!(error.to_string().starts_with("refused: the server "), "{error}");
        assert!(error.to_string().contains(told), "{told}: {error}");
        until(|| running.service.stats().tls.failed(fault) == before + 1).await;
    }
    let options = authority.options_with(Some(authority.client_identity()));
    let mut client = Client::connect(running.target(), options).await.unwrap();
    client.echo(b"known").await.unwrap();
    running.drain().await;
}

/// Signatures and keys of a kind that nobody should rely on any more, as openssl makes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_signatures_and_keys_are_told() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "openssl is missing");
        println!("SKIPPED weak_signatures_and_keys_are_told: openssl");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    make(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca",
    );
    std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    for (name, bits, digest) in [("sha1", 2048, "sha1"), ("short", 1024, "sha256")] {
        make(
            folder.path(),
            &format!(
                "req -newkey rsa:{bits} -nodes -keyout {name}.key -out {name}.csr -subj /CN=x"
            ),
        );
        make(
            folder.path(),
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -{digest} -days 9 \
                 -extfile names -out {name}.pem"
            ),
        );
    }
    let trusted = Authorities::from_pem(&made("ca.pem")).unwrap();
    let tls = Some(echo_core::tls::Client::new(Some(trusted), None).unwrap());
    let options = echo_core::client::Options { tls, ..quick() };

    let identity = Identity::from_pem(&made("sha1.pem"), &made("sha1.key")).unwrap();
    let running =
        Running::start(Policy::Always(Server::new(identity, None).unwrap()), Limits::default());
    let error = Client::connect(running.target(), options.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is signed in a way that is not safe any more"), "{error}");
    running.drain().await;

    // Ours does not show it, others do.
    let error = Identity::from_pem(&made("short.pem"), &made("short.key")).unwrap_err().to_string();
    assert!(error.starts_with("the key cannot be used: "), "{error}");
    let (mut other, addr) = openssl_server(folder.path());
    let target: echo_core::Endpoint = format!("tls://{addr}").parse().unwrap();
    let error = Client::connect(target, options).await.unwrap_err().to_string();
    let _ = (other.kill(), other.wait());
    assert!(error.contains("the key of the server's certificate"), "{error}");
}

fn make(folder: &Path, args: &str) {
    let made = Command::new("openssl").args(args.split_whitespace()).current_dir(folder).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{args}: {}", String::from_utf8_lossy(&made.stderr));
}

/// A server of openssl's that shows the short key.
fn openssl_server(folder: &Path) -> (Child, String) {
    let args =
        "s_server -accept 127.0.0.1:0 -cert short.pem -key short.key -cipher ALL:@SECLEVEL=0";
    let mut child = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("ACCEPT ").map(|addr| addr.trim().to_owned()));
    (child, ready.unwrap())
}
