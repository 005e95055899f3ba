"""What a machine has too little of is told before anything is made or changed, not by an errno in
the middle of it.
"""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress

from kubenetlab.api.apps import Deployment
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.paths import kind_path, object_path
from tests.clusters import deployment, pod
from tests.labs.lab import COMMAND, Lab, Ran
from tests.patience import patiently

CLIENT = pod("client")


def up_with_few_files(lab: Lab, files: int, status: int) -> Ran:
    """As where an administrator allows that many open files and no more."""
    return Lab(lab.name, ("prlimit", f"--nofile={files}:{files}")).up(
        CLIENT + deployment(replicas=2), status=status
    )


def test_too_few_open_files(lab: Lab) -> None:
    """Neither is a lab begun that does not fit, nor a change that does not; the lab stays as it is."""
    said = up_with_few_files(lab, 60, 1).err
    assert f"lab {lab.name} does not fit on this machine: 3 nodes and 8 pods" in said
    assert "open files of one process (the lab's agent)" in said
    assert "the hard RLIMIT_NOFILE is 60" in said
    assert not lab.directory.exists()
    up_with_few_files(lab, 200, 0)
    before = lab.seen["pods"]
    for refused in (
        lab.apply(deployment(replicas=100), status=1),
        lab.run("scale", "deployment", "web", "--replicas", "100", status=1),
    ):
        assert "3 nodes and 106 pods" in refused.err
        assert "the hard RLIMIT_NOFILE is 200" in refused.err
    assert lab.seen["pods"] == before
    lab.apply(deployment(replicas=4))
    lab.run("scale", "deployment", "web", "--replicas", "1")


def test_a_scale_beyond_all_limits_lets_nobody_wait(lab: Lab) -> None:
    """It is refused before anything is worked out for so many pods; others are answered meanwhile."""
    lab.up(CLIENT + deployment(replicas=2))
    lab.seen  # noqa: B018 (nothing is done for the first time below)
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
        begun = time.monotonic()
        Client(lab.name).get(kind_path(Deployment))
        longest_s = max(longest_s, time.monotonic() - begun)
    thread.join()
    assert longest_s < patiently(0.5)
    assert len(lab.pods("web")) == 2


def test_too_little_address_space(lab: Lab) -> None:
    """Said before anything is made, by whoever gets that far; commands that cannot even begin name
    the limit as well.
    """
    said = Lab(lab.name, ("prlimit", f"--as={100 << 20}")).up(CLIENT, status=1).err
    assert f"lab {lab.name} does not fit on this machine" in said
    assert "RLIMIT_AS (ulimit -v) is 100" in said
    assert "→ ulimit -v unlimited" in said
    assert not lab.directory.exists()
    assert (
        "(ulimit -v)" in Lab(lab.name, ("prlimit", f"--as={40_000 << 10}")).up(CLIENT, status=1).err
    )
    Lab(lab.name, ("prlimit", f"--as={200 << 20}")).up(CLIENT)
    assert not lab.faults


def test_too_few_network_namespaces(lab: Lab) -> None:
    """Root in a user namespace that may have twelve of them: told with the setting and the number
    that would do; with more it works, and what grows is measured by what was allowed when the lab
    was made, though inside the lab that cannot be seen.
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
knl ping > /dev/null 2>&1 && echo "answers come"
knl scale deployment web --replicas 9 2>&1 || echo "ended with $?"
knl down
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MANIFEST": CLIENT + deployment(replicas=2)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "  network namespaces: 13 needed; user.max_net_namespaces is 12" in lines
    assert "    → sudo sysctl -w user.max_net_namespaces=13" in lines
    assert "answers come" in lines
    assert "  network namespaces: 20 needed; user.max_net_namespaces is 19" in lines
    assert lines.count("ended with 1") == 2
    assert lines[-1] == f"lab {lab.name} is down"
