"""Files and daemons as objects: how they read, what makes them differ, and their shell commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.daemons import ControlSocket, Daemon, ReloadSignal
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.files import File, digest, own_directory
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.script import script
from kubenetlab.hoststate.state import HostState, contents_of

NODE = "node/a"
CONFIG = File(NODE, "/etc/bird/bird.conf", "router id 1.2.3.4;\n")
CONTROL = ControlSocket("/run/bird/bird.ctl", "configure", ("0003",))
BIRD = Daemon.reading([CONFIG], "bird", ["bird", "-f", "-c", CONFIG.path], reload=CONTROL)


def state(*objects: Object) -> HostState:
    return HostState({NODE: contents_of([Sandbox(NODE, "a"), *objects])})


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("/etc/bird/bird.conf", "/etc/bird"),
        ("/etc/cni/net.d/10-x.conflist", "/etc/cni"),
        ("/run/flannel/subnet.env", "/run/flannel"),
    ],
)
def test_a_file_is_in_a_directory_of_its_sandbox(path: str, directory: str) -> None:
    """This directory replaces the machine's; its parent is the machine's."""
    assert own_directory(path) == File(NODE, path, "").directory == directory


@pytest.mark.parametrize(
    "other",
    [
        File(NODE, CONFIG.path, "router id 1.2.3.5;\n"),
        File(NODE, "/etc/bird/other.conf", CONFIG.content),
        File(NODE, CONFIG.path, CONFIG.content, 0o600),
    ],
    ids=["content", "path", "mode"],
)
def test_a_daemon_differs_when_one_of_its_files_does(other: File) -> None:
    """A change is one of the daemon, too, so that it reads the file again."""
    changed = Daemon.reading([other], "bird", BIRD.argv, reload=CONTROL)
    assert digest([other]) != digest([CONFIG])
    assert changed != BIRD
    operations = list(diff(state(CONFIG, BIRD), state(other, changed)).operations())
    assert ("change", BIRD) in [(operation.verb, operation.before) for operation in operations]


def test_files_come_before_the_daemons_that_read_them() -> None:
    """A plan lists them in the order in which they are created."""
    lines = str(diff(HostState(), state(BIRD, CONFIG))).splitlines()
    assert lines == [
        NODE,
        "  + sandbox, hostname a",
        "  + file /etc/bird/bird.conf mode 0644 (1 line, crc32 5ffdc7ed)",
        "  + daemon bird: bird -f -c /etc/bird/bird.conf (files 5ffdc7ed)",
    ]


@pytest.mark.parametrize(
    ("reload", "text"),
    [
        (ReloadSignal(), "SIGHUP"),
        (ReloadSignal("SIGUSR1"), "SIGUSR1"),
        (CONTROL, '"configure" on /run/bird/bird.ctl'),
    ],
)
def test_a_reload_is_described(reload: ReloadSignal | ControlSocket, text: str) -> None:
    """Messages name the signal, or the command and the socket."""
    assert str(reload) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=200))
def test_the_script_writes_the_content_byte_for_byte(content: str) -> None:
    """A here-document may contain any line, also its own delimiter and shell syntax."""
    file = File(NODE, "/run/x/y.txt", f"{content}\nEND_OF_FILE\n$HOME `id`\n")
    (first, *rest) = list(file.commands(lambda netns: "NS"))
    assert first.startswith("write NS /run/x/y.txt 0644 <<")
    text = "\n".join([f"cat {first[first.index('<<') :]}", *rest, ""])
    done = subprocess.run(["sh"], input=text.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == file.content


def test_the_script_writes_files_and_runs_daemons(tmp_path: Path) -> None:
    """The functions of the header are there only if a file or a daemon needs them."""
    text = script(state(CONFIG, BIRD), "lab")
    commands = text[text.index("# === node/a") :]
    assert 'write "$NS" /etc/bird/bird.conf 0644 <<' in commands
    assert 'daemon "$NS" bird bird -f -c /etc/bird/bird.conf' in commands
    assert 'mkdir -p "$FILES"/"$NS"/run/bird' in commands
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert "daemon()" not in script(state(CONFIG), "lab")
    assert "$FILES" not in script(state(), "lab")
