"""What programs of `exec` and `shell` can do to the machine, to the lab and to the terminal they
were started from.

The variables of a pod come from a manifest, and several of them make programs run code: so nothing
that such a program does may reach the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OURS
from tests.labs import users
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, cmdline, wait_for
from tests.labs.owner_commands import owner_command
from tests.labs.terminal import on_terminal
from tests.labs.users import NOBODY, UsersLab

PLACES = ("client", "node:worker", "ext:client")
OWN = ("/tmp", "/run", "/var", "/root", "/home")
SYS_ADMIN, NET_ADMIN, NET_RAW, SYS_PTRACE = 1 << 21, 1 << 12, 1 << 13, 1 << 19


def manifest(marker: Path) -> str:
    """Two pods; the variables of one of them make bash, Python and the dynamic linker do something
    before they begin.
    """
    variables = {
        "BASH_ENV": f"$(touch {marker}/bash-env)/dev/null",
        "PROMPT_COMMAND": f"touch {marker}/prompt-command; echo prompted",
        "LD_PRELOAD": f"{marker}/library.so",
        "PYTHONSTARTUP": f"{marker}/startup.py",
        "PATH": f"{marker}/bin:/usr/bin:/bin",
        "GREETING": "hello",
    }
    entries = ", ".join(
        f"{{name: {name}, value: {json.dumps(value)}}}" for name, value in variables.items()
    )
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec: {{containers: [{{name: main, image: agnhost, args: [netexec]}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: hostile}}
spec: {{containers: [{{name: main, image: agnhost, args: [netexec], env: [{entries}]}}]}}
"""


