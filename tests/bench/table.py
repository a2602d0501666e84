"""The table that is printed, in Markdown, and how its figures are written."""

import statistics
from dataclasses import dataclass
from typing import Optional


@dataclass
class Row:
    """One thing that was measured. `met` is none where there is no target."""

    what: str
    measured: str
    reference: str = ""
    target: str = ""
    met: Optional[bool] = None
    notes: str = ""
    # What somebody else measured of somebody else's program, elsewhere.
    peer: str = ""


def table(rows):
    """The rows under their head. The column of the known peer is there where a row has it."""
    rows = list(rows)
    with_peer = any(row.peer for row in rows)
    cells = [("what", "measured", "target", "", "reference, same run", "known peer", "notes")]
    cells.append(("---",) * len(cells[0]))
    for row in rows:
        verdict = {None: "", True: "met", False: "**missed**"}[row.met]
        texts = (row.what, row.measured, row.target, verdict, row.reference, row.peer, row.notes)
        cells.append(tuple(text.replace("|", "\\|") for text in texts))
    if not with_peer:
        cells = [(*line[:5], *line[6:]) for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def megabytes(size):
    """Millions of bytes, as the targets count."""
    return f"{size / 1e6:.1f} MB"


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


def spread(seconds):
    """Median and worst."""
    return f"{milliseconds(statistics.median(seconds))}, worst {milliseconds(max(seconds))}"
