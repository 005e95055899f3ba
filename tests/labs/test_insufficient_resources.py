"""Insufficient resources of the machine are reported before anything is created or changed."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress

from kubenetlab.api.apps import Deployment
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import kind_path, object_path
from tests.clusters import deployment, pod
from tests.labs.lab import COMMAND, CommandResult, Lab
from tests.patience import patiently

CLIENT = pod("client")


def up_with_few_files(lab: Lab, files: int, status: int) -> CommandResult:
    """Run `up` with a hard limit of open files."""
    return Lab(lab.name, ("prlimit", f"--nofile={files}:{files}")).up(
        CLIENT + deployment(replicas=2), status=status
    )


def test_too_few_open_files_are_reported(lab: Lab) -> None:
    """Neither a lab nor a change that needs more is started; the lab stays as it is."""
    errors = up_with_few_files(lab, 60, 1).err
    assert f"lab {lab.name} does not fit on this machine: 3 nodes and 8 pods" in errors
    assert "open files of one process (the lab's agent)" in errors
    assert "the hard RLIMIT_NOFILE is 60" in errors
    assert not lab.directory.exists()
    up_with_few_files(lab, 200, 0)
    before = lab.inspected["pods"]
    for refused in (
        lab.apply(deployment(replicas=100), status=1),
        lab.run("scale", "deployment", "web", "--replicas", "100", status=1),
    ):
        assert "3 nodes and 106 pods" in refused.err
        assert "the hard RLIMIT_NOFILE is 200" in refused.err
    assert lab.inspected["pods"] == before
    lab.apply(deployment(replicas=4))
    lab.run("scale", "deployment", "web", "--replicas", "1")


def test_a_huge_scale_request_delays_no_other_request(lab: Lab) -> None:
    """It is rejected before the pods are computed."""
    lab.up(CLIENT + deployment(replicas=2))
    lab.inspected  # noqa: B018 (the first request is slower than later ones)
    longest_s, refused = 0.0, threading.Event()

    def scale() -> None:
        with suppress(ApiError):
            Client(lab.name).request(
                "PUT",
                f"{object_path(Deployment, 'default', 'web')}/scale",
                {"spec": {"replicas": 19_000}},
            )
        refused.set()

    thread = threading.Thread(target=scale)
    thread.start()
    while not refused.is_set():
        started_at = time.monotonic()
        Client(lab.name).get(kind_path(Deployment))
        longest_s = max(longest_s, time.monotonic() - started_at)
    thread.join()
    assert longest_s < patiently(0.5)
    assert len(lab.pods("web")) == 2


def test_too_little_address_space_is_reported(lab: Lab) -> None:
    """Nothing is created.

    Commands that fail during their start name the limit as well.
    """
    errors = Lab(lab.name, ("prlimit", f"--as={300 << 20}")).up(CLIENT, status=1).err
    assert f"lab {lab.name} does not fit on this machine" in errors
    assert "RLIMIT_AS (ulimit -v) is 300" in errors
    assert "→ ulimit -v unlimited" in errors
    assert not lab.directory.exists()
    assert (
        "(ulimit -v)" in Lab(lab.name, ("prlimit", f"--as={40_000 << 10}")).up(CLIENT, status=1).err
    )
    Lab(lab.name, ("prlimit", f"--as={350 << 20}")).up(CLIENT)
    assert not lab.problems


def test_too_few_network_namespaces_are_reported(lab: Lab) -> None:
    """Root of a user namespace may create twelve of them.

    The report names the setting and a sufficient value. Later changes are measured against the
    limit at the time of `up`, because it is not visible inside the lab.
    """
    script = f"""
set -e
mount -t tmpfs none /run
knl() {{ {" ".join(COMMAND)} "$@" --lab {lab.name}; }}
allow() {{ echo $1 > /proc/sys/user/max_net_namespaces; }}
printf '%s' "$MANIFEST" > /run/m.yaml
allow 12
knl up -f /run/m.yaml 2>&1 || echo "ended with $?"
allow 19
knl up -f /run/m.yaml > /dev/null 2>&1
knl ping > /dev/null 2>&1 && echo "ping succeeds"
knl scale deployment web --replicas 9 2>&1 || echo "ended with $?"
knl down
"""
    completed = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MANIFEST": CLIENT + deployment(replicas=2)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    lines = completed.stdout.splitlines()
    assert "  network namespaces: 13 needed; user.max_net_namespaces is 12" in lines
    assert "    → sudo sysctl -w user.max_net_namespaces=13" in lines
    assert "ping succeeds" in lines
    assert "  network namespaces: 20 needed; user.max_net_namespaces is 19" in lines
    assert lines.count("ended with 1") == 2
    assert lines[-1] == f"lab {lab.name} is down"
