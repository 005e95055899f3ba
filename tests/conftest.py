"""The whole run leaves the machine as it found it: compared before the first test and after the
last.

Tests may run in several worker processes (pytest-xdist). Only the process that the user started
looks at the machine.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

os.environ.pop("KUBENETLAB_LAB", None)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # what a shell starts in the background would not hear of Ctrl-C, nor what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

RUN = os.environ.setdefault("KUBENETLAB_TEST_RUN", f"t{os.getpid()}-")
"""Prefix of the names of all labs of this run, shared by its workers.

Other labs may come and go meanwhile.
"""
OURS = RUN + "".join(
    f"{worker.removeprefix('gw')}-" for worker in os.environ.get("PYTEST_XDIST_WORKER", "").split()
)
"""Prefix of the names of the labs of this process."""

_CHANGES_BY_ITSELF = (
    "random/",
    "/nf_conntrack_count",
    "/dentry-state",
    "/inode-",
    "/file-nr",
    "/route/flush",
    "/stable_secret",
)
_SYSCTL_ROOTS = ("net", "kernel", "user", "fs/inotify")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every call refused once, and many random histories: three quarters of an hour or more",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips here what is for the emulated machine."""
    if "KUBENETLAB_VM" not in os.environ:
        for item in items:
            if item.get_closest_marker("vm"):
                item.add_marker(
                    pytest.mark.skip(reason="only on the emulated machine: scripts/vm-test")
                )


_BEFORE = pytest.StashKey[dict[str, Any]]()
_CHANGED = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and not session.config.option.collectonly:
        session.config.stash[_BEFORE] = machine()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Compare links, addresses, routes, ruleset, settings, mounts, names in /run/netns, run
    directories and processes.
    """
    yield  # the workers end here
    before = session.config.stash.get(_BEFORE, None)
    if before is None:
        return
    after = machine()
    # A module that the kernel has loaded meanwhile brings settings with it.
    after["sysctls"] = {
        name: setting for name, setting in after["sysctls"].items() if name in before["sysctls"]
    }
    session.config.stash[_CHANGED] = [
        f"the tests have changed the machine's {what}:\n{_difference(before[what], after[what])}"
        for what in before
        if after[what] != before[what]
    ]
    if session.config.stash[_CHANGED] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _difference(before: Any, after: Any) -> str:
    """Return the lines, or the entries of a mapping, that differ."""
    found = difflib.unified_diff(_lines(before), _lines(after), "before", "after", n=0, lineterm="")
    return "\n".join(f"  {line.rstrip()}" for line in found)


def _lines(state: Any) -> list[str]:
    if isinstance(state, dict):
        return [f"{name}: {value}" for name, value in state.items()]
    return state.splitlines() if isinstance(state, str) else [str(item) for item in state]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_CHANGED, []):
        terminalreporter.write_line(line, red=True)


def machine() -> dict[str, Any]:
    """All of the machine's state that a lab could get at."""
    return {
        "links": _said("ip", "-j", "link"),
        "addresses": [
            (link["ifname"], [entry["local"] for entry in link["addr_info"]])
            for link in json.loads(_said("ip", "-j", "addr"))
        ],
        "routes": _said("ip", "route", "show", "table", "all"),
        "ruleset": _said("nft", "list", "ruleset"),
        "sysctls": _sysctls(),
        "mounts": sorted(
            line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        "names in /run/netns": [name for name in _names("/run/netns") if name.startswith(RUN)],
        "run directories": [name for name in _names("/run/kubenetlab") if name.startswith(RUN)],
        "processes": [process for process in lab_processes() if f" {RUN}" in process],
    }


def lab_processes() -> list[str]:
    """Processes that hold a PID or network namespace other than ours and run something of the
    package.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (
                    (entry / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                    .strip()
                )
                program = str((entry / "exe").readlink())
            except OSError:
                continue
            if "/kubenetlab/" in program or title.startswith("kubenetlab"):
                found.append(f"{entry.name} {title.removeprefix('kubenetlab')} ({program})")
    return sorted(found)


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "[]"


def _sysctls() -> dict[str, str]:
    found = {}
    for root in _SYSCTL_ROOTS:
        for path in sorted(Path("/proc/sys", root).rglob("*")):
            name = str(path)
            if path.is_file() and not any(part in name for part in _CHANGES_BY_ITSELF):
                try:
                    found[name] = path.read_text()
                except OSError:
                    continue
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(("/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pty/nr"))
    }


def _names(directory: str) -> list[str]:
    return (
        sorted(entry.name for entry in Path(directory).iterdir())
        if Path(directory).is_dir()
        else []
    )
