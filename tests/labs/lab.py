"""Command-line access to one lab, and programs in the namespaces that `inspect` names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from kubenetlab.kernel.processes.cgroups import PREFIX, read_parents
from kubenetlab.kernel.syscalls import inside_network
from kubenetlab.lab.client import Client
from tests.labs.traffic_client import Answer, Target, ask
from tests.patience import patiently
from tests.warm import server

DEADLINE_S = patiently(20)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
"""Limits of the pause between two checks of a condition."""
SHORTLY = ("--timeout", f"{patiently(3):g}s")
"""Option of commands that cannot succeed, and would wait for pods for 20 s."""
ROOT = Path(__file__).parents[2]
COMMAND = INSTALLED = (sys.executable, "-m", "kubenetlab")


class CommandResult(Struct, frozen=True):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_module(
    module: str, *words: str, stdin: str | None = None, status: int | None = 0
) -> CommandResult:
    """Run `python -m MODULE WORDS…` in a process of its own; it must end with `status`."""
    completed = subprocess.run(
        [sys.executable, "-m", module, *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(90),
        cwd=ROOT,
    )
    return command_result(completed, status)


def run(
    *words: str,
    stdin: str | None = None,
    status: int | None = 0,
    cwd: Path | None = None,
    prefix: Sequence[str] = (),
) -> CommandResult:
    """Run a kubenetlab command; it must end with `status`, unless that is None.

    prefix: words before the command line, such as `nsenter` with its options.
    """
    if not prefix and COMMAND is INSTALLED:
        return command_result(server().run(words, stdin, patiently(90), cwd), status)
    line = [*prefix, *COMMAND, *words]
    return command_result(
        subprocess.run(
            line,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
            cwd=cwd,
        ),
        status,
    )


def command_result(
    completed: subprocess.CompletedProcess[str], status: int | None
) -> CommandResult:
    """Return the result of a command that ended with `status`, or anyhow if that is None."""
    assert "Traceback" not in completed.stderr, completed.stderr
    assert status in (None, completed.returncode), (
        f"{' '.join(completed.args)} ended with {completed.returncode}\n"
        f"{completed.stdout}\n{completed.stderr}"
    )
    return CommandResult(completed.returncode, completed.stdout, completed.stderr)


def wait_for(condition: Callable[[], Any], description: str, within_s: float = DEADLINE_S) -> Any:
    """Return the first true value of the condition.

    Between two checks, the lab has the processor for as long as the last check took.
    """
    started_at = time.monotonic()
    deadline = started_at + within_s
    while not (value := condition()):
        checked_at = time.monotonic()
        assert checked_at < deadline, f"{description}: not within {within_s:g} s"
        time.sleep(min(max(checked_at - started_at, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
        started_at = time.monotonic()
    return value


class Lab:
    """A lab by its name.

    `run` is the command line with `--lab`. A prefix, such as `nsenter`, reaches labs in other
    namespaces.
    """

    def __init__(self, name: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self._prefix = prefix

    @property
    def directory(self) -> Path:
        return Path("/run/kubenetlab", self.name)

    def run(self, *words: str, stdin: str | None = None, status: int | None = 0) -> CommandResult:
        command, *rest = words
        return run(
            command, "--lab", self.name, *rest, stdin=stdin, status=status, prefix=self._prefix
        )

    def up(self, manifest: str, *words: str, status: int = 0) -> CommandResult:
        return self.run("up", "-f", "-", *words, stdin=manifest, status=status)

    def kill(self, role: str) -> int:
        """Kill one of the lab's own processes and wait for its successor; return its pid."""
        (victim,) = self.pids(f"kubenetlab {self.name} {role}")
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda: self.pids(f"kubenetlab {self.name} {role}") not in ([], [victim]),
            "its successor",
        )
        return victim

    def apply(self, manifest: str, *words: str, status: int | None = 0) -> CommandResult:
        return self.run("apply", "-f", "-", *words, stdin=manifest, status=status)

    def down(self) -> None:
        self.run("down")

    # --- objects ---

    @property
    def inspected(self) -> Any:
        """Output of `inspect -o json`.

        It comes from the API directly unless the lab has a prefix, because tests read it often.
        """
        return (
            self.run("inspect", "-o", "json").json if self._prefix else Client(self.name).inspect()
        )

    def pod(self, name: str, namespace: str = "default") -> Any:
        """Return a pod by its name, or the first pod of the Deployment of that name."""
        return self.pods(name, namespace)[0]

    def pods(self, name: str, namespace: str = "default") -> list[Any]:
        pods = [
            pod
            for pod in self.inspected["pods"]
            if pod["namespace"] == namespace and f"{pod['name']}-".startswith(f"{name}-")
        ]
        assert pods, f"there is no pod {namespace}/{name}"
        return pods

    def service(self, name: str, namespace: str = "default") -> Any:
        return next(
            entry
            for entry in self.inspected["services"]
            if (entry["namespace"], entry["name"]) == (namespace, name)
        )

    def place(self, kind: str, name: str) -> Any:
        """Return a node or an external host.

        kind: nodes or external.
        """
        return next(entry for entry in self.inspected[kind] if entry["name"] == name)

    def get(self, *words: str) -> Any:
        return self.run("get", *words, "-o", "json").json

    def live_netns_names(self) -> list[str]:
        """Return the names in /run/netns that refer to a namespace."""
        return [str(path) for path in Path("/run/netns").glob(f"{self.name}_*") if path.exists()]

    @property
    def leftovers(self) -> list[str]:
        """Traces of the lab on this machine: processes, netns names, cgroups and run directory."""
        titles = (f"{self.name}/", f"kubenetlab {self.name} ")
        leftovers = [
            title
            for path in Path("/proc").glob("[0-9]*")
            if (title := title_of(int(path.name))).startswith(titles)
        ]
        leftovers += [str(path) for path in Path("/run/netns").glob(f"{self.name}_*")]
        leftovers += cgroups_of(self.name)
        return leftovers + [str(self.directory)] * self.directory.exists()

    @property
    def problems(self) -> list[str]:
        """Unready pods, missing or unexpected connectivity, and drift from the plan."""
        expected = (True, "Running", True)
        problems = [
            f"{pod['name']} is not ready"
            for pod in self.inspected["pods"]
            if (pod["ready"], pod["phase"], bool(pod["addresses"])) != expected
        ]
        pings, diff = self.run("ping", "-o", "json", status=None), self.run("diff", status=None)
        return (
            problems
            + ["ping: " + pings.out[:500]] * bool(pings.status)
            + [f"diff: {diff.out}"] * bool(diff.status)
        )

    # --- packets ---

    def inside(self, place: Any, *command: str, stdin: str | None = None, status: int = 0) -> str:
        """Return the output of a program that runs in the network of a place of `inspect`."""
        completed = subprocess.run(
            ["nsenter", f"--net={place['netns']}", *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(60),
        )
        assert completed.returncode == status, (
            f"{command}: {completed.returncode}\n{completed.stdout}{completed.stderr}"
        )
        return completed.stdout

    @contextmanager
    def network(self, place: Any) -> Iterator[None]:
        """Run the block in the network of a place of `inspect`; sockets opened there stay there.

        Starting a program takes longer than most requests.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with inside_network(os.open(place["netns"], os.O_RDONLY | os.O_CLOEXEC), home):
                yield
        finally:
            os.close(home)

    def ask(self, place: Any, *targets: Target) -> list[Answer]:
        """Return the answers that a client in the network of a place receives."""
        return self.ask_each((place, targets))[0]

    def ask_each(self, *questions: tuple[Any, Sequence[Target]]) -> list[list[Answer]]:
        """Return the answers to clients in several places, which ask at the same time."""
        return ask([(place["netns"], targets) for place, targets in questions])

    def pids(self, title: str = "") -> list[int]:
        """Return the machine's pids of the lab's processes whose title begins with `title`."""
        init = self.inspected["init_pid"]
        return [pid for pid in descendants(init) if title_of(pid).startswith(title)]


def cgroups_of(lab: str) -> list[str]:
    """Return the control groups of a lab in all hierarchies that this process can see."""
    tops = [
        path
        for parent in read_parents()
        for path in parent.directory.glob(f"{PREFIX}{lab}-????????")
    ]
    return [str(path) for top in tops for path in (top, *top.rglob("*")) if path.is_dir()]


def descendants(pid: int) -> list[int]:
    """Return the pid and those of all descendants that are alive."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in descendants(child))]


def title_of(pid: int) -> str:
    """Return the title of a process, as `ps` shows it."""
    return cmdline(pid).split(b"\0")[0].decode()


def cmdline(pid: int) -> bytes:
    """Return the arguments of a process, each ended by a zero byte; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
