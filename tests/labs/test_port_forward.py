"""port-forward: connections from this machine, relayed into a pod's localhost."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.clusters import deployment, pod
from tests.labs.conftest import new_lab
from tests.labs.forwarding import (
    MIB,
    forwarding,
    get,
    read_line,
    receive_all,
    relayed_connection,
    server,
)
from tests.labs.lab import DEADLINE_S, Lab, wait_for

MANIFEST = (
    """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}]
external: [{name: server, address: 198.51.100.20, ports: [8080]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    ports:
    - {name: web, containerPort: 8080}
    - {name: talk, containerPort: 8081, protocol: UDP}
---
"""
    + deployment(replicas=2)
    + """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: front, port: 80, targetPort: http}
  - {name: talk, port: 81, protocol: UDP, targetPort: 8081}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: front, port: 8080, targetPort: 9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}, annotations: {kubenetlab.dev/ready: "false"}}
spec:
  containers:
  - name: main
    image: agnhost
    args: [netexec]
    ports: [{name: http, containerPort: 8080}]
"""
)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


# --- targets ---


def test_a_program_of_the_machine_reaches_a_pod(running: Lab) -> None:
    """The server sees its own localhost; the output is that of kubectl."""
    with forwarding(running, "client", ":8080") as forward:
        assert forward.get("/hostname") == "client"
        assert forward.get("/clientip").startswith("127.0.0.1:")
        status, out, err = forward.stop()
    assert (status, out) == (0, f"Handling connection for {forward.ports[0]}\n" * 2)
    assert f"next: curl http://127.0.0.1:{forward.ports[0]}/" in err
    assert "stopped forwarding to default/client" in err


def test_a_service_is_replaced_by_one_of_its_ready_pods(running: Lab) -> None:
    """Ports of the Service are translated, also by name; the output names the pod.

    Ports of a headless Service are those of the pod.
    """
    by_service = (
        ("svc:web", "0:80"),
        ("svc/web", ":front"),
        ("service/web", ":80", "-n", "default"),
        ("svc:default/headless", ":front"),
    )
    by_name = (
        ("web", ":80"),
        ("web.default", ":front"),
        (running.service("web")["cluster_ips"][0], ":80"),
    )
    for words in (*by_service, *by_name):
        with forwarding(running, *words) as forward:
            assert forward.announced[0] is not None
            assert forward.announced[0][3] == "8080"
            name = forward.get("/hostname")
            _, _, err = forward.stop()
        assert re.fullmatch(r"web-\w+-\w+", name), "the pod that is not ready was chosen"
        assert f"its pod default/{name}\n" in err


@pytest.mark.parametrize("target", ["deploy:web", "deployment/web", "pod/client", "ext:server"])
def test_deployments_pods_and_external_hosts_are_targets(running: Lab, target: str) -> None:
    """A Deployment stands for one of its pods."""
    with forwarding(running, target, ":8080") as forward:
        assert forward.get("/hostname").startswith(
            target.partition("/")[2] or target.partition(":")[2]
        )


def test_nodes_are_targets(running: Lab) -> None:
    """Servers of hostNetwork pods listen on a node's localhost."""
    host = pod("host", spec=", hostNetwork: true")
    running.up(host.replace("args: [netexec]", "args: [netexec, --http-port=9100]"))
    for target in ("node:control-plane", "host"):
        with forwarding(running, target, ":9100") as forward:
            assert forward.get("/hostname") == "control-plane"


def test_several_ports_are_forwarded_at_once(running: Lab) -> None:
    """Each has its own listener; a name is that of a container's port."""
    with (
        server(running, "client", "peer.sendall(b'other')") as (port, _),
        forwarding(running, "client", ":web", f":{port}", count=2) as two,
    ):
        assert two.get("/hostname") == "client"
        with two.connect(1) as connection:
            assert connection.recv(100) == b"other"
        assert sorted(two.stop()[1].splitlines()) == sorted(
            f"Handling connection for {port}" for port in two.ports
        )


