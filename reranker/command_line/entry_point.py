"""What wraps a command's `main`: any failure gives one sentence, a way to go on, and a trace in a file."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import functools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from reranker.command_line.printable_text import say
from reranker.command_line.redaction import masked
from reranker.errors import RerankerError, close_to
from reranker.storage.atomic_files import FULL_DISK
from reranker.storage.user_paths import user_path

STOPPED = 130  # by Ctrl-C
_PIPE_CLOSED = 141  # a shell's exit code after the reader closed the pipe
_NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "not enough memory", "out of memory")
_NO_SPACE = ("no space left", "disk is full", "os error 28")


class ParserFound(BaseException):
    """Carries a command's parser to `parser_of`."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """Takes no abbreviated options; errors are one sentence without secrets. Every command has `--debug`."""

    def __init__(self, **options: Any) -> None:
        if sys.argv[0].startswith("reranker-tuner "):
            options["prog"] = sys.argv[0]
        super().__init__(**{**options, "allow_abbrev": False})
        self.add_argument("--debug", action="store_true", help="show stack traces")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as usual, but refuse NUL characters."""
        if _place.only_parser:
            raise ParserFound(self)
        words = sys.argv[1:] if args is None else list(args)
        if any("\0" in word for word in words):
            self.error("an argument must not have a NUL character in it")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one sentence without secrets, and exit with code 2."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        if unknown:
            option = words.split()[0].partition("=")[0]
            known = option in self._option_string_actions  # then it stands behind an act of control's
            meant = (
                f"{option} stands before STUDY and what to do"
                if known
                else close_to(option, self._option_string_actions)
            )
            message = f"{message}; {meant}" if meant else message
        say(f"error: {masked(message)}; {self.prog} --help lists what there is", error=True)
        sys.exit(2)


@dataclass
class _Place:
    """Where this process's command writes traces, and how to go on after a fault; whether only its parser is asked."""

    log: Path | None = None
    go_on: str = ""
    only_parser: bool = False


_place = _Place()


def working_on(log: Path, go_on: str = "") -> None:
    """From now on, write traces to `log`, and name `go_on` as the command that goes on after a fault."""
    _place.log, _place.go_on = log, go_on


class _Main(Protocol):
    def __call__(self, argv: list[str] | None = None) -> int: ...


def last_net(main: _Main) -> _Main:
    """Decorate a command's `main`, which takes arguments and returns an exit code: exceptions become exit codes too."""

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        words = sys.argv[1:] if argv is None else argv
        _place.log, _place.go_on = None, ""
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            _let_go_of_stdout()
            return _PIPE_CLOSED
        except KeyboardInterrupt:
            say("stopped" + (f"; to go on: {_place.go_on}" if _place.go_on else ""), error=True)
            return STOPPED
        except Exception as error:  # noqa: BLE001, it is reported in full
            return _told(error, debug="--debug" in words)

    return guarded


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command as all that this process is for.

    Once everything is closed and flushed the process ends, without the seconds that Python would take to free, object by
    object, what torch and Ray have built.
    """
    codes: list[int] = []

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        if codes:
            os._exit(codes[0])

    atexit.register(end)  # before all others, so that it is called after them
    codes.append(main())
    sys.exit(codes[0])


def parser_of(main: _Main) -> Parser:
    """A command's parser, from a call of the command that ends where it would parse."""
    _place.only_parser = True
    try:
        main([])
    except ParserFound as built:
        return built.parser
    finally:
        _place.only_parser = False
    raise TypeError(f"{main.__module__} parses nothing")


def cause_of(error: BaseException) -> tuple[str, int]:
    """What went wrong in one sentence, and the exit code: 2 if the user can fix it, else 1."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, RerankerError):
            return masked(str(link)), link.exit_code
    for link in chain:
        text, code = str(link).lower(), getattr(link, "errno", None)
        if code in FULL_DISK or any(sign in text for sign in _NO_SPACE):
            where = f" where {link.filename} is" if isinstance(link, OSError) and link.filename else ""
            return f"no space is left on the disk{where}; what was written before is intact", 1
        if code == errno.ENOMEM or isinstance(link, MemoryError) or any(sign in text for sign in _NO_MEMORY):
            return "this machine has no memory left", 1
    link = next((link for link in chain if _wrapped(link) is None), chain[-1])  # causes may go in a circle
    if isinstance(link, ModuleNotFoundError) and link.name:
        return f"the package {link.name.partition('.')[0]} is missing from this environment: install it with pip", 2
    if isinstance(link, OSError) and link.filename and link.strerror:
        return masked(f"{link.filename}: {link.strerror}"), 1
    first = next(iter(str(link).strip().splitlines()), "")
    return masked(f"an unexpected error, {type(link).__name__}" + (f": {first}" if first else "")), 1


def write_trace(error: BaseException, log: Path | None) -> Path | None:
    """Append an error's trace to the log, or to a new temporary file if there is no log or it is not writable."""
    trace = masked("".join(traceback.format_exception(error)))
    entry = f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {trace}"
    for _ in range(2):
        try:
            if log is None:
                handle, name = tempfile.mkstemp(prefix="reranker-", suffix=".log")
                os.close(handle)
                log = Path(name)
            with log.open("a", encoding="utf-8", errors="replace") as file:
                file.write(entry)
            return log
        except OSError:
            log = None
    return None


def _told(error: Exception, *, debug: bool) -> int:
    sentence, code = cause_of(error)
    _drop_unwritable_stdout()
    if debug:
        say(masked("".join(traceback.format_exception(error))), error=True)
    lines = [f"error: {sentence}"]
    if _place.go_on:
        lines.append(f"to go on: {_place.go_on}")
    is_worth_a_trace = code == 1 or _place.go_on or (_place.log and error.__cause__ is not None)
    if is_worth_a_trace and not debug and (log := write_trace(error, _place.log)):
        lines.append(f"the whole trace: {log}")
    say("\n".join(lines), error=True)
    return code


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, and so on; also through Ray's wrapper around a worker's error."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = _wrapped(link) or (None if link.__suppress_context__ else link.__context__)


def _wrapped(error: BaseException) -> BaseException | None:
    """What the error says that it comes from, other than what was being handled when it was raised."""
    wrapped = error.__cause__ or getattr(error, "cause", None)
    return wrapped if isinstance(wrapped, BaseException) else None


def _drop_unwritable_stdout() -> None:
    """Detach stdout if it cannot be flushed, or Python complains again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def at_least_one(text: str) -> int:
    """A parser type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def whole_number(text: str) -> int:
    """A parser type: a whole number, perhaps below zero."""
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def a_port(text: str) -> int:
    """A parser type: a port's number."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, not {text!r}")
    return int(text)


def a_web_address(text: str) -> str:
    """A parser type: an address of HTTP. It may be a secret, so no fault repeats it."""
    if not is_address(text, ("http", "https")):
        raise argparse.ArgumentTypeError("must be an address with http:// or https://")
    return text


def is_address(text: str, schemes: Sequence[str]) -> bool:
    """Whether it is an address with a host, and a number as its port if it has one."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and not any(c.isspace() or ord(c) < 32 for c in text)


def not_empty(text: str) -> str:
    """A parser type: a name or a path."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def a_path(text: str) -> Path:
    """A parser type: a path, whether it exists or not."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
