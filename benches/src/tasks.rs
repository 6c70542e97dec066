//! The servers on Tokio: two baselines as people write them, and echo-core. All run on the same
//! runtime, so that only their code differs.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use anyhow::Result;
use echo_core::tls::{Policy, Port};
use echo_core::{
    Connection, Drain, Echo, Error, Handler, Limits, Listener, Mode, Service, SocketOptions, serve,
};
use futures_util::{SinkExt, StreamExt};
use socket2::{Domain, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::either::Either;

/// Runs `server` until the other end of `stop` closes; what is open then is dropped.
pub(crate) fn run<F>(stop: StdUnixStream, server: F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let runtime = runtime()?;
    // On a worker, as a daemon has it: the thread that blocks here is none.
    let mut serving = runtime.spawn(server);
    runtime.block_on(async move {
        let stop = UnixStream::from_std(stop)?;
        tokio::select! {
            stopped = stop.readable() => Ok(stopped?),
            ended = &mut serving => ended?,
        }
    })
}

/// The runtime as echo-server builds it, with one worker for the one core.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .event_interval(512)
        .max_io_events_per_tick(64)
        .enable_all()
        .build()
}

type Stream = Either<TcpStream, UnixStream>;

/// A task per connection that reads into a buffer and writes it back, as in Tokio's own README, with
/// its 1 KiB: every buffer-full costs two system calls.
pub(crate) async fn read_write(listener: Socket) -> Result<()> {
    accept(listener, async |mut stream| {
        let mut buffer = [0; 1024];
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..read]).await?;
        }
    })
    .await
}

/// A task per connection that takes a whole frame and sends it: a flush, and so a system call, for
/// each frame, however many have arrived.
pub(crate) async fn naive_framed(listener: Socket) -> Result<()> {
    accept(listener, async |stream| {
        let mut framed = Framed::new(stream, LengthDelimitedCodec::new());
        while let Some(frame) = framed.next().await {
            framed.send(frame?.freeze()).await?;
        }
        Ok(())
    })
    .await
}

/// echo-core's own echo: what is read is passed through.
pub(crate) async fn core_echo(listener: Socket, mode: Mode) -> Result<()> {
    core_serve(listener, Policy::Plain, Echo::new(mode).splice(true)).await
}

/// echo-core's own echo behind TLS.
pub(crate) async fn core_tls(listener: Socket, policy: Policy) -> Result<()> {
    core_serve(listener, policy, Echo::new(Mode::Auto)).await
}

/// echo-core with a handler that takes whole frames, as other people's handlers do.
pub(crate) async fn core_recv_send(listener: Socket) -> Result<()> {
    struct WholeFrames;

    impl Handler for WholeFrames {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            while let Some(payload) = connection.recv().await? {
                connection.send(&payload).await?;
            }
            Ok(())
        }
    }

    core_serve(listener, Policy::Plain, WholeFrames).await
}

async fn core_serve<H: Handler>(listener: Socket, policy: Policy, handler: H) -> Result<()> {
    let service = Service::new(Limits::default(), Drain::new());
    let listener = Listener::inherited(OwnedFd::from(listener), &SocketOptions::default())?;
    let listener = listener.secured(Port::new(policy));
    serve(listener, service.clone(), Arc::new(handler)).await?;
    Ok(())
}

/// The accept loop of the baselines.
async fn accept<F, T>(listener: Socket, echo: F) -> Result<()>
where
    F: Fn(Stream) -> T,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let listener = if listener.domain()? == Domain::UNIX {
        Either::Right(UnixListener::from_std(listener.into())?)
    } else {
        Either::Left(TcpListener::from_std(listener.into())?)
    };
    loop {
        let stream = match &listener {
            Either::Left(tcp) => Stream::Left(tcp.accept().await?.0),
            Either::Right(unix) => Stream::Right(unix.accept().await?.0),
        };
        tasks.spawn(echo(stream));
        while tasks.try_join_next().is_some() {}
    }
}
