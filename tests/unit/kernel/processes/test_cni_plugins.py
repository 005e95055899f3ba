"""Execution of CNI plugins, with shell scripts as plugins."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kubenetlab.cni import conflist
from kubenetlab.cni.failures import CniError, Outcome
from kubenetlab.cni.invocations import Arguments, Attachment, Invocation
from kubenetlab.cni.runtime import Runtime
from kubenetlab.kernel.processes.cni_plugins import (
    MAX_OUTPUT_BYTES,
    PluginExecutor,
    ResultFiles,
)
from tests.patience import patiently

SCRIPT = """#!/bin/sh
# A plugin that notes its calls, keeps one file per attachment, and knows all commands.
STATE={state}
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >> $STATE/calls
case $CNI_COMMAND in
ADD)
    touch $STATE/lease-$CNI_CONTAINERID
    echo '{{"cniVersion": "1.1.0", "interfaces": [{{"name": "eth0", "sandbox": "'$CNI_NETNS'"}}],'
    echo '"ips": [{{"address": "10.9.0.7/24", "interface": 0}}]}}' ;;
DEL) rm -f $STATE/lease-$CNI_CONTAINERID ;;
CHECK)
    test -e $STATE/lease-$CNI_CONTAINERID || {{
        echo '{{"code": 100, "msg": "lease is gone", "details": "'$CNI_CONTAINERID'"}}'
        exit 1
    }} ;;
GC)
    for lease in $STATE/lease-*; do
        case $input in *"${{lease##*/lease-}}"*) ;; *) rm -f $lease ;; esac
    done ;;
STATUS) exit 0 ;;
VERSION) echo '{{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}}' ;;
esac
"""

NETWORK, _ = conflist.load({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "own"}]})
POD = Arguments("pod1", "/proc/1/ns/net", "eth0")


def plugin(folder: Path, text: str, name: str = "own") -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


def executor(folder: Path, timeout_s: float | None = None) -> PluginExecutor:
    limit = patiently(20) if timeout_s is None else timeout_s
    return PluginExecutor([str(folder)], {"PATH": os.environ["PATH"]}, limit)


def run(folder: Path, text: str, timeout_s: float | None = None) -> Outcome:
    plugin(folder, text)
    invocation = Invocation("own", {"CNI_COMMAND": "ADD"}, b'{"name": "net"}')
    return executor(folder, timeout_s).run(invocation)


def test_a_plugin_gets_its_input_and_its_environment(tmp_path: Path) -> None:
    """The plugin does not inherit the environment of the lab's processes."""
    os.environ["KUBENETLAB_SECRET"] = "x"
    try:
        outcome = run(tmp_path, "#!/bin/sh\ncat\necho\nenv | grep -v ^PATH=; echo bad >&2; pwd")
    finally:
        del os.environ["KUBENETLAB_SECRET"]
    lines = outcome.stdout.decode().splitlines()
    assert lines[0] == '{"name": "net"}'
    assert "CNI_COMMAND=ADD" in lines
    assert not any("SECRET" in line for line in lines)
    assert lines[-1] == "/"
    assert outcome.stderr == b"bad\n"
    assert outcome.exit_status == 0


def test_the_first_directory_with_the_program_counts(tmp_path: Path) -> None:
    """A directory of that name is no program."""
    first, second = tmp_path / "a", tmp_path / "b"
    (first / "own").mkdir(parents=True)
    second.mkdir()
    plugin(second, "#!/bin/sh\necho two")
    both = PluginExecutor([str(first), str(second)], {})
    assert both.find("own")
    assert not both.find("other")
    assert both.run(Invocation("own", {}, b"")).stdout == b"two\n"
    assert "failed to find plugin" in both.run(Invocation("other", {}, b"")).start_error


