"""Labs inside something like a container.

/proc/sys and /sys are read-only, /run/netns is missing, and capabilities are few. A lab works
there, or the missing requirements are reported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LAB_PREFIX
from tests.labs.lab import ROOT, CommandResult, command_result
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, interpreter
from tests.patience import patiently

CONTAINER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /run
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount -t sysfs -o ro none /sys
! echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward
exec "$@"
"""
MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
"""
REAL = """\
---
apiVersion: v1
kind: Pod
metadata: {name: real, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: x
    command: [sh, -c, "grep CapPrm /proc/self/status; exec sleep 1000"]
"""
NET_BIND_SERVICE, NET_ADMIN = 1 << 10, 1 << 12
LAB = f"{LAB_PREFIX}box"
REQUIRED_CAPABILITIES = ("sys_admin", "net_admin", "net_bind_service")
DOCKER_CAPABILITIES = (
    "chown",
    "dac_override",
    "fowner",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_raw",
    "sys_chroot",
    "setfcap",
)


def in_container(
    capabilities: tuple[str, ...], script: str, *user: str, status: int = 0, stdin: str = MANIFEST
) -> CommandResult:
    """Run a shell script as root of a container, or as another user there.

    `knl` is the command line in the script.
    """
    bounding_set = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    python, variables = interpreter(NOBODY) if user else (sys.executable, {})
    knl = f'set -e; knl() {{ {python} -m kubenetlab "$@"; }}\n'
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        CONTAINER,
        "sh",
    ]
    confined = [
        "setpriv",
        "--bounding-set",
        bounding_set,
        "--inh-caps=-all",
        *user,
        "sh",
        "-c",
        knl + script,
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBENETLAB_LAB": LAB, **variables}
    completed = subprocess.run(
        [*command, *confined],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return command_result(completed, status)


def test_a_lab_in_a_container() -> None:
    """Three capabilities are enough.

    Settings are written through the lab's own /proc, and the lab works without /run/netns. Programs
    inside have only those of the three capabilities that concern the network, although the bounding
    set cannot be changed.
    """
    inspection = (
        "knl exec client -- hostname; "
        "knl exec client -- grep CapPrm /proc/self/status; knl logs real"
    )
    output = in_container(
        REQUIRED_CAPABILITIES,
        f"touch /run/netns; knl up -f -; knl ping > /dev/null; {inspection}; knl down; ls /run",
        stdin=MANIFEST + REAL,
    ).out.splitlines()
    assert [line for line in output if line.startswith("CapPrm")] == [
        f"CapPrm:\t{NET_ADMIN | NET_BIND_SERVICE:016x}",
        f"CapPrm:\t{NET_BIND_SERVICE:016x}",
    ]
    assert any("6 of 6 pods ready" in line for line in output), output
    assert "client" in output
    assert f"lab {LAB} is down" in output
    assert "kubenetlab" not in output


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (
            DOCKER_CAPABILITIES,
            [
                "  CAP_SYS_ADMIN: namespaces, mounts and host names",
                "  CAP_NET_ADMIN: links, addresses, routes and rules",
            ],
        ),
        (
            ("sys_admin", "net_bind_service"),
            ["  CAP_NET_ADMIN: links, addresses, routes and rules"],
        ),
        (
            ("sys_admin", "net_admin"),
            ["  CAP_NET_BIND_SERVICE: programs that listen on ports below 1024, DNS among them"],
        ),
    ],
    ids=["Docker's", "no NET_ADMIN", "no NET_BIND_SERVICE"],
)
def test_missing_capabilities_are_reported_together(
    capabilities: tuple[str, ...], missing: list[str]
) -> None:
    """`up` creates nothing and reports all of them, with a remedy; doctor agrees."""
    result = in_container(capabilities, "knl up -f -; ls /run", status=1)
    lines = result.err.splitlines()
    assert lines[1:-2] == ["root lacks permissions here that a lab needs", *missing]
    assert "docker run --privileged" in lines[-2]
    assert "kubenetlab" not in result.out
    doctor_output = in_container(capabilities, "knl doctor", status=1).out
    assert all(line.split(":")[0].strip() in doctor_output for line in missing)


def test_an_ordinary_user_of_a_container_needs_an_unmasked_proc() -> None:
    """The kernel gives users no /proc of their own where a container hides parts of it."""
    if not interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    errors = in_container(
        (), "knl up -f -", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", status=1
    ).err
    assert "cannot mount the lab's own /proc: mount: Operation not permitted" in errors
    assert "docker run --privileged, or --security-opt systempaths=unconfined" in errors


def test_a_plain_chroot_is_reported(tmp_path: Path) -> None:
    """A private mount needs a root that is a mount point.

    A bind mount of the root makes labs possible.
    """
    script = f"""
set -e
mount -t tmpfs none {tmp_path}; mkdir {tmp_path}/root; cd {tmp_path}/root
for name in $(ls /); do
    case $name in
    proc|sys|run|tmp) mkdir $name;;
    *) if [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi;;
    esac
done
mount -t proc proc proc; mount --rbind /sys sys; mount -t tmpfs none tmp
try() {{ chroot {tmp_path}/root {sys.executable} -m kubenetlab "$@"; }}
printf '%s' "$MANIFEST" | try up --lab {LAB} -f - || echo "up ended with $?"
try doctor || echo "doctor ended with $?"
mount --rbind {tmp_path}/root {tmp_path}/root; cd /
printf '%s' "$MANIFEST" | try up --lab {LAB} -f -
try down --lab {LAB}
"""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MANIFEST": MANIFEST}
    command = ["unshare", "--mount", "sh", "-c", script]
    result = command_result(
        subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
            cwd=ROOT,
        ),
        0,
    )
    message = "the root directory is not a mount point: this is a plain chroot"
    assert result.err.count(message) == 1
    assert result.out.count(message) >= 1
    assert "mount --bind DIR DIR before chroot DIR" in result.err
    assert "up ended with 1" in result.out
    assert "doctor ended with 1" in result.out
    assert "container hides" not in result.out + result.err
    assert f"lab {LAB}: " in result.out


def test_a_lab_does_not_keep_mounts_of_the_machine(tmp_path: Path) -> None:
    """A file system that is unmounted while a lab runs disappears in the lab, too."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
set -e
mount --make-rshared /
mount -t tmpfs none /run
mount -t tmpfs disk {disk}
knl() {{ {sys.executable} -m kubenetlab "$@" --lab {LAB}; }}
printf '%s' "$MANIFEST" | knl up -f - > /dev/null
init=$(knl inspect -o json |
  {sys.executable} -c 'import json, sys; print(json.load(sys.stdin)["init_pid"])')
grep -c {disk} /proc/$init/mountinfo
umount {disk}
grep -c {disk} /proc/$init/mountinfo || echo gone
mount | grep -c "^proc on /proc "
knl down > /dev/null
"""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MANIFEST": MANIFEST}
    command = ["unshare", "--mount", "sh", "-c", script]
    result = command_result(
        subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
            cwd=ROOT,
        ),
        0,
    )
    assert result.out.split() == ["1", "0", "gone", "1"], result.out
