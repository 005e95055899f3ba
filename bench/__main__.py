"""Times labs beside their baselines and prints tables in Markdown, for docs/performance.md. As root; the machine should do nothing else."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from bench import changes, commands, datapath, peers, rules, scale
from bench.measure import FailedError
from kubenetlab.kernel import syscalls

PARTS = ("commands", "scale", "datapath", "rules", "changes", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "part",
        nargs="?",
        choices=(*PARTS, "all"),
        default="commands",
        help="what is measured; commands by default",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="how often each is measured; else as many as the part needs",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="scale: a lab of 5,000 pods, too; rules: 10,000 Services, too",
    )
    parser.add_argument(
        "--pods", type=sizes, metavar="N,…", help="scale, peers: labs of other sizes"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="rules: draws the connects as SVG"
    )
    parser.add_argument(
        "--services", type=sizes, metavar="N,…", help="changes: labs with so many Services"
    )
    words = parser.parse_args()
    if os.geteuid():
        sys.exit("labs need root here: sudo scripts/bench")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is taken down
    apart()
    try:
        for part in PARTS if words.part == "all" else (words.part,):
            if words.part == "all":
                print(f"## {part}\n")
            measure(part, words)
    except FailedError as error:
        sys.exit(str(error))


def apart() -> None:
    """Mounts of our own, with a /run in memory: links in /run/netns take long on a disk, and no other lab is in the way."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")


def measure(part: str, words: argparse.Namespace) -> None:
    rounds: dict[str, int] = {"rounds": words.rounds} if words.rounds else {}
    match part:
        case "commands":
            commands.run(**rounds)
        case "scale":
            scale.run(
                **rounds,
                sizes=(*(words.pods or scale.SIZES), *([scale.LARGE] if words.large else [])),
            )
        case "datapath":
            datapath.run(**rounds)
        case "rules":
            rules.run(
                **rounds,
                sizes=(*rules.SIZES, *([rules.LARGE] if words.large else [])),
                plot=words.plot,
            )
        case "changes":
            changes.run(**rounds, sizes=words.services or changes.SIZES)
        case "peers":
            peers.run(**rounds, sizes=words.pods or peers.SIZES)


def sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


if __name__ == "__main__":
    main()
