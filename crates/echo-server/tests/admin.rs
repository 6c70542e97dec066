//! The admin endpoint beside a real service: what it says, to whom, and how long.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::http::Admin;
use support::process::{eventually, leave_room};
use support::traffic::*;
use support::{PATIENCE, Server, Signal, command, command_under, skip};

const TCP: &str = "--listen=tcp://127.0.0.1:0";
const UDP: &str = "--listen=udp://127.0.0.1:0";
const ADMIN: &str = "--admin=127.0.0.1:0";

/// Feeds `text` to a program and gives what it says where it is not content.
fn complaints(mut program: Command, text: &str) -> Option<String> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("it was there before");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    (!output.status.success() || !said[1].is_empty()).then(|| said.concat())
}

fn can_run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A server with some traffic of every kind behind it.
fn used_server(folder: &std::path::Path) -> (Server, Admin, Vec<Peer>) {
    let unix = format!("--listen=unix:{}/a%20\"quoted\"%0Aname", folder.display());
    let files = format!("--files={}", folder.display());
    let server = Server::start(&[TCP, &unix, UDP, ADMIN, "--max-frame=1KiB", &files]);
    let admin = Admin::of(&server);
    let tcp = server.uris()[0].clone();
    let open = vec![Peer::connect(&tcp), Peer::connect(&tcp), Peer::connect(&tcp)];
    (0..100).for_each(|_| open[0].round_trip(&echo(b"frame")));
    open[1].round_trip(b"text");
    assert_eq!(exchange(&tcp, &echo(b"done")), (echo(b"done"), End::Fin));
    let hello = Peer::connect(&tcp);
    hello.hello();
    hello.send(&frame(ECHO, &[0; 2000]));
    assert_eq!(hello.read_frame().expect("an ERROR").error(), (1, false));
    drop(hello);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(server.address_of(2)).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    udp.send(b"datagram").unwrap();
    udp.recv(&mut [0; 8]).unwrap();
    (server, admin, open)
}

/// What a scraper gets is what has happened, by listener, state and way of ending.
#[test]
fn the_metrics_are_true() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, admin, open) = used_server(folder.path());
    let tcp = format!("listener=\"{}\"", server.uris()[0]);
    eventually("two have ended", || {
        admin.metrics().get(&format!("echo_connections_ended_total{{{tcp}")) == 2
    });
    let metrics = admin.metrics();
    for (sample, value) in [
        (format!("echo_connections_accepted_total{{{tcp}}}"), 5),
        (format!("echo_connections{{{tcp},state=\"undecided\"}}"), 1),
        (format!("echo_connections{{{tcp},state=\"raw\"}}"), 1),
        (format!("echo_connections{{{tcp},state=\"framed\"}}"), 1),
        (format!("echo_connections{{{tcp},state=\"closing\"}}"), 0),
        (format!("echo_connections_ended_total{{{tcp},ending=\"completed\"}}"), 2),
        ("echo_connections_accepted_total".into(), 5),
        ("echo_frames_total".into(), 100 + 1 + 2),
        ("echo_limit_reached_total{limit=\"frame_length\"}".into(), 1),
        ("echo_datagrams_received_total".into(), 1),
        ("echo_datagrams_answered_total".into(), 1),
        ("echo_datagrams_unanswered_total".into(), 0),
        ("echo_service_seconds_count{transport=\"datagram\"}".into(), 1),
        ("echo_ready".into(), 1),
        ("echo_draining".into(), 0),
        ("echo_drains_total".into(), 0),
    ] {
        assert_eq!(metrics.get(&sample), value, "{sample} in:\n{}", metrics.0);
    }
    let sent = 100 * 9 + 4 + 8 + 4 + 2004 + 8;
    assert_eq!(metrics.get("echo_received_bytes_total"), sent, "{}", metrics.0);
    let measured = metrics.get("echo_service_seconds_count{transport=\"stream\"}");
    assert!((1..=30).contains(&measured), "{measured} of about 103 turns");
    assert!(
        metrics.get("process_open_fds") > 8 && metrics.get("process_resident_memory_bytes") > 0
    );
    drop(open);
    assert_eq!(server.stop(), Some(0));
}

