#!/usr/bin/env python3
"""An echo server against servers written in C, side by side in one run.

    compare.py [--set quick|full|unix|udp|tail|idle|churn|deep] [--rounds 7] [--peer epoll|uring|uv]...
               [--fresh] [--ours LABEL=COMMAND]... [--client LABEL=COMMAND]... -- COMMAND with {port}
               or {path}

Every server is started once (with --fresh for each run anew), pinned to core 0 (--cores all: unpinned), and the load generator to
core 1. For each workload, round by round, each server gets one short run, in turning order, and
every echoed byte is compared. A line gives the median of the round-by-round ratios to the first
peer: messages/s (higher is better), p99 and server CPU per message (lower is better). The range in
brackets is how noisy the machine was: a difference inside it means nothing.

With --client it is the other way round: COMMAND is the one server, and the load generator is the
reference for other clients, which take its options and print its line.

Exit code 1: a run had a wrong byte, a stall or a dead server.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import platform
import resource
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
BINARIES = HERE.parents[1] / "target" / "peers"

# Arguments of the load generator: connections, payload size, depth (loadgen.c explains them).
SETS = {
    "quick": [
        "-c 1 -s 64",
        "-c 64 -s 64",
        "-c 64 -s 64 -d 32",
        "-c 64 -s 1024 -d 32",
        "-c 64 -s 16384",
        "-c 1 -s 65536 -d 16",
    ],
    "unix": ["-c 1 -s 64", "-c 64 -s 64", "-c 64 -s 64 -d 32", "-c 64 -s 16384"],
    "udp": ["-c 1 -s 64", "-c 64 -s 64", "-c 64 -s 1200 -d 32", "-c 16 -s 8192 -d 4"],
    "tail": ["-c 1000 -s 64", "-c 5000 -s 64 -w 0.6"],
    "idle": ["-m idle -c 9000 -s 64", "-m idle -c 2000 -s 16384"],
    "churn": ["-m churn -c 16 -s 64 -x 20000"],
    "deep": ["-c 64 -s 64 -d 32"],
}
SETS["full"] = SETS["quick"] + ["-c 4 -s 1048576 -d 2", "-c 1000 -s 64"]

# Sources and libraries of each program; Debian's package where a header is not everybody's.
PROGRAMS = {
    "loadgen": (
        ["loadgen.c", "load_stream.c", "load_datagram.c", "load_connections.c", "measure.c"],
        [],
        "",
    ),
    "paced": (["paced.c"], [], ""),
    "epoll_echo": (["epoll_echo.c"], [], ""),
    "uring_echo": (["uring_echo.c"], ["-luring"], "liburing-dev"),
    "uv_echo": (["uv_echo.c"], ["-luv"], "libuv1-dev"),
}

START_TIMEOUT = 10  # seconds
RUN_TIMEOUT = 120


@dataclass(frozen=True)
class Address:
    """Where a server is to listen; a command takes the part it wants."""

    kind: str  # tcp, udp, unix
    port: int
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.kind == "unix" else f"{self.kind}:127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether a server is there: it accepts, or echoes a datagram."""
        family = socket.AF_UNIX if self.kind == "unix" else socket.AF_INET
        type_ = socket.SOCK_DGRAM if self.kind == "udp" else socket.SOCK_STREAM
        with socket.socket(family, type_) as probe:
            probe.settimeout(0.2)
            try:
                probe.connect(self.path if self.kind == "unix" else ("127.0.0.1", self.port))
                if self.kind == "udp":
                    probe.send(b"are you there?")
                    probe.recv(64)
                return True
            except OSError:
                return False


@dataclass(frozen=True)
class Candidate:
    """A server to measure."""

    label: str
    command: Callable[[Address], list[str]]


@dataclass
class Server:
    """A candidate that runs, and the client to measure it with."""

    label: str
    process: subprocess.Popen
    address: Address
    client: tuple[str, ...] = ()  # the load generator, if empty

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def build(name: str) -> str:
    """Compiles a program of this folder when a source is newer, and returns its path."""
    sources, libraries, package = PROGRAMS[name]
    program = BINARIES / name
    newest = max(file.stat().st_mtime for file in HERE.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < newest:
        BINARIES.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), *sources, *libraries]
        try:
            subprocess.run(command, cwd=HERE, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            needed = f"gcc and {package}" if package else "gcc"
            sys.exit(f"compare.py: cannot build {name} ({error}): install {needed}")
    return str(program)


def free_address(kind: str, folder: str, label: str) -> Address:
    type_ = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, type_) as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(kind, probe.getsockname()[1], f"{folder}/{label}.sock")


