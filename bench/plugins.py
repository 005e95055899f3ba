"""Attach pods by CNI plugins alone: as many namespaces as in a lab, and nothing else of it.

`python -m bench.plugins PODS NODES` prints the seconds. It needs a network namespace of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from kubenetlab.kernel.syscalls import CLONE_NEWNET, CLONE_NEWNS, fork, mount, setns, unshare

DIRECTORIES = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
TYPES = ("bridge", "portmap")
PROGRAMS = (*TYPES, "host-local")
STATE = Path("/var/lib/cni")
MS_PRIVATE_OF_ALL = (1 << 18) | (1 << 14)


def directory() -> str | None:
    """Return the directory of the plugins; None if they are not installed."""
    return next(
        (
            each
            for each in DIRECTORIES
            if all(os.access(os.path.join(each, name), os.X_OK) for name in PROGRAMS)
        ),
        None,
    )


def main(pods: int, nodes: int) -> float:
    """Return the seconds in which all nodes attach their pods, at the same time."""
    ready_reader, ready_writer = os.pipe()
    start_reader, start_writer = os.pipe()
    children = []
    for node in range(nodes):
        count = pods // nodes + (node < pods % nodes)
        pid = fork()
        if pid == 0:
            status = 1
            try:
                os.close(start_writer)
                status = _node(node, count, ready_writer, start_reader)
            finally:
                os._exit(status)
        children.append(pid)
    os.close(ready_writer)
    for _ in children:
        assert os.read(ready_reader, 1)
    started = time.perf_counter()
    os.close(start_writer)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    duration = time.perf_counter() - started
    if any(ends):
        raise SystemExit("a plugin has failed")
    return duration


def _node(number: int, pods: int, ready: int, start: int) -> int:
    """Make the namespaces of a node and of its pods, and attach them after `start` is closed."""
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount("none", "/", "", MS_PRIVATE_OF_ALL)
    STATE.mkdir(exist_ok=True)
    mount("tmpfs", str(STATE), "tmpfs")
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    sandboxes = []
    for _ in range(pods):
        unshare(CLONE_NEWNET)
        sandboxes.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    setns(home)
    os.write(ready, b"r")
    os.read(start, 1)
    for pod, sandbox in enumerate(sandboxes):
        _attach(number, f"pod{pod}", f"/proc/{os.getpid()}/fd/{sandbox}")
    return 0


def _attach(node: int, name: str, netns: str) -> None:
    """Call ADD of each plugin with the result of the one before it, as a runtime does."""
    programs = directory()
    assert programs is not None
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": programs,
        "PATH": os.environ["PATH"],
    }
    result: object = None
    for type_ in TYPES:
        request = {"cniVersion": "1.0.0", "name": "bench", "type": type_, **_options(type_, node)}
        if result is not None:
            request["prevResult"] = result
        answer = subprocess.run(
            [os.path.join(programs, type_)],
            input=json.dumps(request).encode(),
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        result = json.loads(answer.stdout)


def _options(type_: str, node: int) -> dict[str, object]:
    """Return the options of a plugin, those of the mode `conflist` by default."""
    if type_ == "portmap":
        return {"capabilities": {"portMappings": True}}
    return {
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": f"10.244.{node}.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
