"""Isolation of programs that `exec` and `shell` start: files, variables and privileges.

The variables of a pod come from a manifest, and several of them make programs run code. Therefore
nothing that such a program does may reach the machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.isolated_lab import OWNERS, isolated_lab, machine_directory
from tests.labs.lab import Lab, wait_for
from tests.labs.owner_commands import owner_command

PLACES = ("client", "node:worker", "ext:client")
PRIVATE_DIRECTORIES = ("/tmp", "/run", "/var", "/root", "/home")
SYS_ADMIN, NET_ADMIN, NET_RAW, SYS_PTRACE = 1 << 21, 1 << 12, 1 << 13, 1 << 19


@pytest.fixture(scope="module")
def marker() -> Iterator[Path]:
    """Yield a directory of the machine that is visible inside and writable for every user."""
    yield from machine_directory()


@pytest.fixture(scope="module", params=OWNERS)
def lab(request: pytest.FixtureRequest, marker: Path) -> Iterator[Lab]:
    """Yield a lab of root, and one of an ordinary user."""
    yield from isolated_lab(request.param, marker)


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
