"""Inside something like a container: /proc/sys and /sys read-only, no /run/netns, few capabilities.

A lab works there, or is told what lacks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OURS
from tests.labs.faulty import ROOT
from tests.labs.lab import Ran, ran
from tests.labs.users import NOBODY, interpreter
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
spec: {containers: [{name: main, image: x, command: [sh, -c, "grep CapPrm /proc/self/status; exec sleep 1000"]}]}
"""
NET_BIND_SERVICE, NET_ADMIN = 1 << 10, 1 << 12
LAB = f"{OURS}box"
ENOUGH = ("sys_admin", "net_admin", "net_bind_service")
DOCKERS = (
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
    capabilities: tuple[str, ...], script: str, *user: str, status: int = 0, given: str = MANIFEST
) -> Ran:
    """A shell script as root of a container, or as somebody else there; `knl` is the command line."""
    bounds = ",".join(["-all", *(f"+{name}" for name in capabilities)])
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
        bounds,
        "--inh-caps=-all",
        *user,
        "sh",
        "-c",
        knl + script,
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBENETLAB_LAB": LAB, **variables}
    done = subprocess.run(
        [*command, *confined],
        input=given,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return ran(done, status)


def test_a_lab_in_a_container() -> None:
    """Three capabilities are enough; settings are written through the lab's own /proc, and
    /run/netns is done without where it cannot be.

    Programs inside have none of the three but those of the network, though the bounding set cannot
    be changed.
    """
    look = "knl exec client -- hostname; knl exec client -- grep CapPrm /proc/self/status; knl logs real"
    said = in_container(
        ENOUGH,
        f"touch /run/netns; knl up -f -; knl ping > /dev/null; {look}; knl down; ls /run",
        given=MANIFEST + REAL,
    ).out.splitlines()
    assert [line for line in said if line.startswith("CapPrm")] == [
        f"CapPrm:\t{NET_ADMIN | NET_BIND_SERVICE:016x}",
        f"CapPrm:\t{NET_BIND_SERVICE:016x}",
    ]
    assert any("6 of 6 pods ready" in line for line in said), said
    assert "client" in said
    assert f"lab {LAB} is down" in said
    assert "kubenetlab" not in said


@pytest.mark.parametrize(
    ("capabilities", "lacking"),
    [
        (
            DOCKERS,
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
def test_a_container_that_may_too_little(capabilities: tuple[str, ...], lacking: list[str]) -> None:
    """One report with every permission that lacks and what to do; nothing is begun. doctor says the
    same.
    """
    said = in_container(capabilities, "knl up -f -; ls /run", status=1)
    lines = said.err.splitlines()
    assert lines[1:-2] == ["root lacks permissions here that a lab needs", *lacking]
    assert "docker run --privileged" in lines[-2]
    assert "kubenetlab" not in said.out
    asked = in_container(capabilities, "knl doctor", status=1).out
    assert all(line.split(":")[0].strip() in asked for line in lacking)


def test_an_ordinary_user_of_a_container() -> None:
    """A container hides parts of /proc, and so the kernel gives its users no /proc of their own:
    told, with what to do.
    """
    if not interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    said = in_container(
        (), "knl up -f -", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", status=1
    ).err
    assert "cannot mount the lab's own /proc: mount: Operation not permitted" in said
    assert "docker run --privileged, or --security-opt systempaths=unconfined" in said


def test_a_plain_chroot_is_called_by_its_name(tmp_path: Path) -> None:
    """Its root is no mount point, so nothing can be mounted that nobody outside would see; made
    one, it does.
    """
    script = f"""
set -e
mount -t tmpfs none {tmp_path}; mkdir {tmp_path}/root; cd {tmp_path}/root
for name in $(ls /); do
    case $name in proc|sys|run|tmp) mkdir $name;; *) if [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi;; esac
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
    said = ran(
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
    told = "the root directory is not a mount point: this is a plain chroot"
    assert said.err.count(told) == 1
    assert said.out.count(told) >= 1
    assert "mount --bind DIR DIR before chroot DIR" in said.err
    assert "up ended with 1" in said.out
    assert "doctor ended with 1" in said.out
    assert "container hides" not in said.out + said.err
    assert f"lab {LAB}: " in said.out


def test_a_mount_of_the_machine_is_not_held(tmp_path: Path) -> None:
    """What is unmounted while a lab is up is gone in the lab, too: a disk is not kept busy."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
set -e
mount --make-rshared /
mount -t tmpfs none /run
mount -t tmpfs disk {disk}
knl() {{ {sys.executable} -m kubenetlab "$@" --lab {LAB}; }}
printf '%s' "$MANIFEST" | knl up -f - > /dev/null
init=$(knl inspect -o json | {sys.executable} -c 'import json, sys; print(json.load(sys.stdin)["init_pid"])')
grep -c {disk} /proc/$init/mountinfo
umount {disk}
grep -c {disk} /proc/$init/mountinfo || echo gone
mount | grep -c "^proc on /proc "
knl down > /dev/null
"""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MANIFEST": MANIFEST}
    command = ["unshare", "--mount", "sh", "-c", script]
    said = ran(
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
    assert said.out.split() == ["1", "0", "gone", "1"], said.out