def start(candidate: Candidate, kind: str, folder: str, pinned: bool) -> Server:
    address = free_address(kind, folder, candidate.label)
    command = (["taskset", "-c", "0"] if pinned else []) + candidate.command(address)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(candidate.label, process, address)
    deadline = time.monotonic() + START_TIMEOUT
    while not address.answers():
        if process.poll() is not None:
            sys.exit(f"compare.py: {candidate.label} ended with {process.returncode}: {command}")
        if time.monotonic() > deadline:
            server.stop()
            sys.exit(f"compare.py: {candidate.label} does not answer on {address}: {command}")
        time.sleep(0.02)
    return server


def measure(load: str, server: Server, seconds: float) -> dict | None:
    """One run of the load generator; None, with a line on stderr, when it or the server failed."""
    client = server.client or (build("loadgen"),)
    arguments = [*client, "-a", str(server.address), "-p", str(server.process.pid)]
    arguments += ["-C", "1", *load.split()]
    if "-m idle" not in load:
        arguments += ["-t", str(seconds)]
        if "-w" not in load and "-m" not in load:
            arguments += ["-w", "0.15"]
    try:
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=RUN_TIMEOUT)
        failure = f"exit {run.returncode} {run.stderr.strip()[:200]}" if run.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"no result within {RUN_TIMEOUT} s"
    if not failure and server.process.poll() is not None:
        failure = f"the server ended with {server.process.returncode}"
    if failure:
        print(f"FAILED {server.label} {load}: {failure}", file=sys.stderr)
        return None
    return json.loads(run.stdout)


Results = dict[tuple[str, str], list[dict]]  # by workload and label, one entry a round


