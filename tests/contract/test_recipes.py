"""The recipes of CONTRIBUTING.md work: the tests use the examples of the page."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from kubenetlab import hoststate, programs
from kubenetlab.api.containers import Container
from kubenetlab.datapath import faults, manuals, modes, plan
from kubenetlab.datapath.cni import bridge
from kubenetlab.hoststate import kinds
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.netlink import wire
from kubenetlab.hoststate.netlink.wire import messages
from kubenetlab.hoststate.rules.nftables import Element
from kubenetlab.hoststate.rules.rulesets import members
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.fake import FakeKernel
from kubenetlab.programs.support.http import Request
from tests.clusters import NOW, decided, deployment, running, service, settled, store

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(
    re.findall(
        r"^ {3}```python\n {3}# (kubenetlab/\S+\.py)\n(.*?)^ {3}```$",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
)
DECISIONS = decided("onlink", "dynamic")


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Yield the examples by name, as modules of the packages that the page names."""
    packages = {"cni": importlib.import_module(bridge.__name__.rpartition(".")[0])}
    packages |= {"faults": faults, "programs": programs, "hoststate": hoststate}
    modules: dict[str, ModuleType] = {}
    for path, text in EXAMPLES.items():
        folder, name = Path(path).parent.name, Path(path).stem
        directory = tmp_path / folder
        directory.mkdir()
        (directory / f"{name}.py").write_text(textwrap.dedent(text))
        package = packages[folder]
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(directory)])
        modules[name] = importlib.import_module(f"{package.__name__}.{name}")
    modes.known.cache_clear()
    yield modules
    modes.known.cache_clear()
    for module in modules.values():
        del sys.modules[module.__name__]


def test_the_page_has_examples_and_refers_to_existing_files() -> None:
    """Each recipe with code has an example; paths without NAME belong to this checkout."""
    assert sorted(Path(path).stem for path in EXAMPLES) == [
        "prohibit",
        "proxy_amnesia",
        "walled",
        "whoami",
    ]
    paths = re.findall(r"`((?:kubenetlab|tests|docs|scripts|manifests)/[\w/.-]+)`", PAGE)
    assert len(paths) > 20
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_the_recipe_for_a_mode_works(added: dict[str, ModuleType]) -> None:
    """The mode is found by its name and has a manual; its plan can be applied and read back."""
    assert "walled" in modes.known("cni")
    assert manuals.manual("cni", "walled").startswith("walled: ")
    networking = "networking: {cni: {type: walled, mtu: 1400}}"
    text = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{networking}\n---\n"
    desired = plan(running(store(text + deployment())), DECISIONS)
    kernel = FakeKernel()
    everything: dict[str, Contents] = {netns: {} for netns in desired.namespaces}
    kernel.apply(diff(HostState(kernel.observe(everything)), desired)).raise_failures()
    assert not diff(HostState(kernel.observe(everything)), desired)
    assert any("veth eth0" in line and "mtu 1400" in line for line in kernel.applied)


def test_the_recipe_for_a_fault_works(added: dict[str, ModuleType]) -> None:
    """One node's Service rules are removed during the fault, and nothing else changes."""
    assert "proxy-amnesia" in faults.known()
    assert faults.manual("proxy-amnesia").startswith("proxy-amnesia: ")
    cluster = running(store(deployment() + service()))
    changes = faults.break_changes(cluster, "proxy-amnesia", {"node": "worker"}, NOW)
    broken = settled(cluster.with_changes(changes), NOW)

    def services(node: str) -> int:
        objects = members(plan(broken, DECISIONS)[f"node/{node}"].values())
        return sum(isinstance(obj, Element) for obj in objects)

    assert services("worker") < services("worker2")


def test_the_recipe_for_a_program_works(
    added: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image selects the program, which listens and answers according to its arguments."""
    monkeypatch.setattr(
        programs, "_PROGRAM_OF_IMAGE", {**programs._PROGRAM_OF_IMAGE, "whoami": "whoami"}
    )
    container = Container("main", image="traefik/whoami:v1.10", args=("--port=8081", "--name=me"))
    setup = programs.setup(container)
    assert [(listener.protocol, listener.port) for listener in setup.listeners] == [("TCP", 8081)]
    context = SimpleNamespace(options=setup.options, hostname="web-0")
    request = Request("GET", "/", ("10.244.1.7", 40000), {}, b"")
    answer = asyncio.run(added["whoami"].http(request, context))
    assert answer.body == b"Hostname: me\nRemoteAddr: 10.244.1.7\n"


def test_the_recipe_for_a_kind_of_kernel_object_works(
    added: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decoder reads what its encoder writes, and notifications about it are understood."""
    module = added["prohibit"]
    route = module.Prohibit("node/a", "10.9.0.0/16")
    ((*_, body),) = messages(route.create(None))  # the route names no link
    assert module.decode_prohibit("node/a", body, {}) == (route, True)
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, module.PROHIBIT_MESSAGES))
    states = [
        kinds.decode_event("node/a", type_, body, {})
        for type_ in (wire.RTM_NEWROUTE, wire.RTM_DELROUTE)
    ]
    assert states == [(route.key, route), (route.key, None)]
    assert list(route.commands(lambda netns: "a")) == [
        "ip -n a route add prohibit 10.9.0.0/16 proto static"
    ]


def test_the_examples_leave_nothing_behind() -> None:
    """Without the files, the mode and the fault do not exist."""
    assert "walled" not in modes.known("cni")
    assert "proxy-amnesia" not in faults.known()
