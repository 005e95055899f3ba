"""A network namespace in the role of the machine, for tests of the uplink.

It is linked to a “real network” with a server. The machine itself is not touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.labs.lab import Lab, wait_for
from tests.labs.traffic_client import PROGRAM

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes:
- role: control-plane
- role: worker
  extraPortMappings:
  - {containerPort: 30080, hostPort: 8080}
  - {containerPort: 30081, hostPort: 8081, protocol: UDP}
  - {containerPort: 30080, hostPort: 9090, listenAddress: 127.0.0.1}
networking: {ipFamily: dual}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {app: web}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, port: 81, protocol: UDP, targetPort: 8081, nodePort: 30081}
"""


MACHINE = {4: "192.0.2.10", 6: "2001:db8:2::10"}


REAL_SERVER = {4: "192.0.2.1", 6: "2001:db8:2::1"}


SERVER_PROGRAM = f"""
import http.server, socketserver, threading, sys, os, struct
sys.stdout = os.fdopen(1, "w", 1)
class ClientAddress(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].removeprefix("::ffff:").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class DualStackServer(http.server.ThreadingHTTPServer):
    address_family = 10
class Names(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        end = data.index(b"\\0", 12) + 5
        is_known = data[12:end].startswith(b"\\4real\\7example")
        flags = 0x8180 if is_known else 0x8183
        reply = data[:2] + struct.pack(">HHHHH", flags, 1, int(is_known), 0, 0) + data[12:end]
        if is_known:
            reply += b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 1])
        sock.sendto(reply, self.client_address)
names = socketserver.ThreadingUDPServer(("{REAL_SERVER[4]}", 53), Names)
threading.Thread(target=names.serve_forever, daemon=True).start()
server = DualStackServer(("::", 8000), ClientAddress)
print("up", flush=True)
server.serve_forever()
"""
"""Servers of the real network.

The HTTP server returns the client's address, and the DNS server knows one name.
"""


SETUP_SCRIPT = f"""
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add eth0 type veth peer name eth0 netns "$1"
ip address add {MACHINE[4]}/24 dev eth0
ip address add {MACHINE[6]}/64 dev eth0 nodad
ip link set eth0 up
ip route add default via {REAL_SERVER[4]}
ip -6 route add default via {REAL_SERVER[6]}
nsenter --net=/proc/"$1"/ns/net sh -c '
  ip link set lo up
  ip address add {REAL_SERVER[4]}/24 dev eth0
  ip address add {REAL_SERVER[6]}/64 dev eth0 nodad
  ip link set eth0 up'
sysctl -q -w net.ipv6.conf.all.forwarding=1
printf 'nameserver {REAL_SERVER[4]}\\n' > "$2"
resolv_conf=$(realpath /etc/resolv.conf)
[ -e "$resolv_conf" ] || install -D /dev/null "$resolv_conf"
mount --bind "$2" "$resolv_conf"
"""
"""Set up the machine.

The real /run is hidden. Otherwise commands elsewhere would find labs there that they cannot reach,
and remove their uplinks from the wrong machine.
"""


class Machine:
    """A namespace in the role of the machine."""

    def __init__(self, holder: int, real: int) -> None:
        self.inside = ("nsenter", f"--target={holder}", "--net", "--mount")
        self.real = ("nsenter", f"--net=/proc/{real}/ns/net")

    def output(self, *command: str) -> str:
        return subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, check=True, timeout=30
        ).stdout

    @property
    def state(self) -> dict[str, str]:
        """Everything that an uplink changes."""
        state = {
            name: self.output(*command)
            for name, command in {
                "rules": ("nft", "list", "ruleset"),
                "routes": ("ip", "route"),
            }.items()
        }
        state["links"] = self.output("ip", "-br", "address")
        # A link may be removed while it is read.
        state["forwarding"] = self.output(
            "sh",
            "-c",
            "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward "
            "2>/dev/null || true",
        )
        return state

    def ask(self, prefix: tuple[str, ...], *targets: tuple[str, str, int]) -> list[tuple[str, str]]:
        """Return (server, client address that it sees), or (error, nothing), for each target.

        The request is sent from the machine or from the real network.
        """
        request = json.dumps([[None, targets]])
        completed = subprocess.run(
            [*prefix, *PROGRAM],
            input=request,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        (answers,) = json.loads(completed.stdout)
        return [
            (answer.get("server", answer.get("error")), answer.get("client", [""])[0])
            for answer in answers
        ]


@contextmanager
def running_machine(directory: Path) -> Iterator[Machine]:
    """Yield a running machine."""
    with (
        subprocess.Popen(("unshare", "--net", "sleep", "600")) as real_network,
        subprocess.Popen(("unshare", "--net", "--mount", "sleep", "600")) as holder,
    ):
        try:
            pids = (real_network.pid, holder.pid)
            wait_for(
                lambda: (
                    os.readlink("/proc/self/ns/net")
                    not in [os.readlink(f"/proc/{pid}/ns/net") for pid in pids]
                ),
                "namespaces",
            )
            machine = Machine(holder.pid, real_network.pid)
            machine.output(
                "sh",
                "-e",
                "-c",
                SETUP_SCRIPT,
                "sh",
                str(real_network.pid),
                str(directory / "resolv.conf"),
            )
            with subprocess.Popen(
                [*machine.real, sys.executable, "-c", SERVER_PROGRAM],
                stdout=subprocess.PIPE,
                text=True,
            ) as servers:
                assert servers.stdout is not None
                assert servers.stdout.readline() == "up\n"
                yield machine
                servers.kill()
        finally:
            real_network.kill()
            holder.kill()


def seen_by_the_real_server(lab: Lab, pod: str, version: int) -> str:
    address = f"[{REAL_SERVER[6]}]" if version == 6 else REAL_SERVER[4]
    return lab.run("exec", pod, "--", "curl", "-s", "-m", "2", f"http://{address}:8000/").out


def link_of(machine: Machine) -> str:
    return next(
        word.partition("@")[0] for word in machine.state["links"].split() if word.startswith("knl-")
    )