def test_localhost_stands_for_both_address_families(running: Lab) -> None:
    """With --address localhost, a free port is the same for both."""
    with forwarding(
        running, "client", ":8080", "--address", "localhost", count=2 if has_ipv6() else 1
    ) as forward:
        assert len(set(forward.ports)) == 1
        for match in forward.announced:
            assert match is not None
            with socket.create_connection(
                (match[1].strip("[]"), int(match[2])), timeout=DEADLINE_S
            ) as connection:
                assert get(connection, "/hostname") == "client"


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


# --- transfer ---


def test_32_mib_are_transferred_in_both_directions_at_once(running: Lab) -> None:
    """The server echoes the data while the client still sends."""
    echo = "while data := peer.recv(65536): peer.sendall(data)\npeer.close()"
    sent = os.urandom(MIB) * 32
    with relayed_connection(running, echo) as (connection, _):

        def send() -> None:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        assert hashlib.sha256(receive_all(connection)).digest() == hashlib.sha256(sent).digest()
        sending.join()


def test_each_direction_can_end_on_its_own(running: Lab) -> None:
    """The end of one direction is relayed, and the other direction continues.

    The client ends first, and then the server.
    """
    count_bytes = "size = 0\nwhile data := peer.recv(65536): size += len(data)\n"
    with relayed_connection(running, count_bytes + "peer.sendall(str(size).encode())") as (
        connection,
        _,
    ):
        connection.sendall(b"x" * 3 * MIB)
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection) == str(3 * MIB).encode()
    send_first = "peer.sendall(b'bye'); peer.shutdown(socket.SHUT_WR)\n"
    with relayed_connection(running, send_first + count_bytes + "print(size)") as (
        connection,
        process,
    ):
        assert receive_all(connection) == b"bye"
        connection.sendall(b"x" * 3 * MIB)
        connection.close()
        assert read_line(process) == str(3 * MIB)


def test_a_slow_reader_slows_down_the_sender(running: Lab) -> None:
    """The relay does not buffer without limit.

    All data arrives once the server reads it.
    """
    slow = (
        "sys.stdin.readline()\nsize = 0\n"
        "while data := peer.recv(1 << 20): size += len(data)\nprint(size)"
    )
    with relayed_connection(running, slow) as (connection, process):
        connection.setblocking(False)
        sent, chunk = 0, b"x" * MIB
        while select.select([], [connection], [], 0.5)[1]:
            sent += connection.send(chunk)
            assert sent < 64 * MIB, "the relay buffers more than the kernel's buffers hold"
        connection.close()
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
        assert read_line(process) == str(sent)


def test_a_reset_is_relayed(running: Lab) -> None:
    """A reset is distinguishable from the end of the data."""
    linger = "peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
    with relayed_connection(running, linger + "peer.recv(1); peer.close()") as (connection, _):
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            receive_all(connection)
    wait = (
        "try:\n    while peer.recv(65536): pass\n    print('ended')\n"
        "except ConnectionResetError: print('reset')"
    )
    with relayed_connection(running, "peer.sendall(b'x')\n" + wait) as (connection, process):
        assert connection.recv(1) == b"x"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert read_line(process) == "reset"


