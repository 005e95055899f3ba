"""Isolation of programs that `exec` and `shell` start: from the machine, the lab and the terminal.

The variables of a pod come from a manifest, and several of them make programs run code. Therefore
nothing that such a program does may reach the machine.
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

from tests.clusters import pod
from tests.conftest import LAB_PREFIX
from tests.labs import users
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, cmdline, wait_for
from tests.labs.owner_commands import owner_command
from tests.labs.terminal import on_terminal
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, UsersLab

PLACES = ("client", "node:worker", "ext:client")
PRIVATE_DIRECTORIES = ("/tmp", "/run", "/var", "/root", "/home")
SYS_ADMIN, NET_ADMIN, NET_RAW, SYS_PTRACE = 1 << 21, 1 << 12, 1 << 13, 1 << 19


def manifest(marker: Path) -> str:
    """Return two pods, one of which has variables that make programs run code.

    bash, Python and the dynamic linker do so before they begin.
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
    return pod("client") + pod("hostile", container=f", env: [{entries}]")


@pytest.fixture(scope="module")
def marker() -> Iterator[Path]:
    """Yield a directory of the machine that is visible inside and writable for every user."""
    directory = Path(tempfile.mkdtemp(prefix="knl-", dir="/opt"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module", params=["root", "user"])
def lab(request: pytest.FixtureRequest, marker: Path) -> Iterator[Lab]:
    """Yield a lab of root, and one of an ordinary user."""
    if request.param == "root":
        for lab in new_lab():
            lab.up(manifest(marker))
            yield lab
        return
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        users_lab = UsersLab(f"{LAB_PREFIX}i", user)
        try:
            users_lab.up(manifest(marker))
            yield users_lab
        finally:
            users_lab.down()


@pytest.fixture(autouse=True)
def no_marks(marker: Path) -> Iterator[None]:
    """Check after each test that nothing was written to the machine's directory."""
    yield
    assert list(marker.iterdir()) == []


def run_script(lab: Lab, place: str, script: str, status: int | None = 0) -> str:
    """Return the output of a shell script in a place."""
    return lab.run("exec", place, "--", "sh", "-c", script, status=status).out


# --- files ---


@pytest.mark.parametrize("place", PLACES)
def test_files_of_the_machine_are_read_only(lab: Lab, marker: Path, place: str) -> None:
    """Only private, empty directories are writable. A program starts in /."""
    script = (
        f"for folder in /etc /usr /usr/bin '' {marker} /sys /dev/pts; "
        "do mkdir $folder/x && rmdir $folder/x && echo $folder; done; pwd"
    )
    assert run_script(lab, place, script) == "/\n"
    entries = run_script(
        lab,
        place,
        f"for folder in {' '.join(PRIVATE_DIRECTORIES)}; "
        "do touch $folder/knl-mine && ls $folder; done; echo $HOME",
    ).split()
    assert set(entries) <= {
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
    assert not [folder for folder in PRIVATE_DIRECTORIES if Path(folder, "knl-mine").exists()]


def test_each_program_has_private_directories(lab: Lab) -> None:
    """They are removed when the program ends."""
    run_script(lab, "client", "touch /tmp/mine")
    assert run_script(lab, "client", "ls /tmp") == ""


def test_programs_do_not_see_the_run_directory_of_labs(lab: Lab) -> None:
    """A program cannot use the lab's API."""
    script = f"ls {lab.directory.parent}"
    assert (
        lab.directory.name
        not in lab.run("exec", "client", "--", "sh", "-c", script, status=None).out
    )


def test_standard_streams_transfer_files(lab: Lab) -> None:
    """A program inside need not write to files of the machine."""
    assert (
        lab.run(
            "exec", "client", "--", "sh", "-c", "cat > /tmp/x; wc -c < /tmp/x", stdin="12345"
        ).out
        == "5\n"
    )


def test_an_invisible_program_is_reported_with_the_option_that_shows_it(lab: Lab) -> None:
    """A program that does not exist at all has another message."""
    with tempfile.TemporaryDirectory(prefix="knl-") as directory:
        program = Path(directory, "tool")
        program.write_text("#!/bin/sh\necho mine\n")
        for path in (program, program.parent):
            path.chmod(0o755)
        errors = lab.run("exec", "client", "--", str(program), status=127).err
        assert (
            f"{program} is not among the files that programs inside see; use --host-files to run it"
            in errors
        )
        assert lab.run("exec", "client", "--host-files", "--", str(program)).out == "mine\n"
    assert (
        "no such program on this machine"
        in lab.run("exec", "client", "--", "/nowhere/tool", status=127).err
    )


# --- variables ---


def test_a_pods_variables_do_not_run_code_on_the_machine(lab: Lab) -> None:
    """BASH_ENV is expanded inside; programs still get the container's variables."""
    assert run_script(lab, "hostile", "echo $GREETING") == "hello\n"
    result = lab.run("exec", "hostile", "--", "bash", "-c", "echo $GREETING")
    assert (result.out, "Read-only file system" in result.err) == ("hello\n", True)
    assert lab.run("shell", "hostile", stdin="echo $GREETING\n").out == "hello\n"


def test_programs_do_not_inherit_the_machines_variables(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They inherit only variables about the terminal and the language.

    PATH contains the directories of the system.
    """
    values = {
        "SECRET_TOKEN": "s",
        "LC_TIME": "C",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "BASH_ENV": "/dev/null",
        "HOME": "/nowhere",
    }
    command = owner_command(lab, "exec", "client", "--", "env")
    result = command.run(values)
    environment = dict(entry.split("=", 1) for entry in result.stdout.splitlines())
    assert {name: environment.get(name) for name in values} == {
        "SECRET_TOKEN": None,
        "LC_TIME": "C",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "BASH_ENV": None,
        "HOME": "/root",
    }
    assert environment["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert environment["HOSTNAME"] == "client"
    assert environment["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"


def test_host_files_exclude_the_pods_variables(lab: Lab, marker: Path) -> None:
    """With --host-files, a program has the machine's files, variables and working directory."""
    script = (
        "echo $GREETING$PROMPT_COMMAND$LD_PRELOAD; "
        f"touch {marker}/by-hand && rm {marker}/by-hand && pwd"
    )
    command = owner_command(lab, "exec", "--host-files", "hostile", "--", "bash", "-c", script)
    result = command.run(cwd=marker)
    assert result.stdout == f"\n{marker}\n"
    assert (
        lab.run("shell", "--host-files", "hostile", stdin="echo $GREETING; hostname\n").out
        == "\nhostile\n"
    )


# --- privileges ---


@pytest.mark.parametrize("place", PLACES)
def test_programs_have_the_privileges_of_containers_and_of_the_network(
    lab: Lab, place: str
) -> None:
    """Mounts, devices and modules are denied.

    More privileged processes of the same place, such as its pause process, are inaccessible.
    """
    status_fields = dict(
        line.split(":\t") for line in run_script(lab, place, "cat /proc/self/status").splitlines()
    )
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert (
            int(status_fields[name], 16) & (SYS_ADMIN | NET_ADMIN | NET_RAW | SYS_PTRACE)
            == NET_ADMIN | NET_RAW
        ), name
    assert (int(status_fields["CapInh"], 16), status_fields["NoNewPrivs"]) == (0, "1")
    for command in (
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "mknod /tmp/disk b 8 0",
        "ls /proc/1/root/",
        "cat /proc/1/environ",
    ):
        output = run_script(lab, place, f"{command} 2>&1 && echo done", status=None)
        assert "denied" in output or "permitted" in output, (command, output)
        assert "done" not in output, command


MACHINE_SETTINGS = (
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
    - >
      while :; do
      for p in /proc/[0-9]*; do
      if grep -qs ^tail$ $p/comm; then readlink $p/fd/0 || echo denied; exec sleep 1000; fi;
      done; sleep 0.1;
      done
    securityContext: {capabilities: {add: [ALL]}}
"""


def test_containers_cannot_access_the_callers_terminal_and_files(lab: Lab) -> None:
    """A program of `exec` shares the PID namespace of the pod.

    The pod's command may have all capabilities of a container.
    """
    lab.apply(SPY)
    command = owner_command(lab, "exec", "spy", "--", "tail", "-f", "/dev/null")
    process = command.start()
    try:
        wait_for(
            lambda: "denied" in lab.run("logs", "spy").out, "the container to find the program"
        )
    finally:
        process.kill()
        process.wait()
    assert lab.run("logs", "spy").out == "denied\n"
    lab.run("delete", "pod", "spy")


@pytest.mark.parametrize("place", PLACES)
def test_only_settings_of_the_network_can_be_changed(lab: Lab, place: str) -> None:
    """These are sysctls below net of the place, and settings of links in /sys.

    All other settings are read-only.
    """
    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    assert (
        run_script(
            lab,
            place,
            "sysctl -qw net.ipv4.ip_default_ttl=33; cat /proc/sys/net/ipv4/ip_default_ttl",
        )
        == "33\n"
    )
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before
    run_script(lab, place, "sysctl -qw net.ipv4.ip_default_ttl=64")
    for path in MACHINE_SETTINGS:
        result = lab.run(
            "exec",
            place,
            "--",
            "sh",
            "-c",
            f'value=$(cat {path}) && echo "$value" > {path} && echo written',
            status=None,
        )
        assert (result.out, Path(path).exists() and "Read-only" not in result.err) == ("", False), (
            path
        )
    assert (
        run_script(lab, place, "echo 9000 > /sys/class/net/lo/mtu && cat /sys/class/net/lo/mtu")
        == "9000\n"
    )
    run_script(lab, place, "echo 65536 > /sys/class/net/lo/mtu")


TOOLS = {
    "ip": "ip link add knl0 type veth peer knl1 && ip link set knl0 up && "
    "ip address add 192.0.2.1/24 dev knl0 && ip link del knl0",
    "nft": "nft add table ip mine && nft list table ip mine && nft delete table ip mine",
    "iptables": "iptables-nft -N MINE && iptables-nft -X MINE",
    "ss": "ss -ltn | grep LISTEN",
    "ping": "ping -c1 -W5 127.0.0.1",
    "tc": "tc qdisc add dev lo root pfifo && tc qdisc del dev lo root",
    "tcpdump": "timeout 30 tcpdump -Z root -c1 -nni lo -w /tmp/x icmp & "
    "while kill -0 $! 2>/dev/null; do ping -c1 -W1 127.0.0.1 >/dev/null; done; test -s /tmp/x",
}


@pytest.mark.parametrize("place", ["client", "node:worker"])
@pytest.mark.parametrize("tool", TOOLS)
def test_network_tools_work(lab: Lab, place: str, tool: str) -> None:
    """Each tool performs its usual task."""
    if shutil.which({"iptables": "iptables-nft"}.get(tool, tool)) is None:
        pytest.skip(f"{tool} is not installed")
    if (place, tool) == ("client", "ss"):
        place = "node:worker"  # its kube-proxy listens in every lab
    run_script(lab, place, TOOLS[tool])


def test_programs_inherit_no_descriptors_of_the_caller(lab: Lab, marker: Path) -> None:
    """A directory that the caller has open would give access to writable files."""
    directory = os.open(marker, os.O_RDONLY | os.O_DIRECTORY)
    command = owner_command(
        lab,
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        f"ls /proc/self/fd; touch /proc/self/fd/{directory}/x",
    )
    result = command.run(status=1, pass_fds=[directory])
    os.close(directory)
    assert result.stdout.split() == ["0", "1", "2", "3"]


def _set_unusual_attributes() -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    os.umask(0o777)


def test_programs_do_not_inherit_signals_and_umask_of_the_caller(lab: Lab) -> None:
    """Examples are nohup, a background process of a script, and a strict umask."""
    command = owner_command(
        lab, "exec", "client", "--", "grep", "-E", "^(SigBlk|SigIgn|Umask)", "/proc/self/status"
    )
    result = command.run(preexec_fn=_set_unusual_attributes, restore_signals=False)
    assert result.stdout.split() == ["Umask:", "0022", "SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


# --- terminal and end of programs ---


INJECTION = """\
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
    """The caller's shell would execute the text after the end of the program."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("python3 is not installed")
    _, drawn = on_terminal(
        owner_command(lab, "exec", "client", "--", "python3", "-S", "-E", "-c", INJECTION).execute
    )
    assert "typed" not in drawn
    assert drawn.count("refused 1\r\n") == 6


def test_a_shell_controls_its_terminal(lab: Lab) -> None:
    """Job control works; a manifest's PROMPT_COMMAND runs with the files inside."""
    _, drawn = on_terminal(
        owner_command(lab, "shell", "hostile").execute,
        ("[hostile /]", "sleep 1000 & jobs; kill %1; echo at-$(hostname)\n"),
        ("at-hostile", "exit\n"),
    )
    assert "Running" in drawn
    assert "prompted" in drawn
    assert "no job control" not in drawn


def test_a_program_ends_with_its_command(lab: Lab) -> None:
    """It also ends when the command is killed, although it has fewer privileges."""
    command = owner_command(lab, "exec", "client", "--", "sleep", "4711")
    process = command.start()

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
