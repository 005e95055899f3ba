"""The command line. `main` turns every failure into a message and an exit status; only `--debug` shows a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Final

_STANDARD_ERROR = 2
_SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/sbin")
"""Directories of nft, ip, iptables, ipset and sysctl, which Debian leaves out of an ordinary user's PATH."""


def main() -> None:
    """The entry point of the command `kubenetlab`."""
    _open_standard_descriptors()
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # a caller that ignores it would keep us from waiting for children
    os.environ["PATH"] = with_system_directories(
        os.environ.get("PATH", "")
    )  # for this process, the lab and programs run in it
    ours = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    is_debug = "--debug" in ours
    if is_debug:
        sys.argv.remove("--debug")
        os.environ["KUBENETLAB_DEBUG"] = "1"
    from kubenetlab.errors import BugError, KubenetlabError, LabError

    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 (Python has None for a descriptor that was closed at its start)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    status = 0
    try:
        from kubenetlab.cli.app import app
        from kubenetlab.cli.input.completion import enable_completion, is_completing

        if is_completing():
            enable_completion()
        app(prog_name="kubenetlab", standalone_mode=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KubenetlabError as error:
        _complain(error, is_debug)
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has had enough
        status = 0
    except Exception as error:
        if is_debug:
            raise
        if _is_out_of_memory(error):
            error = LabError(f"there is not enough memory for this command{_address_space()}")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            error = LabError(f"cannot write what was found: {error.strerror}")
        _complain(
            error if isinstance(error, LabError) else BugError(f"{type(error).__name__}: {error}"),
            is_debug,
        )
        status = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        _complain(LabError(f"cannot write what was found: {error.strerror}"), is_debug)
        status = 1
    sys.stderr.flush()
    os._exit(
        status
    )  # to take the interpreter down in order would take longer than to build six pods


def with_system_directories(path: str) -> str:
    """Return a search path with /usr/sbin and /sbin behind its own directories; the default path where it is empty."""
    directories = (path or os.defpath).split(":")
    return ":".join([*directories, *(one for one in _SYSTEM_DIRECTORIES if one not in directories)])


def _open_standard_descriptors() -> None:
    """Open the standard descriptors that the caller has closed on /dev/null: the next file or socket would become one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _is_out_of_memory(error: Exception) -> bool:
    """Return True where memory could not be had: as such, for a library's code, or for a thread's stack."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "start new thread" in text
        or (isinstance(error, ImportError) and "failed to map" in text)
    )


def _address_space() -> str:
    """Return what limits this process's memory, as a part of a message."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return (
        ""
        if soft == resource.RLIM_INFINITY
        else f": this shell allows each process {soft >> 20} MB (ulimit -v); ulimit -v unlimited"
    )


def _complain(error: Exception, is_debug: bool) -> None:
    if is_debug:
        import traceback

        traceback.print_exception(error)
    from kubenetlab.errors import printable

    has_colours = (
        sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
    red, plain = ("\x1b[31m", "\x1b[0m") if has_colours else ("", "")
    text = printable(str(error))
    print(
        f"{red}error:{plain} {text}" if "\n" not in text else f"{red}error:{plain}\n{text}",
        file=sys.stderr,
    )
