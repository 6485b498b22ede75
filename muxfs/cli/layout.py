"""Tables, bars and colours for what is printed on stdout; trio-free."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TextIO

import attrs

_COLOURS: Final = {"green": 32, "yellow": 33, "red": 31, "bold": 1, "dim": 2}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = " .:-=+*%#"


@attrs.frozen
class Paper:
    """What a stream can show."""

    coloured: bool = False
    """Only a terminal is, and not if its user says NO_COLOR (no-color.org)."""
    blocks: bool = False
    """Whether it has block characters; else ASCII does."""

    @classmethod
    def of(cls, stream: TextIO = sys.stdout, environ: Mapping[str, str] = os.environ) -> Paper:
        """Find out about a stream."""
        try:
            _BLOCKS.encode(stream.encoding or "ascii")
            blocks = True
        except (UnicodeEncodeError, LookupError):
            blocks = False
        plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
        return cls(stream.isatty() and not plain, blocks)

    def paint(self, text: str, colour: str) -> str:
        """Colour a text."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.coloured else text

    def spark(self, counts: Sequence[int]) -> str:
        """Draw counts as one character each, the largest one full; any above zero is seen."""
        steps = _BLOCKS if self.blocks else _ASCII
        most = max(counts, default=0)
        return "".join(steps[-(-count * 8 // most)] if most else steps[0] for count in counts)

    def bar(self, count: int, most: int, width: int) -> str:
        """Draw a bar of at most `width` characters; any count above zero is seen."""
        length = -(-count * width // most) if most else 0
        return ("█" if self.blocks else "#") * length


def columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> Iterator[str]:
    """Align rows; the columns `right` at their right edge. A row of fewer cells ends freely."""
    full = max((len(row) for row in rows), default=0)
    widths = [
        max((len(row[index]) for row in rows if len(row) == full), default=0)
        for index in range(full)
    ]
    # the first column is that of all rows
    widths[:1] = [max(len(row[0]) for row in rows)] if rows else []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right and len(row) == full else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join(cells).rstrip()
