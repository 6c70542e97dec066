//! What an idle connection costs: resident bytes of the server per connection, before its first
//! message and after an echo of 16 KiB.
//!
//! Criterion measures time, so this prints a table of its own. A server that keeps a read buffer per
//! connection shows it after the echo; one whose task holds a large future shows it at once. The
//! kernel's socket buffers are not in it: they are the same for all.
//!
//! Each figure comes from a fresh process, this program started again as the server, because freed
//! memory stays with a process.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use benches::{Server, Transport, raise_file_limit};

/// So many that one page more or less does not show.
const CONNECTIONS: usize = 4_000;
const SIZE: usize = 16 << 10;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    raise_file_limit()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [role, name] = &arguments[..]
        && role == "serve"
    {
        return serve(name);
    }
    // Cargo says --bench when figures are wanted, and not when this is run as a test.
    let test = !arguments.iter().any(|argument| argument == "--bench")
        || arguments.iter().any(|argument| argument == "--test");
    let (connections, rounds) = if test { (16, 1) } else { (CONNECTIONS, ROUNDS) };
    let mut out = io::stdout().lock();
    writeln!(out, "bytes per connection, {connections} connections, median of {rounds}")?;
    writeln!(out, "{:24}{:>10}{:>20}", "idle", "connected", "after a 16 KiB echo")?;
    for server in Server::ALL {
        let mut figures =
            (0..rounds).map(|_| measure(server, connections)).collect::<Result<Vec<_>>>()?;
        let connected = median(&mut figures, |&(connected, _)| connected);
        let echoed = median(&mut figures, |&(_, echoed)| echoed);
        writeln!(out, "{:24}{connected:>10}{echoed:>20}", server.name())?;
    }
    Ok(())
}

/// The server's side: says where it listens, and ends when its standard input does.
fn serve(name: &str) -> Result<()> {
    let server = Server::ALL
        .into_iter()
        .find(|server| server.name() == name)
        .with_context(|| format!("no server is called {name}"))?;
    let running = server.start(Transport::Tcp)?;
    let address = running.address().as_socket().context("not TCP")?;
    writeln!(io::stdout(), "{address}")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Resident bytes per connection: after connecting, and after an echo on each.
fn measure(server: Server, connections: usize) -> Result<(i64, i64)> {
    let server = ServerProcess::start(server)?;
    // The first connection pays for what all share.
    let mut warm_up = server.connect()?;
    exchange(&mut warm_up, SIZE)?;
    let before = server.resident_bytes()?;
    let mut open = (0..connections).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    // Accepts come in order: when the last connection is served, all are there.
    exchange(open.last_mut().context("no connection")?, 1)?;
    let connected = server.resident_bytes()?;
    for connection in &mut open {
        exchange(connection, SIZE)?;
    }
    let echoed = server.resident_bytes()?;
    let per_connection = |resident: i64| (resident - before) / connections as i64;
    Ok((per_connection(connected), per_connection(echoed)))
}

/// A server in a process of its own, which ends with this.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    fn start(server: Server) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", server.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no pipe")?;
        // From here on dropping it ends the process.
        let mut this = Self { child, address: (Ipv4Addr::UNSPECIFIED, 0).into() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        this.address = line.trim().parse().context("the server did not start")?;
        Ok(this)
    }

    fn connect(&self) -> Result<TcpStream> {
        TcpStream::connect(self.address).context("cannot connect")
    }

    /// From smaps_rollup, which counts pages: the counter in `status` lags behind by hundreds of
    /// KiB.
    fn resident_bytes(&self) -> Result<i64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: i64 = number.with_context(|| format!("no Rss in {path}"))?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It ends by itself when its standard input does; either way it is waited for.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Sends a frame with `size` bytes and receives it again.
fn exchange(connection: &mut TcpStream, size: usize) -> Result<()> {
    let mut frame = u32::try_from(size)?.to_be_bytes().to_vec();
    frame.resize(frame.len() + size, 7);
    connection.write_all(&frame)?;
    let mut reply = vec![0; frame.len()];
    connection.read_exact(&mut reply)?;
    ensure!(reply == frame, "what came back differs");
    Ok(())
}

fn median<T, K: Ord>(figures: &mut [T], key: impl Fn(&T) -> K) -> K {
    figures.sort_by_key(&key);
    key(&figures[figures.len() / 2])
}
