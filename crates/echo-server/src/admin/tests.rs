use std::io;
use std::sync::mpsc;

use echo_core::{Echo, Mode, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::logging::Log;
use crate::readiness::Readiness;

/// An endpoint in memory, on the clock of its test.
struct Running {
    connector: echo_core::Connector,
    answers: Arc<Answers>,
    stop: Drain,
    task: JoinSet<()>,
}

impl Running {
    fn start() -> Self {
        Self::of(Service::default())
    }

    fn of(service: Service) -> Self {
        let (listener, connector) = Listener::memory();
        let readiness = Readiness::starting();
        readiness.ready();
        let metrics =
            Metrics::new(service, Arc::default(), Arc::default(), readiness, Log::nowhere())
                .unwrap();
        let answers = Arc::new(Answers { metrics });
        let stop = Drain::new();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&answers), stop.clone()));
        Self { connector, answers, stop, task }
    }

    async fn connect(&self) -> DuplexStream {
        self.connector.connect().await.unwrap()
    }

    /// Sends a request, half-closes, and gives what came.
    async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // It may have been refused before it was all sent.
        let _ = stream.write_all(request.as_ref()).await;
        let _ = stream.shutdown().await;
        rest(stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n")).await
    }

    async fn stop(mut self) {
        self.stop.cut();
        while self.task.join_next().await.is_some() {}
    }
}

