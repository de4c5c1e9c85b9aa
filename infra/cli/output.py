"""How commands speak: text for people on stdout, progress on stderr, one JSON object where a script asks for it."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from infra.plumbing.files import write_atomically


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`, the same for every command."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        default=None,
        help="write one JSON object to FILE; - writes it to stdout, without text",
    )


def emit(arguments: argparse.Namespace, result: Any, text: str) -> None:
    """Say what a command found: `text` for people, `result` as JSON where `--json` names a place."""
    target: str | None = getattr(arguments, "json", None)
    if target is not None:
        body = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
        if target == "-":
            sys.stdout.write(body.decode())
            return
        write_atomically(Path(target), body)
    if text:
        print(text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns; the keys of the first row are the header."""
    if not rows:
        return "(none)"
    header = list(rows[0])
    cells = [header, *([_cell(row.get(key)) for key in header] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class TerminalProgress:
    """A bar on stderr for people; a line per finished part where stderr is not a terminal."""

    def __init__(self) -> None:
        # Asked once: a running bar puts a stream of its own in place of stderr.
        self._terminal = sys.stderr.isatty()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def advance(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of `what` are finished."""
        if not self._terminal:
            if done >= total > 0 and what not in self._tasks:
                self._tasks[what] = None
                sys.stderr.write(f"  {what}: done\n")
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar().add_task(what, total=total)
        self._bar().update(self._tasks[what], completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _bar(self) -> Any:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
        return self._progress


@contextmanager
def progress_bar() -> Iterator[TerminalProgress]:
    """A `TerminalProgress` that goes away at the end of the block."""
    bar = TerminalProgress()
    try:
        yield bar
    finally:
        bar.close()
