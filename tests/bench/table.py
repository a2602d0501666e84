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

    def line(self):
        verdict = {None: "", True: "met", False: "**missed**"}[self.met]
        cells = (self.what, self.measured, self.target, verdict, self.reference, self.notes)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


HEAD = "| what | measured | target | | reference, same run | notes |\n|---|---|---|---|---|---|"


def megabytes(size):
    """Millions of bytes, as the targets count."""
    return f"{size / 1e6:.1f} MB"


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


def spread(seconds):
    """Median and worst."""
    return f"{milliseconds(statistics.median(seconds))}, worst {milliseconds(max(seconds))}"