class Comparison:
    """Runs the rounds; a failed run leaves a gap and is remembered."""

    def __init__(self, arguments: argparse.Namespace, candidates: list[Candidate], folder: str):
        self.arguments, self.candidates = arguments, candidates
        self.kind = arguments.set if arguments.set in ("unix", "udp") else "tcp"
        self.folder, self.results, self.failed = folder, {}, False

    def start(self, candidate: Candidate) -> Server:
        return start(candidate, self.kind, self.folder, self.arguments.cores == "one")

    def measure(self, load: str, server: Server) -> None:
        result = measure(load, server, self.arguments.seconds)
        if result is None:
            self.failed = True
        else:
            self.results.setdefault((load, server.label), []).append(result)

    def run(self) -> Results:
        servers: list[Server] = []
        try:
            for candidate in self.candidates:
                servers.append(self.start(candidate))
            for label, client in clients_of(self.arguments):
                servers.append(dataclasses.replace(servers[0], label=label, client=client))
            for load in SETS[self.arguments.set]:
                for number in range(self.arguments.rounds):
                    for server in turned(servers, number):
                        self.measure(load, server)
        finally:
            for server in servers:
                server.stop()
        return self.results

    def run_fresh(self, rounds: int) -> Results:
        """Every figure is of a process of its own."""
        for load in SETS[self.arguments.set]:
            for number in range(rounds):
                for candidate in turned(self.candidates, number):
                    server = self.start(candidate)
                    try:
                        self.measure(load, server)
                    finally:
                        server.stop()
        return self.results

    def run_all(self) -> Results:
        rounds = self.arguments.rounds
        if self.arguments.set == "idle":  # Freed memory stays with a process.
            return self.run_fresh(max(1, rounds // 2))
        return self.run_fresh(rounds) if self.arguments.fresh else self.run()


def turned(items: list, number: int) -> list:
    """Another one goes first each round: the machine's speed drifts."""
    first = number % len(items)
    return items[first:] + items[:first]


def report_idle(load: str, label: str, runs: list[dict]) -> dict:
    idle, echoed = (statistics.median(run[key] for run in runs) for key in ("Bconn", "Becho"))
    print(f"{load:26} {label:10} bytes/connection idle {idle:8.0f}   after an echo {echoed:8.0f}")
    return {"work": load, "server": label, "idle": idle, "echoed": echoed}


def report_rate(load: str, label: str, runs: list[dict], reference: list[dict]) -> dict:
    def ratios(key: str) -> list[float]:
        return [a[key] / b[key] if b.get(key) else 0 for a, b in zip(runs, reference)]

    rates = ratios("mps")
    per_second = statistics.median(run["mps"] for run in runs)
    rate, p99, cpu = (statistics.median(x) for x in (rates, ratios("p99"), ratios("sns")))
    print(
        f"{load:26} {label:10} {per_second:10.0f}/s  rate {rate:5.2f} "
        f"({min(rates):.2f}-{max(rates):.2f})  p99 {p99:5.2f}  cpu/msg {cpu:5.2f}"
    )
    return {"work": load, "server": label, "mps": per_second, "rate": rate, "p99": p99, "cpu": cpu}


def report(arguments: argparse.Namespace, labels: list[str], results: Results) -> list[dict]:
    rows = []
    for load in SETS[arguments.set]:
        reference = results.get((load, labels[0]), [])
        for label in labels:
            runs = results.get((load, label), [])
            if not runs or not reference:
                continue
            if arguments.set == "idle":
                rows.append(report_idle(load, label, runs))
            else:
                rows.append(report_rate(load, label, runs, reference))
    return rows


def print_heading() -> None:
    """What a kept result must say: when, of what, where, how."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    print(f"# {time.strftime('%Y-%m-%d %H:%M')} commit {commit}")
    print(f"# {platform.system()} {platform.release()}, {os.cpu_count()} cores")
    print(f"# {shlex.join(sys.argv)}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", default="quick", choices=SETS, help="the workloads")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one run")
    parser.add_argument("--peer", action="append", choices=["epoll", "uring", "uv"])
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start every server anew for each run: where its memory lies is luck, and stays",
    )
    parser.add_argument("--cores", default="one", choices=["one", "all"])
    parser.add_argument(
        "--ours", action="append", default=[], metavar="LABEL=COMMAND", help="a further server"
    )
    parser.add_argument(
        "--client", action="append", default=[], metavar="LABEL=COMMAND", help="another client"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    if not arguments.command:
        parser.error("no server command")
    if arguments.fresh and arguments.client:
        parser.error("--fresh is for servers, --client has one for all")
    if not shutil.which("taskset"):
        parser.error("taskset is missing: install util-linux")
    return arguments


def clients_of(arguments: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    clients = (client.split("=", 1) for client in arguments.client)
    return [(label, tuple(shlex.split(command))) for label, command in clients]


def candidates_of(arguments: argparse.Namespace) -> list[Candidate]:
    def epoll(*options: str) -> Callable[[Address], list[str]]:
        return lambda address: [build("epoll_echo"), "-a", str(address), *options]

    def ported(name: str) -> Callable[[Address], list[str]]:
        return lambda address: [build(name), str(address.port)]

    def ours(command: list[str]) -> Callable[[Address], list[str]]:
        return lambda address: [x.format(port=address.port, path=address.path) for x in command]

    if arguments.client:
        return [Candidate("c-loadgen", ours(arguments.command))]
    udp = arguments.set == "udp"
    peers = {
        "epoll": epoll("-m", "32") if udp else epoll(),
        "uring": ported("uring_echo"),
        "uv": ported("uv_echo"),
    }
    candidates = [Candidate(f"c-{name}", peers[name]) for name in arguments.peer or ["epoll"]]
    if udp:
        candidates.append(Candidate("c-plain", epoll()))
    candidates.append(Candidate("ours", ours(arguments.command)))
    for further in arguments.ours:
        label, command = further.split("=", 1)
        candidates.append(Candidate(label, ours(shlex.split(command))))
    return candidates


def main() -> None:
    arguments = parse_arguments()
    # Servers and load generator inherit it, and raise nothing that they need not.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    candidates = candidates_of(arguments)
    print_heading()
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(arguments, candidates, folder)
        results = comparison.run_all()
    labels = [candidate.label for candidate in candidates]
    labels += [label for label, _ in clients_of(arguments)]
    rows = report(arguments, labels, results)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1))
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
