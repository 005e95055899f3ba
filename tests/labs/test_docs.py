"""What the documentation shows is what is seen: every command in it is run, every screen in it
compared.

`console` blocks hold commands after `$ ` and what they print; `sh` blocks hold commands alone. `…`
stands for any text, a line of only `…` for any lines; times, ages, ports of clients and white space
at the end do not count. A command in a `sh` block ends well unless the comment behind it says `exit
status N`. Each page begins where no lab is up, and others may be up elsewhere. The pages of the
labs are followed twice: by root, and by an ordinary user.
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
from tests.labs.elsewhere import elsewhere
from tests.labs.users import NOBODY
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
_BLOCK = re.compile(r"^```(console|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHANGING = (
    (r"\d+(\.\d+)? (ms|s)\b", "TIME"),
    (r"\b\d+s\b", "AGE"),
    (r"(\d+\.\d+\.\d+\.\d+):\d{5}\b", r"\1:PORT"),
)


def steps(page: Path) -> Iterator[tuple[str, list[int], list[str] | None]]:
    """(command, how it may end, the lines it prints or None) in the order of the page."""
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
    """A regular expression for what the page shows."""
    return "".join(r"(?:.*\n)*" if line.strip() == "…" else _line(line) for line in lines)


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in _plain(line).rstrip().split("…")) + r"\n"


def _plain(text: str) -> str:
    for changing, word in _CHANGING:
        text = re.sub(changing, word, text)
    return text


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=str)
def test_pages_show_what_is_seen(page: Path) -> None:
    """Each command of a page ends as the page says, and each screen is as it is printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        line = [*there, "sh", "-c", command]
        return subprocess.run(
            line,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(90),
        )

    with elsewhere(str(ROOT)) as there:
        _follow(page, run)


@pytest.mark.parametrize(
    "page", [page for page in WITH_COMMANDS if page.parts[0] == "manifests"], ids=str
)
def test_labs_pages_hold_without_root(page: Path) -> None:
    """An ordinary user sees the same on the pages of the labs, whose run directory is empty at
    first.
    """
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(
            "no Python that an ordinary user can run has the package's dependencies; apt-get install python3"
        )
    with users.user(NOBODY) as user:
        try:
            _follow(page, lambda command: user.shell(command, ROOT))
        finally:
            user.run("down", "--all")


def _follow(page: Path, run: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    for command, statuses, printed in steps(page):
        done = run(command)
        output = done.stdout + done.stderr
        assert done.returncode in statuses, f"{command} ended with {done.returncode}\n{output}"
        if printed is not None:
            seen = "".join(f"{line.rstrip()}\n" for line in _plain(output).splitlines())
            assert re.fullmatch(pattern(printed), seen), (
                f"$ {command}\n{output}\n--- but {page} shows\n" + "\n".join(printed)
            )


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of this project finds one."""
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
