"""Attributes of the caller of `up`: which of them the processes of the lab have, and which end with
`up`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import DEADLINE_S, Lab, title_of, wait_for

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}]
external: []
---
apiVersion: v1
kind: Pod
metadata: {name: looks, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: x
    command: [sh, -c, "ls /proc/self/fd; umask; exec sleep 1000"]
---
apiVersion: v1
kind: Pod
metadata: {name: built-in}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
"""
IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
IGNORED_BY_LIBC = {32, 33}
"""In what posix_spawn() starts: the signals of its threads."""
KEPT_SOFT_LIMITS = ("Max stack size", "Max core file size")


class Caller:
    """A caller of `up` with unusual attributes, some of which hold something that others wait for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reading, self._writing = os.pipe()
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.lock = directory / "lock"
        self._lock = os.open(self.lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command that inherits the descriptors, which are closed here afterwards."""
        mine = (self._writing, self._directory, self._lock)
        line = [sys.executable, "-m", "kubenetlab", *words]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        try:
            return subprocess.run(
                line,
                input=given,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                cwd=self.directory,
                env=environment,
                pass_fds=mine,
                preexec_fn=_become_unusual,
                restore_signals=False,
            )
        finally:
            for fd in mine:
                os.close(fd)


def _become_unusual() -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM, signal.SIGUSR2, signal.SIGTERM))
    os.umask(0o777)
    for limit, soft in (
        (resource.RLIMIT_NOFILE, 100),
        (resource.RLIMIT_MEMLOCK, 4096),
        (resource.RLIMIT_STACK, 1 << 20),
    ):
        resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
    os.nice(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Caller]]:
    """A lab that an unusual caller has made."""
    caller = Caller(tmp_path_factory.mktemp("caller"))
    for lab in new_lab():
        done = caller.run("up", "--lab", lab.name, "-f", "-", given=MANIFEST)
        assert done.returncode == 0, done.stderr
        yield lab, caller


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def signals(bits: str) -> set[int]:
    return {number for number in range(1, 65) if int(bits, 16) >> (number - 1) & 1}


def processes(lab: Lab) -> dict[str, int]:
    """The lab's own processes, one of each kind, by their titles, and those of its containers."""
    wanted = {"init", "agent", "worker-0", "node-agent-0", "sleep"}

    def found() -> dict[str, int]:
        titles = {
            title_of(pid).removeprefix(f"kubenetlab {lab.name} ").removeprefix(f"{lab.name}/"): pid
            for pid in lab.pids()
        }
        return titles if wanted <= set(titles) else {}

    titles: dict[str, int] = wait_for(found, f"{wanted}: the pod's shell becomes sleep")
    return titles


def test_descriptors_end_with_the_command(made: tuple[Lab, Caller]) -> None:
    """A pipe ends, a lock is free, and no process of the lab has the directory open or as its
    working directory.
    """
    lab, caller = made
    assert select.select([caller.reading], [], [], DEADLINE_S)[0]
    assert os.read(caller.reading, 1) == b""
    with open(caller.lock) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    ours = str(caller.directory)
    for title, pid in processes(lab).items():
        held = [
            target_of(path)
            for path in (*Path(f"/proc/{pid}/fd").iterdir(), Path(f"/proc/{pid}/cwd"))
        ]
        assert not [path for path in held if path.startswith(ours)], title


