"""Symlinks of a lab in /run/netns."""

from __future__ import annotations

import os
from pathlib import Path

from kubenetlab.lab.agent.netns_links import NetnsLinks


def test_a_new_agent_corrects_links_that_lead_to_former_processes(tmp_path: Path) -> None:
    """Missing, outdated and superfluous links are corrected; a link of another lab stays."""
    run_netns, proc = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (tmp_path, "/proc"))
    links = NetnsLinks("t", run_netns, proc)
    pids = {"node/a": 71, "node/b": 72, "node/c": 73}
    for netns, pid in {**pids, "node/gone": 74}.items():
        links.add(netns, pid)
    names = {path.readlink(): path for path in tmp_path.iterdir()}
    expected = {
        path.name: str(path.readlink()) for path in tmp_path.iterdir() if "gone" not in path.name
    }
    outdated = names[Path(links.path(71))]
    outdated.unlink()
    outdated.symlink_to(links.path(70))
    names[Path(links.path(72))].unlink()
    (tmp_path / "other_node-a").symlink_to("/elsewhere")
    NetnsLinks("t", run_netns, proc).adopt(pids)
    assert {path.name: str(path.readlink()) for path in tmp_path.iterdir()} == {
        **expected,
        "other_node-a": "/elsewhere",
    }
    os.close(run_netns)
    os.close(proc)
