"""BIRD decides about routes as the policies of its configuration say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from kubenetlab.datapath.network.bgp_policy import Rule, accepts
from kubenetlab.datapath.network.bird_filters import statements
from kubenetlab.kernel.features.detection import has_program
from tests.labs.lab import wait_for

pytestmark = [
    pytest.mark.first_kernel,  # BIRD behaves alike on both
    pytest.mark.skipif(not has_program("bird"), reason="needs BIRD 2 (apt-get install bird2)"),
]
PREFIXES: Final = (
    "10.0.0.0/8",
    "10.9.0.0/16",
    "10.9.0.0/24",
    "10.9.7.64/26",
    "10.9.7.7/32",
    "10.10.0.0/24",
    "192.0.2.0/24",
)
POLICIES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "nothing": (),
    "all": (Rule(False),),
    **{
        f"{operator}_{least}_{most}": (Rule(False, "10.9.0.0/16", operator, (least, most)),)
        for operator in ("Equal", "NotEqual", "In", "NotIn")
        for least, most in ((0, 128), (24, 26), (26, 24), (17, 32), (0, 16))
    },
    "first": (Rule(True, "10.9.0.0/24"), Rule(False, "10.0.0.0/8", "In", (9, 32))),
    "learned": (Rule(False, is_learned=True), Rule(False, "192.0.2.0/24", "Equal")),
}


MARKED: Final = "10.9.0.0/24"
"""Route with communities, a path and a link; PLAIN has none of them."""
PLAIN: Final = "10.10.0.0/24"
CONDITIONS: Final[Mapping[str, tuple[Rule, bool]]] = {
    "link": (Rule(False, interface="l*"), True),
    "other_link": (Rule(False, interface="eth0"), False),
    "community": (Rule(False, community="65000:1"), True),
    "other_community": (Rule(False, community="65000:2"), False),
    "large": (Rule(False, community="1:2:3"), True),
    "other_large": (Rule(False, community="1:2:4"), False),
    "path": (Rule(False, as_path=(65001, 65002)), True),
    "beginning": (Rule(False, as_path=(65001,)), True),
    "end": (Rule(False, as_path=(65002,)), False),
}
"""Name → rule, and whether it rejects MARKED. No rule rejects PLAIN."""


def test_bird_accepts_what_the_evaluation_accepts(tmp_path: Path) -> None:
    """For every operator and for limits of the prefix length; one BIRD runs all policies."""
    routes = "".join(f"  route {prefix} blackhole;\n" for prefix in PREFIXES)
    static = f"protocol static {{ ipv4;\n{routes}}}\n"
    expected = {
        name: {each for each in PREFIXES if accepts(rules, each, is_learned=False)}
        for name, rules in POLICIES.items()
    }
    with running_bird(tmp_path, static, POLICIES) as accepted:
        wait_for(lambda: accepted() == expected, "the routes of all policies")


def test_bird_evaluates_conditions_about_attributes(tmp_path: Path) -> None:
    """A route without an attribute does not meet a condition about it."""
    attributes = (
        "bgp_community.add((65000, 1)); bgp_large_community.add((1, 2, 3)); "
        "bgp_path.prepend(65002); bgp_path.prepend(65001);"
    )
    static = (
        f"protocol static {{ ipv4;\n  route {PLAIN} blackhole;\n"
        f'  route {MARKED} via "lo" {{ {attributes} }};\n}}\nprotocol device {{}}\n'
    )
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    policies = {name: (rule,) for name, (rule, _) in CONDITIONS.items()}
    expected = {
        name: {PLAIN} if is_rejected else {PLAIN, MARKED}
        for name, (_, is_rejected) in CONDITIONS.items()
    }
    change = Rule(True, added_communities=("65000:9", "9:9:9"), prepended=(7, 8))
    with running_bird(tmp_path, static, {**policies, "change": (change,)}) as accepted:
        wait_for(lambda: accepted() == expected | {"change": {PLAIN, MARKED}}, "the routes")
        shown = birdc(tmp_path, "show", "route", "all", MARKED, "table", f"t{len(policies)}")
    assert "BGP.as_path: 7 8 65001 65002\n" in shown
    assert "BGP.community: (65000,1) (65000,9)\n" in shown
    assert "BGP.large_community: (1, 2, 3) (9, 9, 9)\n" in shown


@contextmanager
def running_bird(
    directory: Path, static: str, policies: Mapping[str, tuple[Rule, ...]]
) -> Iterator[Callable[[], dict[str, set[str]]]]:
    """Run BIRD with a table for each policy; yield a function that returns the accepted routes."""
    pipes = "".join(
        f"ipv4 table t{index};\nprotocol pipe p{index} {{ table master4; peer table t{index};\n"
        f"import none; export filter {{\n{chr(10).join(statements(rules))}\naccept;\n}}; }}\n"
        for index, rules in enumerate(policies.values())
    )
    config = directory / "bird.conf"
    config.write_text(f"router id 192.0.2.1;\n{static}{pipes}")
    command = ["bird", "-f", "-c", str(config), "-s", str(directory / "bird.ctl")]

    def accepted() -> dict[str, set[str]]:
        return {
            name: set(
                re.findall(
                    r"^(\d\S+/\d+)",
                    birdc(directory, "show", "route", "table", f"t{index}"),
                    re.MULTILINE,
                )
            )
            for index, name in enumerate(policies)
        }

    with subprocess.Popen(command) as bird:
        try:
            wait_for((directory / "bird.ctl").exists, "BIRD")
            yield accepted
        finally:
            bird.kill()


def birdc(directory: Path, *words: str) -> str:
    command = ["birdc", "-s", str(directory / "bird.ctl"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
