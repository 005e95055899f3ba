"""Attributes of the caller of `up`: the processes of the lab inherit only some of them."""

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
"""Signals of the threads of programs that posix_spawn() starts."""
KEPT_SOFT_LIMITS = ("Max stack size", "Max core file size")


class Caller:
    """A caller of `up` with unusual attributes, some of which block other processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reading, self._writing = os.pipe()
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.lock = directory / "lock"
        self._lock = os.open(self.lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command that inherits the descriptors, and close them here afterwards."""
        descriptors = (self._writing, self._directory, self._lock)
        line = [sys.executable, "-m", "kubenetlab", *words]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        try:
            return subprocess.run(
                line,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                cwd=self.directory,
                env=environment,
                pass_fds=descriptors,
                preexec_fn=_set_unusual_attributes,
                restore_signals=False,
            )
        finally:
            for fd in descriptors:
                os.close(fd)


def _set_unusual_attributes() -> None:
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
def unusual_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Caller]]:
    """Yield a lab and the unusual caller that created it."""
    caller = Caller(tmp_path_factory.mktemp("caller"))
    for lab in new_lab():
        completed = caller.run("up", "--lab", lab.name, "-f", "-", stdin=MANIFEST)
        assert completed.returncode == 0, completed.stderr
        yield lab, caller


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def signals(bits: str) -> set[int]:
    return {number for number in range(1, 65) if int(bits, 16) >> (number - 1) & 1}


def processes(lab: Lab) -> dict[str, int]:
    """Return one process of each kind by its title, including those of containers."""
    required = {"init", "agent", "worker-0", "node-agent-0", "sleep"}

    def found() -> dict[str, int]:
        titles = {
            title_of(pid).removeprefix(f"kubenetlab {lab.name} ").removeprefix(f"{lab.name}/"): pid
            for pid in lab.pids()
        }
        return titles if required <= set(titles) else {}

    titles: dict[str, int] = wait_for(found, f"{required}: the pod's shell becomes sleep")
    return titles


def test_the_lab_inherits_no_descriptors(unusual_lab: tuple[Lab, Caller]) -> None:
    """The caller's pipe ends and its lock is released.

    No process of the lab keeps the directory open or has it as its working directory.
    """
    lab, caller = unusual_lab
    assert select.select([caller.reading], [], [], DEADLINE_S)[0]
    assert os.read(caller.reading, 1) == b""
    with open(caller.lock) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = str(caller.directory)
    for title, pid in processes(lab).items():
        targets = [
            target_of(path)
            for path in (*Path(f"/proc/{pid}/fd").iterdir(), Path(f"/proc/{pid}/cwd"))
        ]
        assert not [path for path in targets if path.startswith(directory)], title


