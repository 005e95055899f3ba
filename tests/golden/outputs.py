"""Outputs of a golden case: the plan, each node's rules and a script, or the error report."""

from __future__ import annotations

from pathlib import Path

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import Decisions
from kubenetlab.datapath import plan
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.rules.rulesets import RuleObject, by_backend, rule_backend
from kubenetlab.hoststate.script import script
from kubenetlab.hoststate.state import HostState
from tests.clusters import decided, running, store

CASES = Path(__file__).with_name("cases")


def outputs(case: Path) -> dict[str, str]:
    """Return the text of each output file of a golden case, a folder with an `input.yaml`.

    The files are `plan.txt`, each node's rules in their backends and its files, or `error.txt`. A
    lab with one node is small enough to be read as a whole, and also has `lab.sh`. All pods of the
    store run and are ready. Defaults are the layout onlink and dynamic neighbours.
    """
    text = (case / "input.yaml").read_text()
    try:
        cluster = running(store(text))
    except ManifestError as error:
        return {"error.txt": f"{error}\n"}
    decisions = cluster.get(Decisions, "", "decisions") or decided("onlink", "dynamic")
    desired = plan(cluster, decisions)
    changes = diff(HostState(), desired)
    lines = [
        line
        for entry in changes.namespaces
        for line in (entry.netns, *(f"  {operation}" for operation in entry.details()))
    ]
    files = {"plan.txt": "".join(f"{line}\n" for line in lines)}
    (config,) = cluster.all(ClusterConfig)
    for name in config.node_names:
        rules = [obj for obj in desired[f"node/{name}"].values() if isinstance(obj, RuleObject)]
        for backend, objects in by_backend(rules).items():
            if text := "".join(
                f"{command}\n" for command in rule_backend(backend).commands(objects)
            ):
                files[f"{name}.{backend}"] = text
    places = {name: f"node/{name}" for name in config.node_names} | {"router": names.ROUTER}
    for name, netns in places.items():
        if written := [obj for obj in desired[netns].values() if isinstance(obj, File)]:
            files[f"{name}.files"] = "".join(
                f"=== {file.path} mode {file.mode:04o} ===\n{file.content}" for file in written
            )
    if len(config.node_names) == 1:
        files["lab.sh"] = script(desired, case.name)
    return files