@pytest.fixture(scope="module")
def marker() -> Iterator[Path]:
    """A directory of the machine that everybody may write to, and that programs inside see."""
    made = Path(tempfile.mkdtemp(prefix="knl-", dir="/opt"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module", params=["root", "user"])
def lab(request: pytest.FixtureRequest, marker: Path) -> Iterator[Lab]:
    """A lab of root, and one of an ordinary user."""
    if request.param == "root":
        for made in new_lab():
            made.up(manifest(marker))
            yield made
        return
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    with users.user(NOBODY) as user:
        own = UsersLab(f"{OURS}i", user)
        try:
            own.up(manifest(marker))
            yield own
        finally:
            own.down()


@pytest.fixture(autouse=True)
def unmarked(marker: Path) -> Iterator[None]:
    """Nothing has been written to the machine's directory."""
    yield
    assert list(marker.iterdir()) == []


def inside(lab: Lab, where: str, script: str, status: int | None = 0) -> str:
    """Return what a shell script prints in a place."""
    return lab.run("exec", where, "--", "sh", "-c", script, status=status).out


# --- files ---


@pytest.mark.parametrize("where", PLACES)
def test_files_of_the_machine_are_read_only(lab: Lab, marker: Path, where: str) -> None:
    """All that can be written to are directories of the program's own, which are empty; it begins
    in /.
    """
    script = f"for place in /etc /usr /usr/bin '' {marker} /sys /dev/pts; do mkdir $place/x && rmdir $place/x && echo $place; done; pwd"
    assert inside(lab, where, script) == "/\n"
    sights = inside(
        lab,
        where,
        f"for place in {' '.join(OWN)}; do touch $place/knl-mine && ls $place; done; echo $HOME",
    ).split()
    assert set(sights) <= {
        "knl-mine",
        "lock",
        "cache",
        "lib",
        "local",
        "log",
        "mail",
        "opt",
        "run",
        "spool",
        "tmp",
        "/root",
    }
    assert not [place for place in OWN if Path(place, "knl-mine").exists()]


def test_each_program_has_directories_of_its_own(lab: Lab) -> None:
    """They end with it."""
    inside(lab, "client", "touch /tmp/mine")
    assert inside(lab, "client", "ls /tmp") == ""


def test_the_run_directory_of_labs_is_out_of_sight(lab: Lab) -> None:
    """A program cannot speak to the lab's API."""
    script = f"ls {lab.directory.parent}"
    assert (
        lab.directory.name
        not in lab.run("exec", "client", "--", "sh", "-c", script, status=None).out
    )


def test_files_come_and_go_by_standard_streams(lab: Lab) -> None:
    """So that nothing has to be written to the machine from inside."""
    assert (
        lab.run(
            "exec", "client", "--", "sh", "-c", "cat > /tmp/x; wc -c < /tmp/x", given="12345"
        ).out
        == "5\n"
    )


def test_a_program_that_is_out_of_sight_is_named(lab: Lab) -> None:
    """With the option that shows it; another message where there is no such program at all."""
    with tempfile.TemporaryDirectory(prefix="knl-") as directory:
        place = Path(directory, "tool")
        place.write_text("#!/bin/sh\necho mine\n")
        for path in (place, place.parent):
            path.chmod(0o755)
        said = lab.run("exec", "client", "--", str(place), status=127).err
        assert (
            f"{place} is not among the files that programs inside see; use --host-files to run it"
            in said
        )
        assert lab.run("exec", "client", "--host-files", "--", str(place)).out == "mine\n"
    assert (
        "no such program on this machine"
        in lab.run("exec", "client", "--", "/nowhere/tool", status=127).err
    )


# --- variables ---


def test_variables_of_a_pod_run_nothing_on_the_machine(lab: Lab) -> None:
    """bash expands BASH_ENV; the container's variables are there all the same."""
    assert inside(lab, "hostile", "echo $GREETING") == "hello\n"
    done = lab.run("exec", "hostile", "--", "bash", "-c", "echo $GREETING")
    assert (done.out, "Read-only file system" in done.err) == ("hello\n", True)
    assert lab.run("shell", "hostile", given="echo $GREETING\n").out == "hello\n"


def test_the_machines_variables_stay_outside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those about the terminal and the language; PATH has the directories of the system."""
    values = {
        "SECRET_TOKEN": "s",
        "LC_TIME": "C",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "BASH_ENV": "/dev/null",
        "HOME": "/nowhere",
    }
    line = owner_command(lab, "exec", "client", "--", "env")
    done = line.run(values)
    found = dict(entry.split("=", 1) for entry in done.stdout.splitlines())
    assert {name: found.get(name) for name in values} == {
        "SECRET_TOKEN": None, "LC_TIME": "C", "TERM": "dumb", "LANG": "C.UTF-8", "BASH_ENV": None, "HOME": "/root",
    }  # fmt: skip
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert found["HOSTNAME"] == "client"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"


def test_host_files_come_without_a_pods_variables(lab: Lab, marker: Path) -> None:
    """The machine's files can be written to, and its variables and the working directory are there."""
    script = f"echo $GREETING$PROMPT_COMMAND$LD_PRELOAD; touch {marker}/by-hand && rm {marker}/by-hand && pwd"
    line = owner_command(lab, "exec", "--host-files", "hostile", "--", "bash", "-c", script)
    done = line.run(cwd=marker)
    assert done.stdout == f"\n{marker}\n"
    assert (
        lab.run("shell", "--host-files", "hostile", given="echo $GREETING; hostname\n").out
        == "\nhostile\n"
    )


# --- privileges ---


@pytest.mark.parametrize("where", PLACES)
def test_privileges_are_those_of_containers_and_the_network(lab: Lab, where: str) -> None:
    """No mounts, devices or modules; and what runs with more in the same place is out of reach,
    such as its pause process.
    """
    shown = dict(
        line.split(":\t") for line in inside(lab, where, "cat /proc/self/status").splitlines()
    )
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert (
            int(shown[name], 16) & (SYS_ADMIN | NET_ADMIN | NET_RAW | SYS_PTRACE)
            == NET_ADMIN | NET_RAW
        ), name
    assert (int(shown["CapInh"], 16), shown["NoNewPrivs"]) == (0, "1")
    for command in (
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "mknod /tmp/disk b 8 0",
        "ls /proc/1/root/",
        "cat /proc/1/environ",
    ):
        said = inside(lab, where, f"{command} 2>&1 && echo done", status=None)
        assert "denied" in said or "permitted" in said, (command, said)
        assert "done" not in said, command


SETTINGS_OF_THE_MACHINE = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/swappiness",
    "/proc/sys/fs/file-max",
    "/proc/sys/net/netfilter/nf_hooks_lwtunnel",
    "/sys/kernel/mm/ksm/run",
)
SPY = """\
apiVersion: v1
kind: Pod
metadata: {name: spy, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: x
    command:
    - sh
    - -c
    - "while :; do for p in /proc/[0-9]*; do if grep -qs ^tail$ $p/comm; then readlink $p/fd/0 || echo denied; exec sleep 1000; fi; done; sleep 0.1; done"
    securityContext: {capabilities: {add: [ALL]}}
"""


def test_containers_cannot_get_at_the_callers_terminal_and_files(lab: Lab) -> None:
    """A program of `exec` shares the PID namespace of the pod, whose command may have all that a
    container may have.
    """
    lab.apply(SPY)
    line = owner_command(lab, "exec", "spy", "--", "tail", "-f", "/dev/null")
    process = line.start()
    try:
        wait_for(
            lambda: "denied" in lab.run("logs", "spy").out, "the container's look at the program"
        )
    finally:
        process.kill()
        process.wait()
    assert lab.run("logs", "spy").out == "denied\n"
    lab.run("delete", "pod", "spy")


@pytest.mark.parametrize("where", PLACES)
def test_settings_of_the_network_can_be_changed_and_no_others(lab: Lab, where: str) -> None:
    """Those below net of this place alone; the kernel's are read-only, and so is /sys but for the
    settings of links.
    """
    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    assert (
        inside(
            lab,
            where,
            "sysctl -qw net.ipv4.ip_default_ttl=33; cat /proc/sys/net/ipv4/ip_default_ttl",
        )
        == "33\n"
    )
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before
    inside(lab, where, "sysctl -qw net.ipv4.ip_default_ttl=64")
    for path in SETTINGS_OF_THE_MACHINE:
        said = lab.run(
            "exec",
            where,
            "--",
            "sh",
            "-c",
            f'value=$(cat {path}) && echo "$value" > {path} && echo written',
            status=None,
        )
        assert (said.out, Path(path).exists() and "Read-only" not in said.err) == ("", False), path
    assert (
        inside(lab, where, "echo 9000 > /sys/class/net/lo/mtu && cat /sys/class/net/lo/mtu")
        == "9000\n"
    )
    inside(lab, where, "echo 65536 > /sys/class/net/lo/mtu")


TOOLS = {
    "ip": "ip link add knl0 type veth peer knl1 && ip link set knl0 up && ip address add 192.0.2.1/24 dev knl0 && ip link del knl0",
    "nft": "nft add table ip mine && nft list table ip mine && nft delete table ip mine",
    "iptables": "iptables-nft -N MINE && iptables-nft -X MINE",
    "ss": "ss -ltn | grep LISTEN",
    "ping": "ping -c1 -W5 127.0.0.1",
    "tc": "tc qdisc add dev lo root pfifo && tc qdisc del dev lo root",
    "tcpdump": "timeout 30 tcpdump -Z root -c1 -nni lo -w /tmp/x icmp & "
    "while kill -0 $! 2>/dev/null; do ping -c1 -W1 127.0.0.1 >/dev/null; done; test -s /tmp/x",
}


@pytest.mark.parametrize("where", ["client", "node:worker"])
@pytest.mark.parametrize("tool", TOOLS)
def test_network_tools_work(lab: Lab, where: str, tool: str) -> None:
    """Each does what people use it for."""
    if shutil.which({"iptables": "iptables-nft"}.get(tool, tool)) is None:
        pytest.skip(f"{tool} is not installed")
    if (where, tool) == ("client", "ss"):
        where = "node:worker"  # a pod's built-in program listens there as well; a node has its kube-proxy
    inside(lab, where, TOOLS[tool])


def test_descriptors_of_the_caller_are_closed(lab: Lab, marker: Path) -> None:
    """A directory that the caller has open would lead to files that can be written to."""
    directory = os.open(marker, os.O_RDONLY | os.O_DIRECTORY)
    line = owner_command(
        lab,
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        f"ls /proc/self/fd; touch /proc/self/fd/{directory}/x",
    )
    result = line.run(status=1, pass_fds=[directory])
    os.close(directory)
    assert result.stdout.split() == ["0", "1", "2", "3"]


def _become_unusual() -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    os.umask(0o777)


def test_signals_and_umask_of_the_caller_stay_outside(lab: Lab) -> None:
    """As under nohup, in the background of a script, or with a strict umask."""
    line = owner_command(
        lab, "exec", "client", "--", "grep", "-E", "^(SigBlk|SigIgn|Umask)", "/proc/self/status"
    )
    done = line.run(preexec_fn=_become_unusual, restore_signals=False)
    assert done.stdout.split() == ["Umask:", "0022", "SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


# --- the terminal, and the end ---


INJECTS = """\
import fcntl, os
for request in (0x5412, 0x541C, 0x5412 + (1 << 32)):
    for path in ("/dev/tty", "/proc/self/fd/0"):
        try:
            fd = os.open(path, os.O_RDWR)
            fcntl.ioctl(fd, request & 0xFFFFFFFF, b"x")
            print("typed", hex(request), path)
        except OSError as error:
            print("refused", error.errno)
print("end")
"""


def test_a_program_cannot_type_into_the_terminal(lab: Lab) -> None:
    """The caller's shell would execute it after the end of the program."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("python3 is not installed")
    _, drawn = on_terminal(
        owner_command(lab, "exec", "client", "--", "python3", "-S", "-E", "-c", INJECTS).execute
    )
    assert "typed" not in drawn
    assert drawn.count("refused 1\r\n") == 6


def test_a_shell_has_its_terminal(lab: Lab) -> None:
    """Job control works, PROMPT_COMMAND of a manifest runs among the files inside."""
    _, drawn = on_terminal(
        owner_command(lab, "shell", "hostile").execute,
        ("[hostile /]", "sleep 1000 & jobs; kill %1; echo at-$(hostname)\n"),
        ("at-hostile", "exit\n"),
    )
    assert "Running" in drawn
    assert "prompted" in drawn
    assert "no job control" not in drawn


def test_a_program_ends_with_its_command(lab: Lab) -> None:
    """Also when that is killed, though the program has fewer privileges."""
    line = owner_command(lab, "exec", "client", "--", "sleep", "4711")
    process = line.start()

    def sleeping() -> list[int]:
        return [
            pid for pid in lab.pids() + children(process.pid) if b"sleep\x004711" in cmdline(pid)
        ]

    wait_for(sleeping, "the program")
    pids = sleeping()
    process.kill()
    process.wait()
    wait_for(
        lambda: not [pid for pid in pids if b"sleep\x004711" in cmdline(pid)],
        "the end of the program",
    )


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