def target_of(path: Path) -> str:
    """Return what a descriptor of a process refers to; nothing if it was closed meanwhile."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def test_a_container_has_the_standard_descriptors_alone(made: tuple[Lab, Caller]) -> None:
    """`ls` has one more open while it reads the directory."""
    lab, _ = made
    assert lab.run("logs", "looks").out.split() == ["0", "1", "2", "3", "0022"]


def test_signals_act_as_by_default(made: tuple[Lab, Caller]) -> None:
    """No signal is blocked; the processes of the lab, but not of containers, ignore those that
    Python and libc ignore, and SIGINT.
    """
    lab, _ = made
    for title, pid in processes(lab).items():
        now = status(pid)
        allowed = (
            set()
            if title == "sleep"
            else IGNORED_BY_PYTHON | IGNORED_BY_LIBC | {signal.SIGINT, signal.SIGCHLD}
        )
        assert signals(now["SigIgn"]) <= allowed, title
        assert signals(now["SigBlk"]) == set(), title


def test_permissions_of_new_files_do_not_depend_on_the_caller(made: tuple[Lab, Caller]) -> None:
    """The umask is the same everywhere, and the run directory can be used by its owner."""
    lab, _ = made
    assert {title: status(pid)["Umask"] for title, pid in processes(lab).items()} == dict.fromkeys(
        processes(lab), "0022"
    )
    assert lab.directory.stat().st_mode & 0o777 == 0o700


def test_soft_limits_are_the_hard_ones(made: tuple[Lab, Caller]) -> None:
    """But for the stack, which has the kernel's default, and core files.

    The nice value is the caller's.
    """
    lab, _ = made
    for title, pid in processes(lab).items():
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
        limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
        for name, (soft, hard) in limits.items():
            assert soft == hard or name in KEPT_SOFT_LIMITS, (title, name)
        assert limits["Max stack size"][0] == str(8 << 20), title
        nice = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
        assert nice == os.nice(0) + 1, title


def test_closed_standard_descriptors(lab: Lab) -> None:
    """They are opened on /dev/null: no file or socket of the lab gets their numbers, and all of it
    works.
    """
    words = [sys.executable, "-m", "kubenetlab", "up", "--lab", lab.name, "--nodes", "1"]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], check=False, timeout=60)
    assert done.returncode == 0
    assert lab.run("ping", "-o", "json").json["ok"]
    for pid in lab.pids():
        stdin, *written = [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in range(3)]
        assert stdin == Path("/dev/null")
        assert all(
            path.parent == lab.directory or path.name.startswith("pipe:") for path in written
        )  # what is in pods prints by way of init
    said = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "kubenetlab", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0
    assert "next: " in said.stderr  # other labs may have no answer to give


CAPABLE = """\
apiVersion: v1
kind: Pod
metadata: {name: capable, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers: [{name: main, image: x, command: [sh, -c, "cat /proc/self/status; exec sleep 1000"]}]
"""
SYS_ADMIN = 1 << 21
SEARCHES = """\
import ctypes, os
keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
print(ctypes.CDLL(None).syscall(keyctl, 10, -3, b"user", b"knl-secret", 0))
"""
"""Print the number of a key in the session keyring, or -1."""


def _hold_a_key() -> None:
    libc, keyctl = ctypes.CDLL(None), {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    libc.syscall(keyctl, 1, None)
    libc.syscall(keyctl - 2, b"user", b"knl-secret", b"x", 1, -3)


def test_keys_of_the_caller_stay_outside(lab: Lab) -> None:
    """Kerberos and file systems keep secrets in the session keyring, which children inherit."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "keys", "annotations": {"kubenetlab.dev/real-commands": "true"}},
    }
    command = ["python3", "-S", "-E", "-u", "-c", SEARCHES + "import signal; signal.pause()"]
    given = json.dumps(
        {**pod, "spec": {"containers": [{"name": "main", "image": "x", "command": command}]}}
    )
    search = [sys.executable, "-S", "-E", "-c", SEARCHES]
    said = subprocess.run(
        search, capture_output=True, text=True, check=True, preexec_fn=_hold_a_key
    ).stdout
    if said == "-1\n":
        pytest.skip("this kernel has no keyrings")
    for words in (["up", "-f", "-"], ["exec", "keys", "--", "python3", *search[1:]]):
        line = [sys.executable, "-m", "kubenetlab", words[0], "--lab", lab.name, *words[1:]]
        done = subprocess.run(
            line, input=given, capture_output=True, text=True, check=False, preexec_fn=_hold_a_key
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == "-1\n"
    assert lab.run("logs", "keys").out == "-1\n"


def test_inheritable_capabilities_do_not_reach_containers(lab: Lab) -> None:
    """Root's programs get the caller's inheritable and ambient capabilities in spite of their
    bounding set.
    """
    words = [
        "setpriv",
        "--inh-caps=+sys_admin",
        "--ambient-caps=+sys_admin",
        sys.executable,
        "-m",
        "kubenetlab",
        "up",
        "--lab",
        lab.name,
    ]
    done = subprocess.run(
        [*words, "-f", "-"], input=CAPABLE, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(":\t") for line in lab.run("logs", "capable").out.splitlines())
    assert {
        name: int(shown[name], 16) & SYS_ADMIN for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")
    } == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), 0)


def _become_hindered() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def test_doctor_names_what_harms_a_lab() -> None:
    """Of the attributes that a lab keeps: each with its value, the harm and what to do; none of it
    makes labs impossible.
    """
    line = [sys.executable, "-m", "kubenetlab", "doctor", "-o", "json"]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60, preexec_fn=_become_hindered
    )
    assert done.returncode == 0, done.stderr
    found = {
        entry["name"]: entry
        for entry in json.loads(done.stdout)
        if entry["group"] == "What a lab inherits from this shell"
    }
    assert {"nofile", "memlock", "nice", "scheduling"} <= set(found)
    assert {(entry["state"], bool(entry["remedy"])) for entry in found.values()} == {
        ("optional", True)
    }
    assert found["nofile"]["detail"].startswith("the hard limit is 500 open files: ")
    assert found["memlock"]["detail"].startswith("the hard limit is 1 MiB: ")
    assert found["nice"]["detail"].startswith(f"the nice value is {min(19, os.nice(0) + 19)}: ")
    assert found["scheduling"]["detail"].startswith("it is idle: ")