/// README's table of bounds has each one that is counted, and no other.
#[test]
fn every_bound_is_in_the_readme_and_counted() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let table = readme.split("| bound | default | option | `limit` |").nth(1).expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named =
        rows.map(|row| row.rsplit(" | ").next().and_then(|it| it.split('`').nth(1)).unwrap_or(row));
    let named: std::collections::BTreeSet<_> = named.collect();
    let mut server = Server::start(&[TCP, ADMIN]);
    let metrics = Admin::of(&server).metrics();
    let counted =
        metrics.0.lines().filter_map(|line| line.strip_prefix("echo_limit_reached_total{limit=\""));
    let counted: std::collections::BTreeSet<_> =
        counted.filter_map(|it| it.split('"').next()).collect();
    assert_eq!(named, counted);
    assert_eq!(server.stop(), Some(0));
}

/// Prometheus' own checker finds nothing, and the OpenMetrics parser of its Python client reads all.
#[test]
fn scrapers_read_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, admin, open) = used_server(folder.path());
    if can_run("promtool", &["--version"]) {
        let text = admin.get_as("/metrics", "text/plain;version=0.0.4").unwrap();
        assert!(text.headers.contains("content-type: text/plain; version=0.0.4"), "{text:?}");
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        assert_eq!(complaints(promtool, &text.body), None, "{}", text.body);
    } else {
        skip("scrapers_read_both_forms", "promtool (Debian: prometheus)");
    }
    let parse = "import sys\n\
                 from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
                 families = list(text_string_to_metric_families(sys.stdin.read()))\n\
                 names = [sample.name for family in families for sample in family.samples]\n\
                 assert 'echo_service_seconds_bucket' in names, names\n\
                 assert len(families) == len({family.name for family in families})\n\
                 assert [family.type for family in families if family.name == 'echo_build'] == ['info']\n\
                 assert [family.unit for family in families if family.name == 'echo_service_seconds'] == ['seconds']\n\
                 label = next(sample.labels['listener'] for family in families\n\
                 \x20            for sample in family.samples if 'unix' in sample.labels.get('listener', ''))\n\
                 assert label.endswith('/a \"quoted\"\\nname'), label\n";
    if can_run("/usr/bin/python3", &["-c", "import prometheus_client.openmetrics.parser"]) {
        let text = admin.get_as("/metrics", "application/openmetrics-text;version=1.0.0").unwrap();
        assert!(text.headers.contains("application/openmetrics-text; version=1.0.0"), "{text:?}");
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", parse]);
        assert_eq!(complaints(python, &text.body), None, "{}", text.body);
    } else {
        skip("scrapers_read_both_forms", "prometheus_client (Debian: python3-prometheus-client)");
    }
    drop(open);
    assert_eq!(server.stop(), Some(0));
}

/// Readiness fails with the signal, before anything else happens; liveness and metrics are there to the end
/// of the drain.
#[test]
fn readiness_fails_first_and_the_rest_stays() {
    let waits = ["--drain-delay=1s", "--drain-timeout=10min", "--frame-timeout=10min"];
    let mut server = Server::start(&[&[TCP, ADMIN][..], &waits].concat());
    let (admin, uri) = (Admin::of(&server), server.uris()[0].clone());
    assert_eq!((admin.get("/readyz").status, admin.get("/healthz").status), (200, 200));
    let stuck = Peer::connect(&uri);
    stuck.round_trip(&header(ECHO, 10));
    server.signal(Signal::TERM);
    eventually("not ready", || admin.get("/readyz").status == 503);
    let why = admin.get("/readyz").body;
    assert!(why.contains("SIGTERM") && why.contains("1 connections are open"), "{why}");
    // Who is turned away came after the delay.
    let served = Peer::try_connect(&uri, |_| Ok(())).is_ok_and(|new| {
        new.try_send(b"new").is_ok() && new.read_exact(3).as_deref() == Some(b"new")
    });
    assert!(served || admin.metrics().get("echo_draining") == 1);
    // Which each listener counts when it notices.
    eventually("the drain", || admin.metrics().get("echo_drains_total") == 1);
    assert_eq!(admin.metrics().get("echo_draining"), 1);
    for _ in 0..5 {
        let metrics = admin.metrics();
        assert_eq!((metrics.get("echo_drains_total"), metrics.get("echo_ready")), (1, 0));
        assert_eq!(admin.get("/healthz").status, 200);
    }
    stuck.round_trip(&[7; 10]);
    drop(stuck);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
}

