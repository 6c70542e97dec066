#!/usr/bin/env python3
"""put of echo-client against curl and nginx, and against rsync's daemon, in one interleaved run.

    transfer.py [--rounds 7] [--only tmpfs|tls|disk|small] [--mebibytes 1024] [--files 10000]
                [--disk FOLDER] [--server COMMAND] [--client COMMAND]

Round by round, in turning order, over loopback, both sides with a digest of the whole file:

- tmpfs: one random file in memory; curl -T to nginx (dav PUT, no sync), then sha256sum of what arrived.
- tls:   the same over TLS 1.3 on both sides, with one certificate.
- disk:  the same file from memory to --disk; rsync --fsync to its daemon, whose digest of the whole file
  is its own.
- small: many files of 4 KiB to --disk; the same rsync.

A line gives the median of each program's MiB/s (of small files: files a second), and the median of the
round-by-round ratios of echo-client to its peer. Needs nginx (with dav), curl, rsync, sha256sum.

Exit code 1: a transfer failed, or what arrived is not what was sent.
"""
import argparse
import filecmp
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from compare import print_heading

NGINX = """
worker_processes auto; daemon off; error_log {folder}/nginx.log; pid {folder}/nginx.pid;
events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/store/tmp;
  server {{ listen 127.0.0.1:{port}{secured}; root {folder}/store; location / {{ dav_methods PUT; }} }}
}}
"""

