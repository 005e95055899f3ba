"""What stands in the way of a lab, before it is begun."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.cli import with_system_directories
from kubenetlab.datapath.modes import Needs
from kubenetlab.kernel.features.probing import FeatureProbe
from kubenetlab.kernel.processes.permissions import (
    NEEDED,
    effective_capabilities,
    is_first_user_namespace,
    lacking,
    remedy,
)
from kubenetlab.lab import requirements
from kubenetlab.lab.requirements import chosen, faults, require_modes, unsupported


def test_the_modes_of_a_cluster_are_asked() -> None:
    """Each by its family and name."""
    assert [title for title, _ in chosen(ClusterConfig())] == ["cni bridge", "proxy nftables"]


@pytest.mark.parametrize(
    ("needs", "is_root", "expected"),
    [
        (Needs(), False, []),
        (
            Needs(programs=("nft", "ip")),
            False,
            ["this machine lacks ip (apt-get install iproute2), for cni test"],
        ),
        (Needs(root="eBPF programs"), True, []),
        (
            Needs(root="eBPF programs"),
            False,
            [
                "cni test needs root of the machine (eBPF programs), which a user namespace does not give: run kubenetlab up as root (sudo)"
            ],
        ),
    ],
)
def test_nothing_takes_the_place_of_what_cannot_be_had(
    needs: Needs, is_root: bool, expected: list[str]
) -> None:
    """A program that is missing, or root that is not there, is an error that says so."""
    assert (
        list(
            faults("cni test", needs, is_root=is_root, has_program=lambda program: program == "nft")
        )
        == expected
    )


def test_a_kernel_that_cannot_is_found_before_the_lab_is_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only some modes need is tried for those that are chosen."""

    def refused() -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    makes = [
        FeatureProbe("special", refused, "a test", "another kernel", "labs without it"),
        FeatureProbe("basic", refused, "a test", "another kernel"),
    ]
    monkeypatch.setattr("kubenetlab.kernel.features.feature_probes.TRIALS", makes)
    assert list(unsupported("proxy test", Needs(features=("special", "basic")))) == [
        "proxy test needs special: Operation not supported; required: another kernel"
    ]
    assert list(unsupported("proxy test", Needs(features=("basic",)))) == []


def test_only_missing_packages_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remedy names the packages of programs that are not installed, and what else can be done."""
    trial = FeatureProbe(
        "special",
        lambda: None,
        "a test",
        "another kernel",
        programs=("ipset", "iptables-nft-restore"),
    )
    for installed, expected in (
        ((), "sudo apt-get install ipset iptables; another kernel"),
        (("ipset",), "sudo apt-get install iptables; another kernel"),
        (("ipset", "iptables-nft-restore"), "another kernel"),
    ):
        monkeypatch.setattr(
            "kubenetlab.kernel.features.probing.has_program", installed.__contains__
        )
        assert trial.advice == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/sbin:/sbin"),
        ("/sbin:/home/me/bin:/usr/sbin", "/sbin:/home/me/bin:/usr/sbin"),
        ("", "/bin:/usr/bin:/usr/sbin:/sbin"),
    ],
)
def test_system_directories_end_the_search_path(path: str, expected: str) -> None:
    """They come after the caller's own, and once."""
    assert with_system_directories(path) == expected


def test_what_a_running_lab_has_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mode's needs are, beyond those of the mode that it has."""
    tried: list[str] = []

    def tries(title: str, needs: Needs) -> list[str]:
        tried.extend(needs.features)
        return []

    monkeypatch.setattr(requirements, "is_root", lambda: True)
    monkeypatch.setattr(requirements, "has_program", lambda program: True)
    monkeypatch.setattr(requirements, "unsupported", tries)
    ipvs, iptables = (
        ClusterConfig(networking=Networking(kube_proxy_mode=name)) for name in ("ipvs", "iptables")
    )
    for config, before in ((iptables, ipvs), (ipvs, ipvs)):
        require_modes(config, before)
        assert tried == []
    require_modes(ipvs, iptables)
    assert tried == ["ipset", "dummy", "ipvs"]


def test_lacking_capabilities_are_named() -> None:
    """What a container takes away; Docker's default set has no administration of any kind."""
    everything, docker = (1 << 41) - 1, 0xA80425FB
    assert lacking(everything) == {}
    assert list(lacking(docker)) == ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
    assert list(lacking(0)) == list(NEEDED)


def test_capabilities_and_maps_are_read(tmp_path: Path) -> None:
    """Of this process, from its status; root in a user namespace is told from the machine's."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tx\nCapPrm:\t0\nCapEff:\t00000000a80425fb\n")
    (tmp_path / "self" / "uid_map").write_text("         0       1000          1\n")
    assert effective_capabilities(str(tmp_path)) == 0xA80425FB
    assert not is_first_user_namespace(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("user/max_user_namespaces", "0", "user.max_user_namespaces is 0: sudo sysctl -w"),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0: sudo sysctl -w",
        ),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "0",
            "run as root (sudo); in a container: docker run --privileged",
        ),
    ],
)
def test_what_forbids_user_namespaces_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, words: str
) -> None:
    """The settings of distributions, each with what to do."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path = tmp_path / "sys" / setting
    path.parent.mkdir(parents=True)
    path.write_text(f"{value}\n")
    assert remedy(errno.EPERM, str(tmp_path)).startswith(words)


def test_a_limit_is_no_lack_of_permission() -> None:
    """The errno tells them apart."""
    assert "a limit of namespaces" in remedy(errno.ENOSPC)
