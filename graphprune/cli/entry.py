"""From the process to a command and back: every failure becomes one line on stderr and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from graphprune.errors import GraphPruneError, PassError, VerificationError

from . import signals
from .commands import app

OK, FAILED_VERIFICATION, BAD_INPUT, BUG = 0, 1, 2, 3

#: Characters of an error that are shown.
_LONGEST = 1000
_BUG = "this is a bug, GRAPHPRUNE_DEBUG=1 shows where"


def main() -> None:
    """Run the command line of this process and leave with its exit code."""
    sys.path.append(str(Path.cwd()))  # where package.module:factory is looked for, after everything installed
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        with _hushed():
            _invoke(list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `graphprune ... | head` is no failure
        _drop_stdout()
    except BaseException as error:
        return _report(error)
    return OK


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the libraries' chatter, which would bury the one line that says what is wrong."""
    if _debug():
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _invoke(arguments: list[str]) -> None:
    """Parse and run, without click's own error handling (it spends exit code 1, which here means a failed proof)."""
    command = typer.main.get_command(app)
    with command.make_context("graphprune", arguments) as context:
        command.invoke(context)


def _report(error: BaseException) -> int:
    """Say what went wrong, and which exit code that is."""
    if isinstance(error, SystemExit | typer.Exit):
        return _quiet(error)
    if hasattr(error, "format_message"):  # click's usage errors, whose class typer has moved between versions
        return _usage(error)
    return _fail(*_explain(error))


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt | typer.Abort) or signals.interrupted():
        return "interrupted", signals.INTERRUPTED
    if isinstance(error, VerificationError):
        return str(error), FAILED_VERIFICATION
    if isinstance(error, PassError):
        return f"{error}; {_BUG}", BUG
    if isinstance(error, GraphPruneError):
        return str(error), BAD_INPUT
    return _explain_others(error)


def _explain_others(error: BaseException) -> tuple[str, int]:
    """What Python raises on broken files and full disks; anything else is a bug."""
    if isinstance(error, MemoryError):
        return f"the model asks for more memory than there is: {error}", BAD_INPUT
    if isinstance(error, UnicodeDecodeError):
        return f"the model holds text that is not UTF-8: {error}", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ('{error.filename}')" if error.filename else ""), BAD_INPUT
    return f"{type(error).__name__}: {error}; {_BUG}", BUG


def _quiet(error: SystemExit | typer.Exit) -> int:
    """Exits that have said what they had to say."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error.__context__, BrokenPipeError):  # rich's own way to leave
        return OK
    return error.code if isinstance(error.code, int) else BAD_INPUT


def _usage(error: BaseException) -> int:
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return BAD_INPUT
    command = context.command_path if context is not None else "graphprune"
    return _fail(f"{message.rstrip('.')}; see {command} --help", BAD_INPUT)


def _fail(message: str, code: int) -> int:
    if _debug():
        traceback.print_exc()
    print("graphprune: error:", shortened(" ".join(message.split())), file=sys.stderr)
    return code


def shortened(sentence: str) -> str:
    """A sentence that fits a screen and prints: names from files may be of any length and hold anything."""
    plain = "".join(letter if letter.isprintable() else "\ufffd" for letter in sentence)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 200]} [...] {plain[-180:]}"


def _debug() -> bool:
    return os.environ.get("GRAPHPRUNE_DEBUG", "") not in ("", "0")


def _drop_stdout() -> None:
    """The reader has gone: send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
