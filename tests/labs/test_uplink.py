"""The uplink: the lab reaches what the machine reaches, published ports are the machine's, and
nothing stays behind.

The machine is a namespace of its own here, linked to a “real network” with a server; what plays no
part is not touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.labs.lab import COMMAND, Lab, wait_for
from tests.labs.traffic_client import PROGRAM
from tests.labs.users import NOBODY, user

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
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, port: 81, protocol: UDP, targetPort: 8081, nodePort: 30081}]
"""
MACHINE = {4: "192.0.2.10", 6: "2001:db8:2::10"}
REAL = {4: "192.0.2.1", 6: "2001:db8:2::1"}
SERVERS = f"""
import http.server, socketserver, threading, sys, os, struct
sys.stdout = os.fdopen(1, "w", 1)
class Seen(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = self.client_address[0].removeprefix("::ffff:").encode()
        self.send_response(200); self.send_header("Content-Length", str(len(said))); self.end_headers(); self.wfile.write(said)
    def log_message(self, *_): pass
class Both(http.server.ThreadingHTTPServer):
    address_family = 10
class Names(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        end = data.index(b"\\0", 12) + 5
        found = data[12:end].startswith(b"\\4real\\7example")
        reply = data[:2] + struct.pack(">HHHHH", 0x8180 if found else 0x8183, 1, int(found), 0, 0) + data[12:end]
        sock.sendto(reply + (b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 1]) if found else b""), self.client_address)
threading.Thread(target=socketserver.ThreadingUDPServer(("{REAL[4]}", 53), Names).serve_forever, daemon=True).start()
server = Both(("::", 8000), Seen)
print("up", flush=True)
server.serve_forever()
"""
"""On the real network: who asks by HTTP is told his address; one name is known."""
WIRE = f"""
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add eth0 type veth peer name eth0 netns "$1"
ip address add {MACHINE[4]}/24 dev eth0
ip address add {MACHINE[6]}/64 dev eth0 nodad
ip link set eth0 up
ip route add default via {REAL[4]}
ip -6 route add default via {REAL[6]}
nsenter --net=/proc/"$1"/ns/net sh -c 'ip link set lo up; ip address add {REAL[4]}/24 dev eth0; ip address add {REAL[6]}/64 dev eth0 nodad; ip link set eth0 up'
sysctl -q -w net.ipv6.conf.all.forwarding=1
printf 'nameserver {REAL[4]}\\n' > "$2"
resolv_conf=$(realpath /etc/resolv.conf)
[ -e "$resolv_conf" ] || install -D /dev/null "$resolv_conf"
mount --bind "$2" "$resolv_conf"
"""
"""The machine's own /run is hidden: other machines' commands would find dead labs there and take
their uplinks away, but elsewhere.
"""


