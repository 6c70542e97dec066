#!/usr/bin/env python3
"""echo-client's pipe against socat, copying one file through the same server.

    pipe.py [--rounds 7] [--mebibytes 1024] [--client COMMAND] -- SERVER COMMAND with {port}

Round by round, in turning order, each copies the file (random, in memory) through the server to
/dev/null: echo-client, which compares every byte, and socat with its own and with a 64 KiB buffer,
which compares none. A line gives the median MiB/s, and the median of the round-by-round ratios to
socat.

Exit code 1: a copy failed.
"""
import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from compare import Address, Candidate, print_heading, start, turned


def copy(command: list[str], file: str) -> float:
    """Seconds that it takes."""
    with open(file, "rb") as source, open(os.devnull, "wb") as sink:
        began = time.monotonic()
        subprocess.run(command, stdin=source, stdout=sink, check=True)
        return time.monotonic() - began


def programs(client: list[str], address: Address) -> dict[str, list[str]]:
    there = f"TCP:127.0.0.1:{address.port}"
    return {
        "socat": ["socat", "-", there],
        "socat -b 65536": ["socat", "-b", "65536", "-", there],
        "echo-client": [*client, "-q", f"127.0.0.1:{address.port}"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--client", default="target/release/echo-client")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = [word for word in arguments.command if word != "--"]
    if not command:
        parser.error("no server command")
    if not shutil.which("socat"):
        parser.error("socat is missing")
    print_heading()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = f"{folder}/file"
        with open(file, "wb") as sink:
            for _ in range(arguments.mebibytes):
                sink.write(os.urandom(1 << 20))
        candidate = Candidate("server", lambda it: [x.format(port=it.port) for x in command])
        server = start(candidate, "tcp", folder, pinned=False)
        try:
            copies = programs(shlex.split(arguments.client), server.address)
            seconds = {label: [] for label in copies}
            for number in range(arguments.rounds):
                for label in turned(list(copies), number):
                    seconds[label].append(copy(copies[label], file))
        except subprocess.CalledProcessError as error:
            sys.exit(f"pipe.py: {error}")
        finally:
            server.stop()
    for label, times in seconds.items():
        ratios = [socat / own for socat, own in zip(seconds["socat"], times)]
        rate = statistics.median(arguments.mebibytes / own for own in times)
        print(
            f"{label:16} {rate:7.0f} MiB/s  {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