async fn rest(mut stream: DuplexStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn an_address_or_a_path() {
    for (given, uri) in [
        ("127.0.0.1:9090", "tcp://127.0.0.1:9090"),
        ("[::1]:9090", "tcp://[::1]:9090"),
        ("localhost:9090", "tcp://localhost:9090"),
        ("unix:/run/admin.sock?perm=0600", "unix:/run/admin.sock?perm=0600"),
    ] {
        assert_eq!(endpoint(given).map(|it| it.to_string()).as_deref(), Ok(uri));
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_three_pages() {
    let admin = Running::start();
    for (path, code, word) in [
        ("/healthz", "200", "ok\n"),
        ("/readyz", "200", "ready\n"),
        ("/metrics", "200", "# TYPE echo_connections_accepted_total counter\n"),
        ("/metrics?name=x", "200", "echo_frames_total 0\n"),
        ("http://elsewhere/healthz", "200", "ok\n"),
        ("/", "404", "/metrics, /healthz and /readyz\n"),
        ("/metrics/", "404", "there are"),
        ("/../metrics", "404", "there are"),
    ] {
        let answer = admin.get(path).await;
        assert!(status(&answer) == code && answer.contains(word), "{path}: {answer}");
        for header in ["cache-control: no-store", "connection: close", "content-length: ", "date: "]
        {
            assert!(answer.contains(header), "{path}: no {header} in {answer}");
        }
    }
    admin.answers.metrics.readiness.ending("SIGTERM".to_owned());
    let answer = admin.get("/readyz").await;
    assert!(
        status(&answer) == "503" && answer.ends_with("draining: SIGTERM; 0 connections are open\n")
    );
    assert_eq!(status(&admin.get("/healthz").await), "200");
    assert!(admin.get("/metrics").await.contains("\necho_ready 0\n"));
    admin.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_form_of_the_metrics_is_negotiated() {
    let admin = Running::start();
    let ask = |accept: &'static str| {
        admin.ask(format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{accept}\r\n"))
    };
    let text = ask("Accept: text/plain\r\n").await;
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    let newer = ask("Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n").await;
    assert!(newer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{newer}");
    assert!(newer.contains("vary: accept") && newer.ends_with("\n# EOF\n"), "{newer}");
    admin.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_has_no_body() {
    let admin = Running::start();
    let answer = admin.ask("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: 3"), "{answer}");
    admin.stop().await;
}

/// Every way to write a request that is none.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused() {
    let admin = Running::start();
    let long = "x".repeat(20_000);
    let many = "A: b\r\n".repeat(HEADERS + 1);
    let mut wrong = Vec::new();
    for (request, code) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{long}"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
        ("GET /healthz HTTP/1.1\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/9.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /healthz\r\n\r\n".into(), "400"),
        ("GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /heal thz HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET healthz HTTP/1.1\r\nHost: a\r\n\r\n".into(), "404"),
        ("GET /health\0z HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/1.1\r\nHost\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/1.1\r\n Host: a\r\n\r\n".into(), "400"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into(), "400"),
        ("G\u{1b}T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".into(), "400"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
            "400",
        ),
        ("\u{16}\u{3}\u{1}\0\u{5}hello".into(), "400"),
        ("hello\n".into(), "400"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".into(), "405"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\nabc".into(), "405"),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz".into(), "405"),
        ("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n".into(), "405"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".into(), "405"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), "405"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "none"),
        ("GET /healthz HTTP/1.1\r\nHo".into(), "none"),
        ("".into(), "none"),
        // Old, but a request.
        ("GET /healthz HTTP/1.0\r\n\r\n".into(), "200"),
        ("GET /healthz HTTP/1.1\nHost: a\n\n".into(), "200"),
    ] {
        let answer = admin.ask(&request).await;
        if status(&answer) != code {
            wrong.push(format!("{:.60}: {answer}", request.escape_debug().to_string()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(admin.answers.metrics.admin.too_long.load(Relaxed), 4);
    // One request a connection: what follows is not answered.
    let two = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    assert_eq!(admin.ask(two).await.matches("HTTP/1.1").count(), 1);
    assert_eq!(status(&admin.get("/healthz").await), "200");
    admin.stop().await;
}

/// Each connection has its time, whatever it sends in which pieces, or does not read.
#[tokio::test(start_paused = true)]
async fn nobody_takes_longer_than_the_deadline() {
    let admin = Running::start();
    let pace = Duration::from_millis(200);
    for trickle in
        [&b""[..], b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let began = Instant::now();
        let mut stream = admin.connect().await;
        for piece in trickle.chunks(1) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            sleep(pace).await;
        }
        let answered = !rest(stream).await.is_empty();
        assert!(began.elapsed() <= DEADLINE + pace, "{:?}", began.elapsed());
        assert!(
            !answered || trickle.len() < 25,
            "{} bytes took more than the deadline",
            trickle.len()
        );
    }
    // An answer, and then it does not close.
    let mut stream = admin.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"ok\n") && began.elapsed() < Duration::from_millis(10));
    sleep(DEADLINE + Duration::from_millis(1)).await;
    assert!(stream.write_all(b"still here?").await.is_err());
    assert_eq!(admin.answers.metrics.admin.late.load(Relaxed), 4);
    admin.stop().await;
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_the_oldest_makes_room() {
    let admin = Running::start();
    let mut slow = VecDeque::new();
    for _ in 0..3 * CONNECTIONS {
        slow.push_back(admin.connect().await);
        assert_eq!(status(&admin.get("/healthz").await), "200");
    }
    let open = admin.answers.metrics.admin.evicted.load(Relaxed);
    assert!(open >= 2 * CONNECTIONS as u64, "{open} made room");
    // The first is gone, the last is not.
    assert_eq!(slow.pop_front().unwrap().read(&mut [0]).await.unwrap(), 0);
    let mut last = slow.pop_back().unwrap();
    last.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    last.shutdown().await.unwrap();
    assert_eq!(status(&rest(last).await), "200");
    admin.stop().await;
}

/// However many half requests there are, who is being answered is not ended, and a whole request is answered.
#[tokio::test(start_paused = true)]
async fn half_requests_end_no_whole_one() {
    let admin = Running::start();
    let mut halves = Vec::new();
    for round in 0..200 {
        // All at once, as a storm comes: none of them is looked at before all are there.
        for _ in 0..2 * CONNECTIONS {
            let mut half = admin.connect().await;
            half.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await.unwrap();
            halves.push(half);
        }
        let mut whole = admin.connect().await;
        whole.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        for _ in 0..2 * CONNECTIONS {
            halves.push(admin.connect().await);
        }
        let answer = rest(whole).await;
        assert_eq!(status(&answer), "200", "round {round}: {answer}");
    }
    admin.stop().await;
}

/// Those that take long to be answered keep their places, and the next waits for one of them.
#[tokio::test(start_paused = true)]
async fn who_is_being_answered_keeps_the_place() {
    let (listener, _connector) = Listener::memory();
    let service = Service::default();
    let serving = echo_core::serve(listener, service.clone(), Arc::new(Echo::new(Mode::Auto)));
    let mut stuck = Box::pin(serving);
    // It begins, and does not go on: it cannot be seen whether it lives before a second has passed.
    assert!(timeout_at(Instant::now(), &mut stuck).await.is_err());
    let admin = Running::of(service);
    let mut asking = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut one = admin.connect().await;
        one.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        asking.push(one);
    }
    sleep(2 * GRACE).await;
    assert_eq!(status(&admin.get("/readyz").await), "200");
    for one in asking {
        assert_eq!(status(&rest(one).await), "503");
    }
    admin.stop().await;
}

/// A loop that is stuck is what a liveness probe is for.
#[tokio::test]
async fn a_stuck_service_is_unhealthy() {
    let workers =
        runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (listener, _connector) = Listener::memory();
    let service = Service::default();
    let serving = echo_core::serve(listener, service.clone(), Arc::new(Echo::new(Mode::Auto)));
    let serving = workers.spawn(serving);
    let admin = Running::of(service.clone());
    assert_eq!(status(&admin.get("/healthz").await), "200");
    let (free, stuck) = mpsc::channel::<()>();
    let (tell, reached) = mpsc::channel();
    let blocking = workers.spawn(async move {
        tell.send(()).unwrap();
        let _ = stuck.recv();
    });
    reached.recv().unwrap();
    let answer = admin.get("/healthz").await;
    assert!(status(&answer) == "503" && answer.contains("stuck"), "{answer}");
    assert_eq!(status(&admin.get("/readyz").await), "200");
    drop(free);
    blocking.await.unwrap();
    service.drain().cut();
    serving.await.unwrap().unwrap();
    admin.stop().await;
    workers.shutdown_background();
}

/// Where accept fails, a spare descriptor is given up at once, then it waits.
#[tokio::test(start_paused = true)]
async fn accept_errors_use_up_spares_and_then_wait() {
    let admin = Running::start();
    for _ in 0..3 * SPARES {
        admin.connector.fail(io::Error::from_raw_os_error(24)); // EMFILE
    }
    assert_eq!(status(&admin.get("/healthz").await), "200");
    admin.connector.fail(io::Error::from_raw_os_error(22)); // EINVAL: the socket is broken.
    tokio::task::yield_now().await;
    admin.stop().await;
}
