"""The documentation shows the real output: each command in it runs, and its output is compared.

`console` blocks contain commands after `$ ` and their output; `sh` blocks contain only commands.
`…` stands for any text, and a line of only `…` for any lines. Times, ages, client ports and
trailing white space are ignored. A command in a `sh` block succeeds unless the comment behind it
contains `exit status N`. Each page starts without a lab, and other labs may be up elsewhere. Root
and an ordinary user run the pages of the labs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.labs import users
from tests.labs.private_run import private_run_directory
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("manifests/**/*.md"))
)
WITH_COMMANDS = [
    page
    for page in PAGES
    if re.search(r"^(\$ )?kubenetlab ", (ROOT / page).read_text(), re.MULTILINE)
]
NEEDS_ROOT = (
    Path("manifests/18-cilium/README.md"),
    Path("manifests/25-cilium-policies/README.md"),
)
"""Pages of labs whose modes an ordinary user cannot have."""
CHANGES_USER = " tcpdump "
"""Part of commands that an ordinary user can run only with other users (line of `doctor`)."""
_BLOCK = re.compile(r"^```(console|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHANGING = (
    (r"\d+(\.\d+)? (ms|s)\b", "TIME"),
    (r"\b\d+s\b", "AGE"),
    (r"(\d+\.\d+\.\d+\.\d+):\d{5}\b", r"\1:PORT"),
)


def steps(page: Path) -> Iterator[tuple[str, list[int], list[str] | None]]:
    """Yield (command, permitted exit statuses, expected lines or None) in the order of the page."""
    for language, block in _BLOCK.findall((ROOT / page).read_text()):
        if language == "sh":
            for line in block.splitlines():
                if line.startswith("kubenetlab "):
                    command, _, comment = line.partition("  #")
                    status = re.search(r"exit status (\d)", comment)
                    yield command.strip(), [int(status[1]) if status else 0], None
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *printed = part.splitlines()
            yield command, [0, 1], printed


def pattern(lines: Sequence[str]) -> str:
    """Return a regular expression for the output that the page shows."""
    return "".join(r"(?:.*\n)*" if line.strip() == "…" else _line(line) for line in lines)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in _plain(line).rstrip().split("…")) + r"\n"


def _plain(text: str) -> str:
    for changing, word in _CHANGING:
        text = re.sub(changing, word, text)
    return text


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=str)
def test_the_commands_of_a_page_print_what_it_shows(page: Path) -> None:
    """Each command ends with the documented status and output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        line = [*prefix, "sh", "-c", command]
        return subprocess.run(
            line,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
        )

    with private_run_directory(str(ROOT)) as prefix:
        _follow(page, run)


@pytest.mark.parametrize(
    "page",
    [page for page in WITH_COMMANDS if page.parts[0] == "manifests" and page not in NEEDS_ROOT],
    ids=str,
)
def test_the_pages_of_labs_hold_for_an_ordinary_user(page: Path) -> None:
    """The user's run directory is empty at first, and the output is the same."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        try:
            _follow(page, lambda command: user.shell(command, ROOT), without=CHANGES_USER)
        finally:
            user.run("down", "--all")


def _follow(
    page: Path, run: Callable[[str], subprocess.CompletedProcess[str]], without: str | None = None
) -> None:
    """Run the commands of a page; leave out those that contain the text `without`."""
    for command, statuses, printed in steps(page):
        if without is not None and without in command:
            continue
        result = run(command)
        output = result.stdout + result.stderr
        assert result.returncode in statuses, f"{command} ended with {result.returncode}\n{output}"
        if printed is not None:
            printed_now = "".join(f"{line.rstrip()}\n" for line in _plain(output).splitlines())
            assert re.fullmatch(pattern(printed), printed_now), (
                f"$ {command}\n{output}\n--- but {page} shows\n" + "\n".join(printed)
            )


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_to_files_of_the_project_are_valid(page: Path) -> None:
    """Every relative link of a page refers to an existing file."""
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
