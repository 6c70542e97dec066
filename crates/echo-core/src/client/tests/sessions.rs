//! Random sessions with our own server, over connections that break anywhere: each reply comes once
//! and in order.

use tokio::io::copy_bidirectional;

use super::*;

/// A path that passes a random number of bytes each way, in random pieces, and breaks then.
async fn break_somewhere(mut near: DuplexStream, mut far: DuplexStream, mut random: fastrand::Rng) {
    let (mut up, mut down) = (random.usize(..40_000), random.usize(..40_000));
    let (mut here, mut there) = (vec![0; 3000], vec![0; 3000]);
    let mut open = true;
    while up > 0 && down > 0 {
        let most = random.usize(1..=3000);
        tokio::task::yield_now().await;
        tokio::select! {
            read = near.read(&mut here[..most.min(up)]), if open => match read {
                Ok(0) => {
                    open = false;
                    far.shutdown().await.unwrap();
                }
                Ok(len) if far.write_all(&here[..len]).await.is_ok() => up -= len,
                _ => return,
            },
            read = far.read(&mut there[..most.min(down)]) => match read {
                Ok(len @ 1..) if near.write_all(&there[..len]).await.is_ok() => down -= len,
                _ => return,
            },
        }
    }
}

async fn session(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (backend, drain, _server) = serve(Mode::Auto);
    let (mut front, connector) = scripted();
    let mut paths = JoinSet::new();
    let mut path_seed = random.fork();
    let relay = async move {
        loop {
            let near = front.accept().await;
            let Ok(far) = backend.connect().await else { return };
            paths.spawn(break_somewhere(near, far, path_seed.fork()));
        }
    };
    let exchange = async {
        let window = random.usize(1..60_000);
        let options = Options { window, parts: random.bool(), ..retrying(600) };
        let mut client = Client::connect(connector, options).await.unwrap();
        let (mut due, mut asked) = (std::collections::VecDeque::new(), 0);
        let mut parts = Vec::new();
        loop {
            while asked < 300 && (client.room() > 2032 || client.unanswered() == 0) {
                let payload: Vec<u8> = (0..random.usize(..2000)).map(|_| random.u8(..)).collect();
                let probe = random.u8(..10) == 0;
                let pushed =
                    if probe { client.push_probe(&payload) } else { client.push(&payload) };
                assert_eq!(pushed, Ok(asked), "seed {seed}");
                due.push_back((payload, probe));
                asked += 1;
            }
            if asked == 300 {
                client.finish();
            }
            match client.next().await.unwrap() {
                Some(Event::Reply(reply)) => {
                    let (payload, probe) = due.pop_front().unwrap();
                    assert_eq!(reply.seq, asked - 1 - due.len() as u64, "seed {seed}");
                    assert_eq!((reply.payload, reply.stamps.is_some()), (&payload[..], probe));
                    parts.extend_from_slice(reply.fresh);
                    assert!(parts == payload, "seed {seed}");
                    parts.clear();
                }
                Some(Event::Part(part)) => parts.extend_from_slice(part),
                Some(event @ (Event::Refused(_) | Event::Unexpected(_))) => {
                    panic!("seed {seed}: {}", told(Some(event)))
                }
                Some(_) => {}
                None => break,
            }
        }
        assert!(due.is_empty() && asked == 300, "seed {seed}");
    };
    tokio::select! {
        () = exchange => {}
        () = relay => unreachable!(),
    }
    drain.start(Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn replies_come_once_over_paths_that_break() {
    let rounds = if std::env::var_os("LONG").is_some() { 3000 } else { 60 };
    for seed in 0..rounds {
        session(seed).await;
    }
}

/// A server that drains again and again, each time another one in its place.
#[tokio::test(start_paused = true)]
async fn replies_come_once_over_restarts() {
    let (mut front, connector) = scripted();
    let mut client = std::pin::pin!(Client::connect(connector, retrying(60)));
    let mut random = fastrand::Rng::with_seed(1);
    let restarts = if std::env::var_os("LONG").is_some() { 500 } else { 20 };
    let relay = async {
        for _ in 0..restarts {
            let (backend, drain, mut server) = serve(Mode::Auto);
            let mut near = front.accept().await;
            let mut far = backend.connect().await.unwrap();
            let turns = random.usize(1..300);
            let stop = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                drain.start(Duration::from_secs(30));
            };
            // Ends when both sides have: the server's by its drain, the client's by that.
            let (passed, ()) = tokio::join!(copy_bidirectional(&mut near, &mut far), stop);
            drop((passed, near, far));
            while server.join_next().await.is_some() {}
        }
        loop {
            drop(front.accept().await);
        }
    };
    let exchange = async {
        let mut client = client.as_mut().await.unwrap();
        let (mut seen, mut asked, mut connections) = (0, 0, 1);
        while connections < restarts {
            while client.room() > 4000 {
                client.push(&[asked as u8; 300]).unwrap();
                asked += 1;
            }
            match client.next().await.unwrap().unwrap() {
                Event::Reply(reply) => {
                    assert_eq!((reply.seq, reply.payload), (seen, &[seen as u8; 300][..]));
                    seen += 1;
                }
                Event::Connected { .. } => connections += 1,
                _ => {}
            }
        }
        assert!(seen > restarts as u64);
    };
    tokio::select! {
        () = exchange => {}
        () = relay => unreachable!(),
    }
}