/// At the connection limit, in a flood of slow requests, and without descriptors, an answer comes.
#[test]
fn it_answers_whatever_is_full() {
    let mut server = Server::start(&[TCP, ADMIN, "--max-connections=5"]);
    let (admin, uri) = (Admin::of(&server), server.uris()[0].clone());
    admin.get("/readyz");
    leave_room(server.pid(), 5);
    let open: Vec<_> = (0..5).map(|_| Peer::connect(&uri)).collect();
    open.iter().for_each(|peer| peer.round_trip(b"open"));
    let waiting = Peer::connect(&uri);
    let Admin::Tcp(address) = admin else { unreachable!() };
    let mut slow = Vec::new();
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
        slow.push(stream);
        let began = Instant::now();
        assert_eq!(admin.get("/readyz").body, "ready\n");
        worst = worst.max(began.elapsed());
    }
    println!("at most {worst:?} for an answer at the limits");
    let metrics = admin.metrics();
    assert_eq!(metrics.get("echo_limit_reached_total{limit=\"connections\"}"), 1);
    assert!(
        metrics.get("echo_limit_reached_total{limit=\"admin_connections\"}") >= 30,
        "{metrics:?}"
    );
    assert!(worst < PATIENCE / 2, "{worst:?}");
    drop((open, waiting, slow));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_unix_path_is_made_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut server = Server::start(&[TCP, &format!("--admin=unix:{}?perm=0600", path.display())]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Admin::Unix(path.clone()).get("/healthz").body, "ok\n");
    server.wait_for_stderr("admin: /metrics on unix:");
    assert_eq!(server.stop(), Some(0));
    assert!(!path.exists());
}

#[test]
fn an_admin_address_that_cannot_be_had_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [taken.local_addr().unwrap().to_string(), "192.0.2.1:9090".to_owned()] {
        let mut command = command();
        command.args([TCP, "--admin", &address]);
        let mut server = Server::spawn(command);
        assert_eq!(server.wait(PATIENCE).code(), Some(69));
        let said = server.stderr();
        let line = said.lines().last().unwrap_or_default();
        assert!(line.starts_with("echo-server: cannot listen on --admin tcp://"), "{said}");
        assert_eq!(server.stdout(), "", "it listens nowhere");
    }
}

/// What is no HTTP at all hurts nobody, over a real socket too.
#[test]
fn garbage_is_refused() {
    let mut server = Server::start(&[TCP, ADMIN]);
    let admin = Admin::of(&server);
    let Admin::Tcp(address) = admin else { unreachable!() };
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let mut garbage = vec![0; random.usize(..20_000)];
        random.fill(&mut garbage);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A refusal may come before the end.
        let _ =
            stream.write_all(&garbage).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{}",
            answer.escape_ascii()
        );
    }
    assert_eq!(admin.get("/healthz").body, "ok\n");
    assert_eq!(server.stop(), Some(0));
    let log = server.stderr();
    assert!(log.lines().count() <= 4 && !log.contains("WARN"), "{log}");
}

/// Wherever the name is: the resolver's servers never answer.
#[test]
fn a_stop_is_heard_while_a_name_resolves() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let servers = file("servers", "nameserver 192.0.2.1\noptions timeout:30 attempts:5\n");
    let order = file("order", "hosts: dns\n");
    // A network of its own, with a cable to nobody.
    let script = "ip link set lo up && ip link add cable type veth peer name end && \
                  ip link set cable up && ip link set end up && ip address add 192.0.2.2/24 dev cable && \
                  ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev cable && \
                  mount --bind \"$0\" /etc/resolv.conf && \
                  mount --bind \"$1\" /etc/nsswitch.conf && shift && exec \"$@\"";
    let alone = ["unshare", "--net", "--mount", "sh", "-c", script, &servers, &order];
    let mut probe = Command::new(alone[0]);
    if !probe.args(&alone[1..]).arg("true").output().is_ok_and(|it| it.status.success()) {
        let missing = "root, and network and mount namespaces (unshare, ip)";
        return skip("a_stop_is_heard_while_a_name_resolves", missing);
    }
    let listen = "--listen=tcp://nobody.example:1";
    for (args, code) in [
        ([TCP, "--admin=nobody.example:1"], 0),
        ([ADMIN, listen], 0),
        // What is in its own way is looked for when an address cannot be had.
        (["--admin=192.0.2.9:1", listen], 69),
    ] {
        let mut command = command_under(&alone);
        command.args(args);
        let mut server = Server::spawn(command);
        let sockets = format!("/proc/{}/net/udp", server.pid());
        eventually("it asks for the name", || {
            fs::read_to_string(&sockets).is_ok_and(|it| it.contains(" 010200C0:0035 "))
        });
        assert_eq!(server.stop(), Some(code));
    }
}
