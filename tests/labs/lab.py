"""One lab as a user has it: by the command line only, and by `nsenter` into the namespaces that
`inspect` names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from kubenetlab.kernel.processes.cgroups import PREFIX, read_parents
from kubenetlab.lab.client import Client
from tests.labs.traffic_client import Answer, Target, ask
from tests.patience import patiently
from tests.warm import server

DEADLINE_S = patiently(20)
COMMAND = INSTALLED = (sys.executable, "-m", "kubenetlab")


class Ran(Struct, frozen=True):
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    *words: str,
    given: str | None = None,
    status: int | None = 0,
    cwd: Path | None = None,
    before: Sequence[str] = (),
) -> Ran:
    """A kubenetlab command, begun by another one `before` it.

    Fails unless it ends with `status`; None: whatever it ends with.
    """
    if not before and COMMAND is INSTALLED:
        return ran(server().run(words, given, patiently(90), cwd), status)
    line = [*before, *COMMAND, *words]
    return ran(
        subprocess.run(
            line,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
            cwd=cwd,
        ),
        status,
    )


def ran(done: subprocess.CompletedProcess[str], status: int | None) -> Ran:
    """What a command said that has ended as it should: with `status`, or None: somehow, but not in
    a traceback.
    """
    assert "Traceback" not in done.stderr, done.stderr
    assert status in (None, done.returncode), (
        f"{' '.join(done.args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def wait_for(condition: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> Any:
    """The first true value of the condition."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        os.sched_yield()
    return value


class Lab:
    """A lab by name.

    `run` is the command line with `--lab`, begun by another command where the lab is somewhere
    else.
    """

    def __init__(self, name: str, before: Sequence[str] = ()) -> None:
        self.name = name
        self._before = before

    @property
    def directory(self) -> Path:
        return Path("/run/kubenetlab", self.name)

    def run(self, *words: str, given: str | None = None, status: int | None = 0) -> Ran:
        command, *rest = words
        return run(
            command, "--lab", self.name, *rest, given=given, status=status, before=self._before
        )

    def up(self, manifest: str, *words: str, status: int = 0) -> Ran:
        return self.run("up", "-f", "-", *words, given=manifest, status=status)

    def kill(self, role: str) -> int:
        """Kills one of its own processes, and waits for its successor; the pid of the dead."""
        (victim,) = self.pids(f"kubenetlab {self.name} {role}")
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: self.pids(f"kubenetlab {self.name} {role}") not in ([], [victim]),
            "its successor",
        )
        return victim

    def apply(self, manifest: str, *words: str, status: int | None = 0) -> Ran:
        return self.run("apply", "-f", "-", *words, given=manifest, status=status)

    def down(self) -> None:
        self.run("down")

    # --- what is there ---

    @property
    def seen(self) -> Any:
        """What `inspect -o json` shows.

        It comes from the API directly where that is in reach: tests ask often.
        """
        return (
            self.run("inspect", "-o", "json").json if self._before else Client(self.name).inspect()
        )

    def pod(self, name: str, namespace: str = "default") -> Any:
        """A pod by its name, or by the name of its Deployment: then the first."""
        return self.pods(name, namespace)[0]

    def pods(self, name: str, namespace: str = "default") -> list[Any]:
        found = [
            pod
            for pod in self.seen["pods"]
            if pod["namespace"] == namespace and f"{pod['name']}-".startswith(f"{name}-")
        ]
        assert found, f"there is no pod {namespace}/{name}"
        return found

    def service(self, name: str, namespace: str = "default") -> Any:
        return next(
            entry
            for entry in self.seen["services"]
            if (entry["namespace"], entry["name"]) == (namespace, name)
        )

    def place(self, kind: str, name: str) -> Any:
        """kind: nodes or external."""
        return next(entry for entry in self.seen[kind] if entry["name"] == name)

    def get(self, *words: str) -> Any:
        return self.run("get", *words, "-o", "json").json

    def seen_names_alive(self) -> list[str]:
        """Names in /run/netns that lead to a namespace."""
        return [str(path) for path in Path("/run/netns").glob(f"{self.name}_*") if path.exists()]

    @property
    def remains(self) -> list[str]:
        """What there is of it on this machine: processes, names in /run/netns, cgroups, the run
        directory.
        """
        titles = (f"{self.name}/", f"kubenetlab {self.name} ")
        found = [
            title
            for path in Path("/proc").glob("[0-9]*")
            if (title := title_of(int(path.name))).startswith(titles)
        ]
        found += [str(path) for path in Path("/run/netns").glob(f"{self.name}_*")]
        found += cgroups_of(self.name)
        return found + [str(self.directory)] * self.directory.exists()

    @property
    def faults(self) -> list[str]:
        """What is not as promised: pods that are not ready, pairs that do not reach each other,
        objects the kernel lacks.
        """
        well = (True, "Running", True)
        found = [
            f"{pod['name']} is not ready"
            for pod in self.seen["pods"]
            if (pod["ready"], pod["phase"], bool(pod["addresses"])) != well
        ]
        pings, diff = self.run("ping", "-o", "json", status=None), self.run("diff", status=None)
        return (
            found
            + ["ping: " + pings.out[:500]] * bool(pings.status)
            + [f"diff: {diff.out}"] * bool(diff.status)
        )

    # --- packets ---

    def inside(self, place: Any, *command: str, given: str | None = None, status: int = 0) -> str:
        """What a program of the machine prints in the network of a place of `inspect`."""
        done = subprocess.run(
            ["nsenter", f"--net={place['netns']}", *command],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(60),
        )
        assert done.returncode == status, (
            f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def ask(self, place: Any, *targets: Target) -> list[Answer]:
        """Return what servers answer to clients in the network of a place."""
        return self.ask_each((place, targets))[0]

    def ask_each(self, *questions: tuple[Any, Sequence[Target]]) -> list[list[Answer]]:
        """Return the answers to clients in several places, which all ask at the same time."""
        return ask([(place["netns"], targets) for place, targets in questions])

    def pids(self, title: str = "") -> list[int]:
        """The machine's pids of all processes of the lab, or of those whose title begins so."""
        init = self.seen["init_pid"]
        return [pid for pid in descendants(init) if title_of(pid).startswith(title)]


def cgroups_of(lab: str) -> list[str]:
    """Return the control groups of a lab, wherever this process can see them."""
    tops = [
        path
        for parent in read_parents()
        for path in parent.directory.glob(f"{PREFIX}{lab}-????????")
    ]
    return [str(path) for top in tops for path in (top, *top.rglob("*")) if path.is_dir()]


def descendants(pid: int) -> list[int]:
    """A process and all below it, as far as they live."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(found for child in children for found in descendants(child))]


def title_of(pid: int) -> str:
    """What `ps` shows as its command."""
    return cmdline(pid).split(b"\0")[0].decode()


def cmdline(pid: int) -> bytes:
    """Return the arguments of a process, each ended by a zero byte; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