def test_a_hanging_plugin_is_killed_with_its_children(tmp_path: Path) -> None:
    """At the time limit, which the message says."""
    began = time.monotonic()
    outcome = run(
        tmp_path, f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/pid\nwait", timeout_s=0.5
    )
    assert outcome.timeout_s == 0.5
    assert outcome.exit_status == -9
    assert time.monotonic() - began < patiently(20)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + patiently(10)
    while _is_running(child):
        assert time.monotonic() < deadline, "the plugin's child is still there"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_a_plugin_leaves_behind_keeps_nothing_waiting(tmp_path: Path) -> None:
    """The end of the plugin counts, even while its output is open elsewhere."""
    began = time.monotonic()
    outcome = run(tmp_path, f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/pid\necho done")
    try:
        assert (outcome.stdout, outcome.exit_status) == (b"done\n", 0)
        assert time.monotonic() - began < patiently(15)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_flood_of_output_is_stopped(tmp_path: Path) -> None:
    """The lab's processes must not run out of memory."""
    outcome = run(tmp_path, "#!/bin/sh\nexec yes")
    assert outcome.is_truncated
    assert len(outcome.stdout) < 2 * MAX_OUTPUT_BYTES


def test_a_program_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    """Not executable, or for another machine."""
    (tmp_path / "own").write_text("#!/bin/sh\n")
    invocation = Invocation("own", {}, b"")
    assert "Permission denied" in executor(tmp_path).run(invocation).start_error
    plugin(tmp_path, "\x7fELF rubbish")
    assert "Exec format error" in executor(tmp_path).run(invocation).start_error


def test_a_large_configuration_does_not_block(tmp_path: Path) -> None:
    """A plugin may end without reading its input, which is larger than a pipe."""
    plugin(tmp_path, "#!/bin/sh\nexit 3")
    outcome = executor(tmp_path).run(Invocation("own", {}, b"x" * 1_000_000))
    assert outcome.exit_status == 3


def test_the_life_of_an_attachment(tmp_path: Path) -> None:
    """ADD, CHECK, DEL twice, STATUS and VERSION of a real process."""
    runtime, state = _lab(tmp_path)
    assert NETWORK is not None
    assert list(runtime.validate(NETWORK)) == []
    runtime.status(NETWORK)
    result = runtime.add(NETWORK, POD)
    assert result.addresses_of(POD.netns, "eth0") == ("10.9.0.7",)
    assert os.listdir(state / "results") == ["net-pod1-eth0"]
    assert (state / "results").stat().st_mode & 0o777 == 0o700
    runtime.check(NETWORK, POD)
    (state / "lease-pod1").unlink()
    with pytest.raises(CniError, match=r"failed \(check\): lease is gone; pod1"):
        runtime.check(NETWORK, POD)
    runtime.delete(NETWORK, POD)
    runtime.delete(NETWORK, POD)
    assert os.listdir(state / "results") == []
    calls = (state / "calls").read_text().split("\n")
    assert calls[2:7] == ["ADD pod1", "CHECK pod1", "CHECK pod1", "DEL pod1", "DEL pod1"]


def test_garbage_collection_after_a_loss(tmp_path: Path) -> None:
    """Both an attachment whose DEL was missed, and a lease that no result mentions, are freed."""
    runtime, state = _lab(tmp_path)
    assert NETWORK is not None
    for name in ("pod1", "pod2", "pod3"):
        runtime.add(NETWORK, Arguments(name, "", "eth0"))
    (state / "results" / "net-pod2-eth0").unlink()
    runtime.collect_garbage(NETWORK, [Attachment("pod3", "eth0")])
    assert sorted(path.name for path in state.glob("lease-*")) == ["lease-pod3"]
    assert os.listdir(state / "results") == ["net-pod3-eth0"]


def _lab(tmp_path: Path) -> tuple[Runtime, Path]:
    """Return a runtime with one plugin, and the folder of the plugin's state."""
    state = tmp_path / "state"
    state.mkdir()
    plugin(tmp_path, SCRIPT.format(state=state))
    return Runtime(executor(tmp_path), ResultFiles(str(state / "results"))), state


def test_files_of_results(tmp_path: Path) -> None:
    """Absent ones are neither read nor deleted with an error."""
    files = ResultFiles(str(tmp_path / "none"))
    assert files.names() == []
    assert files.read("a") is None
    files.delete("a")
    files.write("a", json.dumps({}).encode())
    assert (files.read("a"), list(files.names())) == (b"{}", ["a"])
    files.delete("a")
    assert files.names() == []
