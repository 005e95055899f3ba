"""Entry point of the command line: turns every failure into a message and an exit status.

A traceback is printed only with `--debug`.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_STANDARD_ERROR = 2
_SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/sbin")
"""Directories of nft, ip, iptables, ipset and sysctl, which Debian omits from a user's PATH."""
_GC_THRESHOLDS: Final = (200_000, 20, 20)
"""Thresholds of Python's garbage collector: imports and a short command stay below the first.

A collection of all that was imported takes 14 ms, and finds nothing.
"""


Report = Callable[[Exception, bool], None]
"""Function that reports an error; the second argument is True with `--debug`."""


def main(report: Report | None = None) -> None:
    """Run the command `kubenetlab` and exit.

    report: function that reports an error; without it, errors are printed to standard error.
    """
    report = report or _report
    gc.set_threshold(*_GC_THRESHOLDS)
    _open_standard_descriptors()
    # A caller that ignores SIGCHLD would keep this process from waiting for its children.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # For this process, the lab, and programs that run in the lab.
    os.environ["PATH"] = with_system_directories(os.environ.get("PATH", ""))
    arguments = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    is_debug = "--debug" in arguments
    if is_debug:
        sys.argv.remove("--debug")
        os.environ["KUBENETLAB_DEBUG"] = "1"
    # Python sets a standard stream to None if its descriptor was closed at startup.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    status = _run(is_debug, report)
    try:
        sys.stdout.flush()
    except OSError as error:
        report(_output_error(error), is_debug)
        status = 1
    sys.stderr.flush()
    # An orderly shutdown of the interpreter would take longer than building six pods.
    os._exit(status)


def _run(is_debug: bool, report: Report) -> int:
    """Run the command that `sys.argv` names, report its failure and return the exit status."""
    from kubenetlab.errors import KubenetlabError

    try:
        from kubenetlab.cli.app import root

        root()(prog_name="kubenetlab", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KubenetlabError as error:
        report(error, is_debug)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of the output has closed it
        return 0
    except Exception as error:
        if is_debug:
            raise
        report(_described(error), is_debug)
        return 1
    return 0


def with_system_directories(path: str) -> str:
    """Append /usr/sbin and /sbin to a search path; an empty one is replaced by the default."""
    directories = (path or os.defpath).split(":")
    missing = [name for name in _SYSTEM_DIRECTORIES if name not in directories]
    return ":".join([*directories, *missing])


def _open_standard_descriptors() -> None:
    """Open standard descriptors that the caller closed on /dev/null.

    Otherwise the next file or socket would become a standard descriptor.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _described(error: Exception) -> Exception:
    """Return the error to report for an exception that no command handles."""
    from kubenetlab.errors import BugError, LabError

    if _is_out_of_memory(error):
        return LabError(f"not enough memory for this command{_memory_limit()}")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return _output_error(error)
    return BugError(f"{type(error).__name__}: {error}")


def _output_error(error: OSError) -> Exception:
    from kubenetlab.errors import LabError

    return LabError(f"cannot write the output: {error.strerror}")


def _is_out_of_memory(error: Exception) -> bool:
    """Return True if memory was missing: for data, for a library's code or for a thread's stack."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "start new thread" in text
        or (isinstance(error, ImportError) and "failed to map" in text)
    )


def _memory_limit() -> str:
    """Return the limit of this process's address space as the end of a message, if there is one."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return ""
    return (
        f": the shell limits each process to {soft >> 20} MB (ulimit -v); "
        "to remove the limit: ulimit -v unlimited"
    )


def _report(error: Exception, is_debug: bool) -> None:
    """Print an error to standard error, with a traceback if `is_debug`."""
    if is_debug:
        import traceback

        traceback.print_exception(error)
    try:
        from kubenetlab.cli.terminal.reports import print_error

        print_error(error)
    except (ImportError, MemoryError):  # too little memory to import what lays the report out
        from kubenetlab.errors import escape_control_characters

        print(f"error: {escape_control_characters(str(error))}", file=sys.stderr)
