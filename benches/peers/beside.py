#!/usr/bin/env python3
"""What a transfer costs the echo of another connection of the same server.

    beside.py [--rounds 7] [--seconds 1] [--mebibytes 1024] [--rate 1000] [--disk FOLDER]
              [--cores each|all] [--server COMMAND] [--client COMMAND]

Round by round, in turning order: calm, while a file from memory is put to --disk over and over, and while it is
fetched. A peer of high priority (SCHED_FIFO) sends 64 bytes at a time, --rate a second (paced.c), and another one the
next as soon as it has its echo (loadgen.c). With `--cores each` the server has core 0 alone, and client and peer share core 1; with
`all` everything runs everywhere. The client has nice 19.

A line gives the median over the rounds in microseconds and its ratio to calm, as the peer sees it and (`server`) as a
capture on the server's interface does: from the request's arrival to the reply's leaving. Needs root.

Exit code 1: a run failed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from compare import Address, build, free_address, print_heading, turned

CALM = "calm"


def over_and_over(command: list[str]) -> Callable[[], None]:
    """Runs it until what it returns is called."""
    loop = ["bash", "-c", 'while "$@"; do :; done', "loop", *command]
    process = subprocess.Popen(loop, stdout=subprocess.DEVNULL, start_new_session=True)

    def stop() -> None:
        if process.poll() is not None:
            sys.exit(f"failed: {command}")
        os.killpg(process.pid, 9)
        process.wait()

    return stop


def paced(address: Address, arguments: argparse.Namespace, peer: list[str]) -> dict:
    command = [*peer, build("paced"), str(address.port), str(arguments.rate), str(arguments.seconds)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    figures = {"server " + key: found["server"][key] for key in ("mean", "p50", "p99")}
    return figures | {key: found["client"][key] for key in ("mean", "p50", "p99")}


def closed(address: Address, arguments: argparse.Namespace, peer: list[str]) -> dict:
    load = ["-a", str(address), "-c", "1", "-s", "64", "-t", str(arguments.seconds), "-w", "0.1"]
    found = json.loads(subprocess.run([*peer, build("loadgen"), *load], check=True, capture_output=True).stdout)
    return {key: found[key] for key in ("p50", "p99")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run")
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--disk", default=".")
    parser.add_argument("--cores", choices=["each", "all"], default="each")
    parser.add_argument("--server", default="target/release/echo-server")
    parser.add_argument("--client", default="target/release/echo-client")
    arguments = parser.parse_args()
    print_heading()
    pin = (lambda core: ["taskset", "-c", core]) if arguments.cores == "each" else lambda _: []
    peer = [*pin("1"), "chrt", "-f", "50"]
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(dir=arguments.disk) as disk,
    ):
        file = f"{memory}/file"
        with open(file, "wb") as sink:
            for _ in range(arguments.mebibytes):
                sink.write(os.urandom(1 << 20))
        address = free_address("tcp", disk, "echo")
        files = ["--files", f"{disk}/store", "--anonymous-put"]
        os.mkdir(f"{disk}/store")
        serve = [*pin("0"), arguments.server, "--listen", f"tcp://127.0.0.1:{address.port}", *files]
        server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not address.answers():
            time.sleep(0.05)
        client = lambda task: [*pin("1"), "nice", "-n", "19", arguments.client, task, "-q", f"127.0.0.1:{address.port}"]
        works = {
            CALM: None,
            "put": [*client("put"), file],
            "get": [*client("get"), "file", "-o", f"{memory}/fetched"],
        }
        subprocess.run(works["put"], check=True, stdout=subprocess.DEVNULL)
        found = {}
        for number in range(arguments.rounds):
            for way in (paced, closed):
                for work in turned(list(works), number):
                    stop = over_and_over(works[work]) if works[work] else lambda: None
                    time.sleep(0.3)
                    figures = way(address, arguments, peer)
                    stop()
                    for name, value in figures.items():
                        found.setdefault((way.__name__, work, name), []).append(value)
        server.terminate()
        server.wait()
    for (way, work, name), values in sorted(found.items(), key=lambda it: (it[0][0], it[0][2])):
        calm = statistics.median(found[way, CALM, name])
        value = statistics.median(values)
        print(f"{way:7} {name:12} {work:5} {value:7.1f} us  {value / calm:5.2f}  ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
