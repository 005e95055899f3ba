"""Time labs and their baselines in turn, and print Markdown tables for docs/performance.md.

Needs root. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from bench import changes, checks, cni, commands, datapath, peers, policies, rules, scale
from bench.measure import FailedError
from kubenetlab.kernel import syscalls

PARTS = ("commands", "scale", "datapath", "rules", "changes", "peers", "cni", "policies", "checks")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "part",
        nargs="?",
        choices=(*PARTS, "all"),
        default="commands",
        help="benchmark to run (default: commands)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="number of rounds (default: depends on the benchmark)",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="scale: add a lab of 5,000 pods; rules: add 10,000 Services",
    )
    parser.add_argument("--pods", type=sizes, metavar="N,…", help="scale, peers: numbers of pods")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="rules: plot the connect times as SVG"
    )
    parser.add_argument(
        "--services", type=sizes, metavar="N,…", help="changes: numbers of Services"
    )
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("scripts/bench needs root: run sudo scripts/bench")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit handlers take the lab down
    isolate()
    try:
        for part in PARTS if arguments.part == "all" else (arguments.part,):
            if arguments.part == "all":
                print(f"## {part}\n")
            measure(part, arguments)
    except FailedError as error:
        sys.exit(str(error))


def isolate() -> None:
    """Enter a private mount namespace with a tmpfs on /run.

    Mounts in /run/netns are slow on a disk, and other labs must not interfere.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")


def measure(part: str, arguments: argparse.Namespace) -> None:
    rounds: dict[str, int] = {"rounds": arguments.rounds} if arguments.rounds else {}
    match part:
        case "commands":
            commands.run(**rounds)
        case "scale":
            scale.run(
                **rounds,
                sizes=(
                    *(arguments.pods or scale.SIZES),
                    *([scale.LARGE] if arguments.large else []),
                ),
            )
        case "datapath":
            datapath.run(**rounds)
        case "rules":
            rules.run(
                **rounds,
                sizes=(*rules.SIZES, *([rules.LARGE] if arguments.large else [])),
                plot=arguments.plot,
            )
        case "changes":
            changes.run(**rounds, sizes=arguments.services or changes.SIZES)
        case "peers":
            peers.run(**rounds, sizes=arguments.pods or peers.SIZES)
        case "policies":
            policies.run(**rounds, pods=(arguments.pods or (policies.PODS,))[0])
        case "checks":
            checks.run(**rounds)
        case "cni":
            cni.run(**rounds, pods=(arguments.pods or (cni.PODS,))[0])


def sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


if __name__ == "__main__":
    main()