class Machine:
    """A namespace that plays the machine."""

    def __init__(self, holder: int, real: int) -> None:
        self.inside = ("nsenter", f"--target={holder}", "--net", "--mount")
        self.real = ("nsenter", f"--net=/proc/{real}/ns/net")

    def said(self, *command: str) -> str:
        return subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, check=True, timeout=30
        ).stdout

    @property
    def state(self) -> dict[str, str]:
        """All that an uplink changes."""
        found = {
            name: self.said(*command)
            for name, command in {
                "rules": ("nft", "list", "ruleset"),
                "routes": ("ip", "route"),
            }.items()
        }
        found["links"] = self.said("ip", "-br", "address")
        # A link may go while it is read.
        found["forwarding"] = self.said(
            "sh",
            "-c",
            "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward 2>/dev/null || true",
        )
        return found

    def ask(self, where: tuple[str, ...], *targets: tuple[str, str, int]) -> list[tuple[str, str]]:
        """(who answers, whom it sees), or (what went wrong, nothing); from the machine or from the
        real network.
        """
        request = json.dumps([[None, targets]])
        done = subprocess.run(
            [*where, *PROGRAM],
            input=request,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        (answers,) = json.loads(done.stdout)
        return [
            (answer.get("who", answer.get("error")), answer.get("seen", [""])[0])
            for answer in answers
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with (
        subprocess.Popen(("unshare", "--net", "sleep", "600")) as real,
        subprocess.Popen(("unshare", "--net", "--mount", "sleep", "600")) as holder,
    ):
        try:
            pids = (real.pid, holder.pid)
            wait_for(
                lambda: (
                    os.readlink("/proc/self/ns/net")
                    not in [os.readlink(f"/proc/{pid}/ns/net") for pid in pids]
                ),
                "namespaces",
            )
            found = Machine(holder.pid, real.pid)
            found.said("sh", "-e", "-c", WIRE, "sh", str(real.pid), str(tmp_path / "resolv.conf"))
            with subprocess.Popen(
                [*found.real, sys.executable, "-c", SERVERS], stdout=subprocess.PIPE, text=True
            ) as servers:
                assert servers.stdout is not None
                assert servers.stdout.readline() == "up\n"
                yield found
                servers.kill()
        finally:
            real.kill()
            holder.kill()


@pytest.fixture
def lab(lab: Lab, machine: Machine) -> Iterator[Lab]:
    """A lab of that machine; gone after the test."""
    there = Lab(lab.name, before=machine.inside)
    yield there
    there.down()


def seen_by_the_real_server(lab: Lab, pod: str, version: int) -> str:
    address = f"[{REAL[6]}]" if version == 6 else REAL[4]
    return lab.run("exec", pod, "--", "curl", "-s", "-m", "2", f"http://{address}:8000/").out


@pytest.mark.parametrize("version", [4, 6])
def test_pods_reach_the_machines_network(lab: Lab, machine: Machine, version: int) -> None:
    """As the machine itself; so do nodes and the lab's internet.

    Nobody outside reaches them, and what the lab promises holds.
    """
    lab.up(CLUSTER, "--uplink")
    for place in ("web", "node:worker", "ext:client"):
        assert seen_by_the_real_server(lab, place, version) == MACHINE[version]
    pod = next(
        address for address in lab.pod("web")["addresses"] if (":" in address) == (version == 6)
    )
    machine.said(
        "ip",
        f"-{version}",
        "route",
        "add",
        pod,
        "via",
        next(one for one in lab.seen["uplink"] if (":" in one) == (version == 6)),
    )
    assert machine.ask(machine.inside, ("TCP", pod, 8080))[0][0] != "web"
    assert lab.run("ping", "-o", "json").json["ok"]
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_published_ports_are_the_machines(lab: Lab, machine: Machine) -> None:
    """From the real network the pod sees the client itself, as the policy Local has it; from the
    machine's loopback the machine's end.
    """
    lab.up(CLUSTER, "--uplink")
    for version in (4, 6):
        targets = (
            ("TCP", MACHINE[version], 8080),
            ("UDP", MACHINE[version], 8081),
            ("TCP", MACHINE[version], 9090),
        )
        assert machine.ask(machine.real, *targets) == [
            ("web", REAL[version]),
            ("web", REAL[version]),
            ("refused", ""),
        ]
    end = next(
        one
        for one in machine.said("ip", "-br", "-4", "address").split()
        if one.startswith(("198.18.", "198.19."))
    ).partition("/")[0]
    found = machine.ask(
        machine.inside,
        *(("TCP", "127.0.0.1", port) for port in (8080, 9090)),
        ("TCP", MACHINE[4], 8080),
    )
    assert found == [("web", end), ("web", end), ("web", MACHINE[4])]


def test_names_outside_are_the_machines_servers_business(lab: Lab, machine: Machine) -> None:
    """What nobody knows there does not exist; the cluster's own names stay CoreDNS'."""
    lab.up(CLUSTER, "--uplink")
    look_up = ("exec", "web", "--", "getent", "ahostsv4")
    assert lab.run(*look_up, "real.example").out.split()[0] == REAL[4]
    assert lab.run(*look_up, "web.default.svc.cluster.local").out.startswith("10.96.")
    lab.run(*look_up, "unknown.example", status=2)
    lab.run("up", "--no-uplink")
    lab.run(*look_up, "real.example", status=2)


def test_it_comes_and_goes_on_a_running_lab(lab: Lab, machine: Machine) -> None:
    """Nothing of the lab is another, and of the machine all is as it was."""
    before = machine.state
    lab.up(CLUSTER)
    made = lab.seen
    assert machine.state == before
    assert (
        lab.run(
            "exec", "web", "--", "curl", "-s", "-m", "2", f"http://{REAL[4]}:8000/", status=None
        ).out
        == ""
    )
    link = next(
        line
        for line in lab.run("plan", "--uplink", "-o", "json").json[0]["operations"]
        if line.startswith("+ link ")
    )
    for _ in range(2):
        lab.run("up", "--uplink")
        assert link.split()[2].rstrip(",") in machine.state["links"]
        assert lab.run("plan", "--uplink", "-o", "json").json == []
        assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
        lab.run("up", "--uplink")  # once more: it is there
    assert {**lab.seen, "uplink": []} == made
    assert {
        line[0]
        for entry in lab.run("plan", "--no-uplink", "-o", "json").json
        for line in entry["operations"]
    } == {"-"}
    lab.run("up", "--no-uplink")
    assert machine.state == before
    assert lab.seen == made
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_a_firewall_in_the_way_is_told(lab: Lab, machine: Machine) -> None:
    """Docker's chain FORWARD drops what it does not know, whatever other tables accept."""
    chain = "type filter hook forward priority 0; policy drop;"
    machine.said(
        "nft",
        f"add table ip filter; add chain ip filter FORWARD {{ {chain} }}; add chain ip filter OTHER",
    )
    link = next(word for word in lab.up(CLUSTER, "--uplink").err.split() if word.startswith("knl-"))
    machine.said(
        "sh",
        "-c",
        "".join(
            f"nft add rule ip filter FORWARD {way} {link} accept;" for way in ("iifname", "oifname")
        ),
    )
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    assert (
        "ip filter FORWARD of this machine drops forwarded packets" in lab.run("up", "--uplink").err
    )


@pytest.mark.parametrize("how", ["down", "init"])
def test_nothing_of_it_stays(lab: Lab, machine: Machine, how: str) -> None:
    """After `down`; after init was killed, by whichever command is next."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    assert machine.state != before
    if how == "down":
        lab.down()
    else:
        os.kill(lab.seen["init_pid"], signal.SIGKILL)
        wait_for(lambda: "knl-" not in machine.state["links"], "the link to be gone with the lab")
        subprocess.run(
            [*machine.inside, *COMMAND, "list"], check=True, capture_output=True, timeout=30
        )
    assert machine.state == before


def test_a_killed_agent_finds_it(lab: Lab, machine: Machine) -> None:
    """Packets go on, and the next one knows of it."""
    lab.up(CLUSTER, "--uplink")
    lab.kill("agent")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    lab.run("scale", "deployment/coredns", "-n", "kube-system", "--replicas", "1")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the lab to be whole")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


def test_two_labs_have_one_each(lab: Lab, machine: Machine, labs: Any) -> None:
    """With the same addresses inside; the first to go leaves the other its way."""
    before = machine.state
    other = Lab(labs().name, before=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    assert lab.seen["uplink"] != other.seen["uplink"]
    for one in (lab, other):
        assert seen_by_the_real_server(one, "web", 4) == MACHINE[4]
    assert [
        who
        for who, _ in machine.ask(
            machine.real, ("TCP", MACHINE[4], 8080), ("TCP", MACHINE[4], 8180)
        )
    ] == ["web", "web"]
    lab.down()
    assert seen_by_the_real_server(other, "web", 4) == MACHINE[4]
    other.down()
    assert machine.state == before


def test_what_cannot_be_made_is_told_and_leaves_nothing(lab: Lab, machine: Machine) -> None:
    """The machine's routes leave no room: the lab is there, and goes without; nothing has changed,
    and a later try succeeds.
    """
    for network in ("198.18.0.0/15", "fd6b:6e6c::/32"):
        machine.said("ip", "route", "add", network, "dev", "eth0")
    before = machine.state
    said = lab.up(CLUSTER, "--uplink", status=1).err
    assert (
        "no free subnet in 198.18.0.0/15 for the uplink: the machine's routes cover all of them"
        in said
    )
    assert machine.state == before
    assert lab.run("ping", "-o", "json").json["ok"]
    machine.said("ip", "route", "del", "198.18.0.0/15")
    machine.said("ip", "-6", "route", "del", "fd6b:6e6c::/32")
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


def link_of(machine: Machine) -> str:
    return next(
        word.partition("@")[0] for word in machine.state["links"].split() if word.startswith("knl-")
    )


@pytest.mark.parametrize(
    "harm",
    [
        "ip link set {link} down",
        "ip address flush dev {link}",
        "sysctl -q net.ipv4.conf.{link}.route_localnet=0",
        "ip link delete {link}",
        "nft flush ruleset",
    ],
)
def test_what_is_there_of_it_is_brought_into_line(lab: Lab, machine: Machine, harm: str) -> None:
    """Somebody's hand, or a command that ended in the middle: the next one makes it whole."""
    before = machine.state
    lab.up(CLUSTER, "--uplink")
    machine.said("sh", "-c", harm.format(link=link_of(machine)))
    lab.run("up", "--uplink")
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]
    assert [
        who
        for who, _ in machine.ask(
            machine.inside, ("TCP", "127.0.0.1", 8080), ("TCP", MACHINE[6], 8080)
        )
    ] == ["web", "web"]
    lab.down()
    assert machine.state == before


def test_a_port_that_the_machine_has_itself_is_left_to_it(lab: Lab, machine: Machine) -> None:
    """The lab is there and goes without; when the port is free, the uplink can be had."""
    before = machine.state
    server = [
        *machine.inside,
        sys.executable,
        "-c",
        SERVERS.replace('("::", 8000)', '("::", 8080)').replace(REAL[4], "127.0.0.1"),
    ]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as own:
        assert own.stdout is not None
        assert own.stdout.readline() == "up\n"
        said = lab.up(CLUSTER, "--uplink", status=1).err
        assert (
            "extraPortMappings: a program of this machine listens on 8080/TCP; take another hostPort"
            in said
        )
        assert machine.state == before
        own.kill()
    lab.run("up", "--uplink")
    assert machine.ask(machine.real, ("TCP", MACHINE[4], 8080)) == [("web", REAL[4])]


def test_an_uplink_that_cannot_be_made_again_is_none(lab: Lab, machine: Machine) -> None:
    """Its link is gone, and there is no room for another: the lab is told, and wants none any more."""
    lab.up(CLUSTER, "--uplink")
    machine.said("ip", "link", "delete", link_of(machine))
    machine.said("ip", "route", "add", "198.18.0.0/15", "dev", "eth0")
    lab.run("up", "--uplink", status=1)
    assert lab.seen["uplink"] == []
    lab.run("up", "--no-uplink")
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_settings_that_others_make_meanwhile_stay(lab: Lab, machine: Machine, labs: Any) -> None:
    """Somebody has switched forwarding on and off, and both labs were brought into line: one goes,
    the other's packets go on. And what forwards for somebody else when the last goes, goes on, too.
    """
    other = Lab(labs().name, before=machine.inside)
    lab.up(CLUSTER, "--uplink")
    other.up(CLUSTER.replace("hostPort: 80", "hostPort: 81"), "--uplink")
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=1")
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=0")
    for one in (lab, other):
        one.run("up", "--uplink")
        assert seen_by_the_real_server(one, "web", 4) == MACHINE[4]
    lab.down()
    assert seen_by_the_real_server(other, "web", 4) == MACHINE[4]
    machine.said("sysctl", "-q", "net.ipv4.ip_forward=1")
    other.down()
    assert machine.said("sysctl", "-n", "net.ipv4.conf.eth0.forwarding").strip() == "1"


def test_a_machine_without_ipv6_on_new_links(lab: Lab, machine: Machine) -> None:
    """A lab of both families goes along by IPv4."""
    machine.said("sysctl", "-q", "net.ipv6.conf.default.disable_ipv6=1")
    lab.up(CLUSTER, "--uplink")
    assert [":" in address for address in lab.seen["uplink"]] == [False]
    assert seen_by_the_real_server(lab, "web", 4) == MACHINE[4]


@pytest.mark.parametrize(
    "before",
    [
        b"nameserver garbage\n",
        b"nameserver 192.0.2.1:53\n",
        b"# caf\xe9\n",
        b"nameserver 10.96.0.10\n",
    ],
)
def test_name_servers_that_are_none_are_passed_over(
    lab: Lab, machine: Machine, tmp_path: Path, before: bytes
) -> None:
    """What is no address, what is no text, and the lab's own, which would ask itself without end."""
    lab.up(CLUSTER, "--uplink")
    (tmp_path / "resolv.conf").write_bytes(before + f"nameserver {REAL[4]}\n".encode())
    assert (
        lab.run("exec", "web", "--", "getent", "ahostsv4", "real.example").out.split()[0] == REAL[4]
    )


def test_an_ordinary_user_is_told(machine: Machine) -> None:
    """Before anything is made."""
    with user(NOBODY) as nobody:
        said = nobody.run("up", "--lab", "t", "--uplink", status=1).err
        assert "uplink needs root of the machine (a link to the machine's own network)" in said
        assert not (nobody.run_directory / "kubenetlab" / "t").exists()
