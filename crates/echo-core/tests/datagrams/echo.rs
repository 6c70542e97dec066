//! What comes back.

use super::*;

/// Faults 44 and 47: whole, to the longest that IPv4 and IPv6 can carry, from the address that the
/// client is connected to, also on sockets bound to every address.
#[test]
fn every_length_comes_back_whole_from_every_address() {
    for (bound, targets) in [
        ("127.0.0.1:0", &["127.0.0.1"][..]),
        ("[::1]:0", &["::1"]),
        ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.200.0.1"]),
        ("[::]:0", &["::1", "127.0.0.1", "127.0.0.2"]),
    ] {
        for mode in [Mode::Auto, Mode::Raw] {
            let echoing = Echoing::on_udp(bound, Limits::default(), DatagramEcho::new(mode));
            let mut count = 0;
            for target in targets {
                let client = echoing.client_of(target);
                let longest = if target.contains(':') { 65_527 } else { 65_507 };
                for len in [0, 1, 3, 4, 36, 1200, 1472, 1473, 9000, 65_506, longest] {
                    let message: Vec<u8> = (0..len).map(|byte| (byte % 251) as u8).collect();
                    assert!(exchange(&client, &message) == message, "{len} bytes to {target}");
                    count += 1;
                }
            }
            let (_, datagrams) = echoing.stop();
            assert_eq!((datagrams.received, datagrams.answered), (count, count));
        }
    }
}

#[test]
fn many_at_once_come_back_each_once() {
    let echoing = Echoing::udp();
    let clients: Vec<_> = (0..20).map(|_| echoing.client()).collect();
    for round in 0..10_u8 {
        for (number, client) in clients.iter().enumerate() {
            for index in 0..number {
                // Lengths that can be sent in one go, and lengths that cannot.
                let len = if number % 3 == 0 { 500 + index } else { 500 };
                let mut message = vec![round; len];
                message[0] = index as u8;
                client.send(&message).unwrap();
            }
        }
        for (number, client) in clients.iter().enumerate() {
            let mut seen = vec![false; number];
            for _ in 0..number {
                let mut reply = [0; 1000];
                let len = client.recv(&mut reply).unwrap();
                assert!(len >= 500 && reply[1..len].iter().all(|byte| *byte == round));
                assert!(!std::mem::replace(&mut seen[usize::from(reply[0])], true), "twice");
            }
        }
    }
    let (_, datagrams) = echoing.stop();
    assert_eq!((datagrams.received, datagrams.answered), (1900, 1900));
}

#[test]
fn a_probe_is_stamped_unless_raw() {
    for mode in [Mode::Auto, Mode::Framed] {
        let echoing = Echoing::on_udp("127.0.0.1:0", Limits::default(), DatagramEcho::new(mode));
        let client = echoing.client();
        let mut times = Vec::new();
        for len in [32, 33, 1000] {
            let request = probe(len, 0x10);
            let reply = exchange(&client, &request);
            assert_eq!(reply.len(), request.len());
            assert_eq!((&reply[..12], reply[28]), (&request[..12], 0x11), "the reply bit is set");
            assert_eq!(reply[29..], request[29..]);
            let time = |at: usize| u64::from_be_bytes(reply[at..at + 8].try_into().unwrap());
            times.extend([time(12), time(20)]);
        }
        assert!(times.is_sorted() && times[0] > 0, "{times:?}");
        // An answer is not answered; whatever is no whole PROBE comes back as it is.
        let mut answer = probe(32, 0);
        answer[28] = 1;
        client.send(&answer).unwrap();
        let mut cut = answer.clone();
        cut.pop();
        for other in [probe(31, 1), cut, vec![0x83], [&answer[..], b"?"].concat()] {
            assert_eq!(exchange(&client, &other), other);
        }
        let (_, datagrams) = echoing.stop();
        assert_eq!((datagrams.probe_replies, datagrams.unanswered()), (1, 1));
    }
    let echoing = Echoing::on_udp("127.0.0.1:0", Limits::default(), DatagramEcho::new(Mode::Raw));
    let client = echoing.client();
    for byte in [0, 1] {
        assert_eq!(exchange(&client, &probe(40, byte)), probe(40, byte));
    }
}

/// Faults 29 and 42: whatever comes, what goes back is no longer, and the same but for the stamps.
#[test]
fn nothing_is_amplified() {
    let rounds = if std::env::var_os("LONG").is_some() { 1_000_000 } else { 5_000 };
    let echo = DatagramEcho::new(Mode::Auto).rate(rate(u32::MAX));
    let echoing = Echoing::on_udp("127.0.0.1:0", Limits::default(), echo);
    let client = echoing.client();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for _ in 0..rounds {
        let len = if random.bool() { random.usize(..80) } else { random.usize(..2000) };
        let mut message: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        let mut is_probe = false;
        if let Some(head) = message.first_chunk_mut::<4>() {
            // Frames of some kind more often than not, with their own length or nearly so.
            let off = random.choice([0, 0, 0, 1, 255]).unwrap();
            let declared = (len as u32 - 4).wrapping_add(off) & 0xff_ffff;
            let kind = random.choice([0x83_u8, 0x83, 0x80, 0x00, 0x90]).unwrap();
            *head = (u32::from(kind) << 24 | declared).to_be_bytes();
            is_probe = kind == 0x83 && off == 0 && len >= 36;
        }
        bytes_in += len;
        if is_probe && message[28] & 1 == 1 {
            client.send(&message).unwrap(); // Gets no answer.
            continue;
        }
        let reply = exchange(&client, &message);
        bytes_out += reply.len();
        assert_eq!(reply.len(), len);
        if is_probe {
            message[12..28].copy_from_slice(&reply[12..28]);
            message[28] |= 1;
        }
        assert!(reply == message, "{message:02x?}");
    }
    println!("{rounds} datagrams: {bytes_out} bytes out, {bytes_in} in");
    assert!(bytes_out <= bytes_in);
    let (_, datagrams) = echoing.stop();
    assert_eq!(datagrams.answered + datagrams.probe_replies, rounds);
}

/// The loops of datagram sockets answer `Service::ping`, and mode and rate change under them.
#[test]
fn loops_answer_pings_and_the_echo_changes_while_it_runs() {
    let service = Service::default();
    let echo = Arc::new(DatagramEcho::new(Mode::Auto));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let addr = "127.0.0.1:0".parse().unwrap();
        let socket = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap().remove(0);
        let LocalAddr::Udp(addr) = *socket.local_addr() else { panic!("{socket:?}") };
        let mut serving = JoinSet::new();
        serving.spawn(serve_datagrams(socket, service.clone(), Arc::clone(&echo)));
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(addr).await.unwrap();
        for raw in [false, true] {
            echo.set_mode(if raw { Mode::Raw } else { Mode::Auto });
            let sent = probe(40, 6);
            client.send(&sent).await.unwrap();
            let mut reply = [0; 64];
            assert_eq!(client.recv(&mut reply).await.unwrap(), sent.len());
            assert_eq!(reply[..sent.len()] == sent, raw, "stamped unless raw");
        }
        service.ping().await;
        echo.set_rate(rate(1));
        client.send(b"takes the only token").await.unwrap();
        client.send(b"finds none").await.unwrap();
        while service.stats().datagrams.over_rate == 0 {
            tokio::task::yield_now().await;
        }
        service.drain().start(PATIENCE);
        assert!(serving.join_next().await.unwrap().unwrap().is_ok());
    });
}
