"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """
    Return a table with aligned columns; an empty table says so.

    :param title: printed above the table
    :param header: column names
    :param rows: one sequence per row, as long as the header
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return f"{title}: none"
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(header), ["-" * width for width in widths], *cells]
    ]
    return "\n".join([title, *("  " + line for line in lines)])
