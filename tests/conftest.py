"""The test run leaves the machine as it found it.

The state is compared before the first test and after the last. Tests may run in several worker
processes (pytest-xdist); only the process that the user started observes the machine.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

os.environ.pop("KUBENETLAB_LAB", None)
# A shell's background process ignores SIGINT, and so would the processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

RUN_PREFIX = os.environ.setdefault("KUBENETLAB_TEST_RUN", f"t{os.getpid()}-")
"""Prefix of the names of all labs of this run, shared by its workers.

Other labs may come and go meanwhile.
"""
LAB_PREFIX = RUN_PREFIX + "".join(
    f"{worker.removeprefix('gw')}-" for worker in os.environ.get("PYTEST_XDIST_WORKER", "").split()
)
"""Prefix of the names of the labs of this process."""

NEEDS_ROOT = "needs root: the tests use the network namespaces of the machine and of labs"
"""Reason to skip a test of labs or of the kernel that an ordinary user runs."""

_CHANGES_BY_ITSELF = (
    "random/",
    "/nf_conntrack_count",
    "/dentry-state",
    "/inode-",
    "/file-nr",
    "/route/flush",
    "/stable_secret",
)
_MADE_BY_MODULES = ("tunl0", "sit0", "ip6tnl0")
"""Links that a kernel module creates in every namespace when it is loaded."""
_SYSCTL_ROOTS = ("net", "kernel", "user", "fs/inotify")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="make every call fail once, and use many random histories (45 minutes or more)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests for the emulated machine on any other machine."""
    if "KUBENETLAB_VM" not in os.environ:
        for item in items:
            if item.get_closest_marker("vm"):
                item.add_marker(
                    pytest.mark.skip(reason="only on the emulated machine: scripts/vm-test")
                )


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collections: that takes a tenth of the time."""
    gc.collect()
    gc.freeze()


_BEFORE = pytest.StashKey[dict[str, Any]]()
_CHANGED = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and not session.config.option.collectonly:
        session.config.stash[_BEFORE] = machine_state()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Fail the run if it has changed the machine's state."""
    yield  # the workers end during this yield
    before = session.config.stash.get(_BEFORE, None)
    if before is None:
        return
    after = machine_state()
    # A kernel module that was loaded meanwhile adds settings.
    after["sysctls"] = {
        name: setting for name, setting in after["sysctls"].items() if name in before["sysctls"]
    }
    session.config.stash[_CHANGED] = [
        f"the tests have changed the machine's {part}:\n{_difference(before[part], after[part])}"
        for part in before
        if after[part] != before[part]
    ]
    if session.config.stash[_CHANGED] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _difference(before: Any, after: Any) -> str:
    """Return the lines, or the entries of a mapping, that differ."""
    differences = difflib.unified_diff(
        _lines(before), _lines(after), "before", "after", n=0, lineterm=""
    )
    return "\n".join(f"  {line.rstrip()}" for line in differences)


def _lines(state: Any) -> list[str]:
    if isinstance(state, dict):
        return [f"{name}: {value}" for name, value in state.items()]
    return state.splitlines() if isinstance(state, str) else [str(item) for item in state]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_CHANGED, []):
        terminalreporter.write_line(line, red=True)


def machine_state() -> dict[str, Any]:
    """Return the state of the machine that a lab could change."""
    return {
        "links": [
            link
            for link in json.loads(_output("ip", "-j", "link"))
            if link["ifname"] not in _MADE_BY_MODULES
        ],
        "addresses": [
            (link["ifname"], [entry["local"] for entry in link["addr_info"]])
            for link in json.loads(_output("ip", "-j", "addr"))
            if link["ifname"] not in _MADE_BY_MODULES
        ],
        "routes": _output("ip", "route", "show", "table", "all"),
        "ruleset": _output("nft", "list", "ruleset"),
        "sysctls": _sysctls(),
        "mounts": sorted(
            line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        "names in /run/netns": [
            name for name in _names("/run/netns") if name.startswith(RUN_PREFIX)
        ],
        "run directories": [
            name for name in _names("/run/kubenetlab") if name.startswith(RUN_PREFIX)
        ],
        "processes": [process for process in lab_processes() if f" {RUN_PREFIX}" in process],
    }


def lab_processes() -> list[str]:
    """Return the processes that run the package or have a title of it."""
    processes = []
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
                processes.append(f"{entry.name} {title.removeprefix('kubenetlab')} ({program})")
    return sorted(processes)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "[]"


def _sysctls() -> dict[str, str]:
    sysctls = {}
    for root in _SYSCTL_ROOTS:
        for path in sorted(Path("/proc/sys", root).rglob("*")):
            name = str(path)
            if path.is_file() and not any(part in name for part in _CHANGES_BY_ITSELF):
                try:
                    sysctls[name] = path.read_text()
                except OSError:
                    continue
    return {
        name: value
        for name, value in sysctls.items()
        if not name.startswith(("/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pty/nr"))
    }


def _names(directory: str) -> list[str]:
    return (
        sorted(entry.name for entry in Path(directory).iterdir())
        if Path(directory).is_dir()
        else []
    )