def target_of(path: Path) -> str:
    """Return the target of a descriptor of a process, or nothing once it is closed."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def test_a_container_has_only_the_standard_descriptors(unusual_lab: tuple[Lab, Caller]) -> None:
    """`ls` opens one more to read the directory."""
    lab, _ = unusual_lab
    assert lab.run("logs", "looks").out.split() == ["0", "1", "2", "3", "0022"]


def test_signals_have_their_default_actions(unusual_lab: tuple[Lab, Caller]) -> None:
    """No signal is blocked.

    The lab's own processes ignore only SIGINT, SIGCHLD, and the signals that Python and libc
    ignore.
    """
    lab, _ = unusual_lab
    for title, pid in processes(lab).items():
        attributes = status(pid)
        allowed = (
            set()
            if title == "sleep"
            else IGNORED_BY_PYTHON | IGNORED_BY_LIBC | {signal.SIGINT, signal.SIGCHLD}
        )
        assert signals(attributes["SigIgn"]) <= allowed, title
        assert signals(attributes["SigBlk"]) == set(), title


def test_the_umask_does_not_depend_on_the_caller(unusual_lab: tuple[Lab, Caller]) -> None:
    """It is the same in all processes, and the owner can use the run directory."""
    lab, _ = unusual_lab
    assert {title: status(pid)["Umask"] for title, pid in processes(lab).items()} == dict.fromkeys(
        processes(lab), "0022"
    )
    assert lab.directory.stat().st_mode & 0o777 == 0o700


def test_soft_limits_equal_hard_limits(unusual_lab: tuple[Lab, Caller]) -> None:
    """The exceptions are the stack, with the kernel's default, and core files.

    The nice value is the caller's.
    """
    lab, _ = unusual_lab
    for title, pid in processes(lab).items():
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
        limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
        for name, (soft, hard) in limits.items():
            assert soft == hard or name in KEPT_SOFT_LIMITS, (title, name)
        assert limits["Max stack size"][0] == str(8 << 20), title
        nice = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
        assert nice == os.nice(0) + 1, title


def test_up_works_with_closed_standard_descriptors(lab: Lab) -> None:
    """They are opened on /dev/null, so that no file or socket of the lab gets their numbers."""
    words = [sys.executable, "-m", "kubenetlab", "up", "--lab", lab.name, "--nodes", "1"]
    completed = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], check=False, timeout=60
    )
    assert completed.returncode == 0
    assert lab.run("ping", "-o", "json").json["ok"]
    for pid in lab.pids():
        stdin, *outputs = [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in range(3)]
        assert stdin == Path("/dev/null")
        # Processes in pods print through a pipe to init.
        assert all(
            path.parent == lab.directory or path.name.startswith("pipe:") for path in outputs
        )
    listing = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "kubenetlab", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert listing.returncode == 0
    assert "next: " in listing.stderr  # other labs may add notes that they do not answer


CAPABLE = """\
apiVersion: v1
kind: Pod
metadata: {name: capable, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers: [{name: main, image: x, command: [sh, -c, "cat /proc/self/status; exec sleep 1000"]}]
"""
SYS_ADMIN = 1 << 21
KEY_SEARCH = """\
import ctypes, os
keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
print(ctypes.CDLL(None).syscall(keyctl, 10, -3, b"user", b"knl-secret", 0))
"""
"""Print the number of a key in the session keyring, or -1."""


def _add_key() -> None:
    libc, keyctl = ctypes.CDLL(None), {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    libc.syscall(keyctl, 1, None)
    libc.syscall(keyctl - 2, b"user", b"knl-secret", b"x", 1, -3)


def test_the_lab_inherits_no_keyring(lab: Lab) -> None:
    """Kerberos and file systems keep secrets in the session keyring, which children inherit."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "keys", "annotations": {"kubenetlab.dev/real-commands": "true"}},
    }
    command = ["python3", "-S", "-E", "-u", "-c", KEY_SEARCH + "import signal; signal.pause()"]
    manifest = json.dumps(
        {**pod, "spec": {"containers": [{"name": "main", "image": "x", "command": command}]}}
    )
    search = [sys.executable, "-S", "-E", "-c", KEY_SEARCH]
    found_key = subprocess.run(
        search, capture_output=True, text=True, check=True, preexec_fn=_add_key
    ).stdout
    if found_key == "-1\n":
        pytest.skip("this kernel has no keyrings")
    for words in (["up", "-f", "-"], ["exec", "keys", "--", "python3", *search[1:]]):
        line = [sys.executable, "-m", "kubenetlab", words[0], "--lab", lab.name, *words[1:]]
        completed = subprocess.run(
            line,
            input=manifest,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_add_key,
        )
        assert completed.returncode == 0, completed.stderr
    assert completed.stdout == "-1\n"
    assert lab.run("logs", "keys").out == "-1\n"


def test_containers_get_no_inheritable_capabilities(lab: Lab) -> None:
    """Programs of root would gain the caller's inheritable and ambient capabilities.

    The bounding set does not prevent that.
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
    completed = subprocess.run(
        [*words, "-f", "-"], input=CAPABLE, capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.returncode == 0, completed.stderr
    output = dict(line.split(":\t") for line in lab.run("logs", "capable").out.splitlines())
    assert {
        name: int(output[name], 16) & SYS_ADMIN for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")
    } == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), 0)


def _set_harmful_attributes() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def test_doctor_reports_harmful_attributes_of_the_caller() -> None:
    """Each finding has the value, its effect and a remedy.

    None of them prevents labs.
    """
    line = [sys.executable, "-m", "kubenetlab", "doctor", "-o", "json"]
    completed = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=_set_harmful_attributes,
    )
    assert completed.returncode == 0, completed.stderr
    findings = {
        entry["name"]: entry
        for entry in json.loads(completed.stdout)
        if entry["group"] == "What a lab inherits from this shell"
    }
    assert {"nofile", "memlock", "nice", "scheduling"} <= set(findings)
    assert {(entry["state"], bool(entry["remedy"])) for entry in findings.values()} == {
        ("optional", True)
    }
    assert findings["nofile"]["detail"].startswith("the hard limit is 500 open files: ")
    assert findings["memlock"]["detail"].startswith("the hard limit is 1 MiB: ")
    assert findings["nice"]["detail"].startswith(f"the nice value is {min(19, os.nice(0) + 19)}: ")
    assert findings["scheduling"]["detail"].startswith("it is idle: ")