RSYNCD = """
port = {port}
address = 127.0.0.1
use chroot = no
log file = {folder}/rsyncd.log
[store]
path = {folder}/store
read only = no
uid = {uid}
gid = {gid}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def timed(*commands: list[str]) -> float:
    began = time.monotonic()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


class Peer:
    """A server of one kind with a store of its own, and how to put something into it."""

    def __init__(self, folder: str, command: Callable[[str, int], list[str]]):
        self.folder, self.port = folder, free_port()
        os.makedirs(f"{folder}/store")
        os.chmod(folder, 0o755)
        self.process = subprocess.Popen(
            command(folder, self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self.port)

    def empty(self) -> None:
        for entry in os.scandir(f"{self.folder}/store"):
            if entry.name not in (".echo-server", "tmp"):
                shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
        os.sync()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def echo(folder: str, port: int, server: str) -> list[str]:
    return [server, "--listen", f"tcp://127.0.0.1:{port}", "--files", f"{folder}/store", "--anonymous-put"]


NGINX_TLS = " ssl; ssl_certificate {keys}/cert.pem; ssl_certificate_key {keys}/key.pem; ssl_protocols TLSv1.3"


def nginx(folder: str, port: int, secured: str = "") -> list[str]:
    os.makedirs(f"{folder}/store/tmp")
    os.chmod(f"{folder}/store", 0o777)
    os.chmod(f"{folder}/store/tmp", 0o777)
    with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as config:
        config.write(NGINX.format(folder=folder, port=port, secured=secured))
    return ["nginx", "-c", f"{folder}/nginx.conf"]


def rsyncd(folder: str, port: int) -> list[str]:
    with open(f"{folder}/rsyncd.conf", "w", encoding="utf-8") as config:
        config.write(RSYNCD.format(folder=folder, port=port, uid=os.getuid(), gid=os.getgid()))
    return ["rsync", "--daemon", "--no-detach", f"--config={folder}/rsyncd.conf"]


def run(name: str, source: str, amount: float, unit: str, rounds: int, sides: dict) -> None:
    """`sides`: echo-client first, then its peer; each a server and what to run for it."""
    times = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            server, commands = sides[side]
            # Both, so that both sides get the same memory for what they write: in a virtual machine some of it may
            # be four times slower to fill than other, and whoever had it first would have it again.
            for other, _ in sides.values():
                other.empty()
            times[side].append(timed(*commands(server)))
            arrived = f"{server.folder}/store/{os.path.basename(source)}"
            if os.path.isdir(source):
                same = not filecmp.cmpfiles(source, arrived, os.listdir(source)[:50], shallow=False)[1]
                same = same and len(os.listdir(source)) == len(os.listdir(arrived))
            else:
                same = filecmp.cmp(source, arrived, shallow=False)
            if not same:
                sys.exit(f"{side}: what arrived is not what was sent")
    ours, peer = (times[side] for side in sides)
    rates = [f"{side} {amount / statistics.median(times[side]):.0f} {unit}" for side in sides]
    ratios = sorted(theirs / mine for mine, theirs in zip(ours, peer))
    low, high = ratios[0], ratios[-1]
    print(f"{name:6} {', '.join(rates)}: ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    sys.stdout.flush()


def against_nginx(name: str, arguments: argparse.Namespace, memory: str, file: str, keys: str | None) -> None:
    """One file in memory; over TLS, if there are keys."""
    if keys:
        secured = NGINX_TLS.format(keys=keys)
        options = ["--tls-cert", f"{keys}/cert.pem", "--tls-key", f"{keys}/key.pem"]
        echo_trust, curl_trust = ["--ca", f"{keys}/cert.pem"], ["--cacert", f"{keys}/cert.pem"]
    else:
        secured, options, echo_trust, curl_trust = "", [], [], []
    scheme, http = ("tls", "https") if keys else ("tcp", "http")
    client = arguments.client
    put = lambda it: [[client, "put", "-q", *echo_trust, f"{scheme}://127.0.0.1:{it.port}", file]]
    curl = lambda it: [
        ["curl", "-s", "-f", *curl_trust, "-T", file, f"{http}://127.0.0.1:{it.port}/file"],
        ["sha256sum", f"{it.folder}/store/file"],
    ]
    ours = Peer(f"{memory}/echo", lambda folder, port: echo(folder, port, arguments.server) + options)
    peer = Peer(f"{memory}/nginx", lambda folder, port: nginx(folder, port, secured))
    run(
        name,
        file,
        arguments.mebibytes,
        "MiB/s",
        arguments.rounds,
        {"echo-client": (ours, put), "curl+nginx+sha256sum": (peer, curl)},
    )
    for side in (ours, peer):
        side.stop()
        shutil.rmtree(side.folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["tmpfs", "tls", "disk", "small"])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--disk", default=".")
    parser.add_argument("--server", default="target/release/echo-server")
    parser.add_argument("--client", default="target/release/echo-client")
    arguments = parser.parse_args()
    for tool in ("nginx", "curl", "rsync", "sha256sum"):
        if not shutil.which(tool):
            parser.error(f"{tool} is missing")
    print_heading()
    server, client = arguments.server, arguments.client
    wanted = [arguments.only] if arguments.only else ["tmpfs", "tls", "disk", "small"]
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(dir=arguments.disk) as disk,
    ):
        disk = os.path.abspath(disk)
        os.chmod(memory, 0o755)
        ours = lambda folder, port: echo(folder, port, server)
        put = lambda source: lambda it: [[client, "put", "-q", f"127.0.0.1:{it.port}", source]]
        file = f"{memory}/file"
        if wanted != ["small"]:
            with open(file, "wb") as sink:
                for _ in range(arguments.mebibytes):
                    sink.write(os.urandom(1 << 20))
        if "tmpfs" in wanted:
            against_nginx("tmpfs", arguments, memory, file, None)
        if "tls" in wanted:
            keys = f"{memory}/keys"
            subprocess.run(
                [server, "tls", "self-signed", "--name", "127.0.0.1", "--out", keys],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            against_nginx("tls", arguments, memory, file, keys)
        peers = []
        rsync = lambda source: lambda it: [
            ["rsync", "-r", "--fsync", "-W", source, f"rsync://127.0.0.1:{it.port}/store/"]
        ]
        if "disk" in wanted or "small" in wanted:
            peers = [Peer(f"{disk}/echo", ours), Peer(f"{disk}/rsync", rsyncd)]
        if "disk" in wanted:
            sides = {"echo-client": (peers[0], put(file)), "rsync": (peers[1], rsync(file))}
            run("disk", file, arguments.mebibytes, "MiB/s", arguments.rounds, sides)
        if "small" in wanted:
            small = f"{memory}/small"
            os.mkdir(small)
            for number in range(arguments.files):
                with open(f"{small}/{number}", "wb") as sink:
                    sink.write(os.urandom(4096))
            sides = {"echo-client": (peers[0], put(small)), "rsync": (peers[1], rsync(small))}
            run("small", small, arguments.files, "files/s", arguments.rounds, sides)
        for peer in peers:
            if peer.process.poll() is None:
                peer.stop()


if __name__ == "__main__":
    main()
