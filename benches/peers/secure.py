#!/usr/bin/env python3
"""What TLS costs an exchange: the same server and the same client, plain and over TLS, in one run.

    secure.py [--rounds 9] [--seconds 0.6] [--server COMMAND] [--client COMMAND]

One `echo-server` with a certificate of its own listens on one port for both; the client is `load_client`
of the benches. Round by round, in turning order, each way gets one short run, on the same cores. A line
gives the median of the round-by-round ratios of TLS to plain: p50, p99 and messages/s.

Exit code 1: a run had a wrong byte, a stall or a dead server.
"""
import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile

from compare import Candidate, measure, print_heading, start, turned

LOADS = ["-c 1 -s 64", "-c 64 -s 64", "-c 64 -s 64 -d 32", "-c 1 -s 16384", "-c 1 -s 65536 -d 16"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one run")
    parser.add_argument("--server", default="target/release/echo-server")
    parser.add_argument("--client", default="target/release/load_client")
    arguments = parser.parse_args()
    print_heading()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [arguments.server, "tls", "self-signed", "--name", "localhost", "--out", f"{folder}/tls"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        command = lambda address: [
            arguments.server,
            *("--listen", f"tcp://127.0.0.1:{address.port}"),
            *("--tls-cert", f"{folder}/tls/cert.pem", "--tls-key", f"{folder}/tls/key.pem"),
        ]
        server = start(Candidate("plain", command), "tcp", folder, pinned=os.cpu_count() > 1)
        server.client = (arguments.client,)
        secured = dataclasses.replace(server.address, kind="tls")
        both = [server, dataclasses.replace(server, label="tls", address=secured)]
        failed = False
        try:
            for load in LOADS:
                pairs = []
                for number in range(arguments.rounds):
                    pair = {it.label: measure(load, it, arguments.seconds) for it in turned(both, number)}
                    if all(pair.values()):
                        pairs.append((pair["tls"], pair["plain"]))
                    else:
                        failed = True
                if pairs:
                    report(load, pairs)
        finally:
            server.stop()
    sys.exit(failed)


def report(load: str, pairs: list[tuple[dict, dict]]) -> None:
    line = f"{load:22}"
    for key in ("p50", "p99", "mps"):
        plain = statistics.median(plain[key] for _, plain in pairs)
        ratios = [tls[key] / plain[key] for tls, plain in pairs]
        unit = "/s" if key == "mps" else f" us {key}"
        line += f"  plain {plain:.0f}{unit}, tls {statistics.median(ratios):.2f}"
        line += f" ({min(ratios):.2f}-{max(ratios):.2f})"
    print(line, flush=True)


if __name__ == "__main__":
    main()