def test_two_hundred_connections_are_open_at_once(running: Lab) -> None:
    """All are answered, although the output of the command is not read meanwhile."""
    with forwarding(running, "client", ":8080") as forward, ExitStack() as open_together:
        assert forward.process.stdout is not None
        fcntl.fcntl(forward.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        connections = [open_together.enter_context(forward.connect()) for _ in range(200)]
        assert {get(connection, "/hostname") for connection in reversed(connections)} == {"client"}


# --- failures ---


def test_a_closed_port_ends_only_its_connection(running: Lab) -> None:
    """A message gives the reason, and the command continues."""
    with forwarding(running, "client", ":4711", ":8080", count=2) as forward:
        with forward.connect() as connection:
            assert connection.recv(1) == b""
        assert forward.get("/hostname", 1) == "client"
        status, _, err = forward.stop(signal.SIGTERM)
    assert status == 0
    assert (
        f"{forward.ports[0]} -> 4711: cannot connect to localhost:4711 in default/client: "
        "connection refused\n" in err
    )


def test_ctrl_c_closes_open_connections(running: Lab) -> None:
    """The local port is free again at once."""
    with (
        server(running, "client", "print(peer.recv(1))") as (port, process),
        forwarding(running, "client", f":{port}") as forward,
    ):
        with forward.connect() as connection:
            assert forward.stop()[0] == 0
            assert connection.recv(1) == b""
            assert read_line(process) == "b''"
        with forwarding(running, "client", f"{forward.ports[0]}:8080") as again:
            assert again.get("/hostname") == "client"


def test_the_end_of_a_pod_ends_the_command(running: Lab) -> None:
    """The exit status is 1.

    The connection is closed, and no process keeps the pod's network.
    """
    running.up(pod("brief"))
    network = os.stat(running.pod("brief")["netns"]).st_ino
    with forwarding(running, "brief", ":8080") as forward, forward.connect() as connection:
        connection.sendall(b"GET")
        running.run("delete", "pod", "brief")
        status, _, err = forward.end()
        assert connection.recv(1) == b""
    assert status == 1
    assert "lost connection to pod default/brief: it has ended" in err
    wait_for(lambda: network not in networks(), "the end of the pod's network")


def networks() -> set[int]:
    """Return the network namespaces that a process belongs to or keeps open."""
    inodes = set()
    for path in subprocess.run(
        ["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True
    ).stdout.split():
        inodes.add(int(path))
    return inodes


def test_the_end_of_the_lab_ends_the_command(lab: Lab) -> None:
    """`down` does not wait for it."""
    lab.up(MANIFEST)
    with forwarding(lab, "client", ":8080") as forward:
        lab.down()
        status, _, err = forward.end()
    assert status == 1
    assert "lost connection to pod default/client" in err


def test_a_port_in_use_is_reported(running: Lab) -> None:
    """The message has a remedy, and none of the ports is opened."""
    with (
        socket.create_server(("127.0.0.1", 0)) as owner,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        used_port, free_port = owner.getsockname()[1], free.getsockname()[1]
        free.close()
        result = running.run(
            "port-forward", "client", f"{free_port}:8080", f"{used_port}:8080", status=1
        )
    assert (
        f"127.0.0.1:{used_port} is used by another program; "
        "choose another local port, or any free one with :8080" in result.err
    )
    assert result.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("svc:web", "81"),
            "port 81 of Service default/web: UDP cannot be forwarded, only TCP can",
        ),
        (
            ("svc:web", "82"),
            "Service default/web has no port 82; it has: 80/TCP (front), 81/UDP (talk)",
        ),
        (("svc:wob", "80"), "there is no Service default/wob; did you mean web?"),
        (
            ("svc:kubernetes", "443"),
            "Service default/kubernetes has no selector, and so no pods; name a pod",
        ),
        (
            ("client", "talk"),
            "port talk of Pod default/client: UDP cannot be forwarded, only TCP can",
        ),
        (
            ("client", "wob"),
            'Pod default/client has no port named "wob"; did you mean web?; it has: web',
        ),
        (
            ("wbe", "80"),
            "there is no pod default/wbe; did you mean svc:default/web or deploy:default/web?",
        ),
        (
            ("svc:web",),
            "no port of svc:default/web is given: add [LOCAL:]PORT, for example 8080:80",
        ),
        (
            ("svc:web:80", "81"),
            "svc:default/web:80 contains port 80, and other ports are given; give only one",
        ),
        (("svc:web:81",), "port 81 of Service default/web: UDP cannot be forwarded, only TCP can"),
        (("node:control-plane", "http"), 'node:control-plane has no port named "http"'),
        (
            ("client", "80", "--address", "here"),
            '--address "here": expected localhost or IP addresses of this machine',
        ),
    ],
)
def test_invalid_arguments_are_explained(running: Lab, words: Sequence[str], message: str) -> None:
    """Nothing is opened, and the exit status is 2."""
    assert message in running.run("port-forward", *words, status=2).err
