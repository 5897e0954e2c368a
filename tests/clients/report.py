"""The table of docs/CLIENTS.md."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.clients import CLIENTS
from tests.clients.matrix import Found

if TYPE_CHECKING:
    from tests.clients.__main__ import Matrix

BEGIN, END = "<!-- begin: written by make test-clients -->", "<!-- end -->"


def tell(matrix: "Matrix") -> str:
    """Return the tables, as Markdown."""
    views = matrix.views
    total = len(matrix.stored)
    lines = [
        f"| reader | version | {' | '.join(views)} |",
        f"|---|---|{'---|' * len(views)}",
        f"| arrays shown, of {total} | | {' | '.join(str(len(matrix.shown[v])) for v in views)} |",
    ]
    bugs: dict[str, set[str]] = {}
    for client in CLIENTS:
        if client.name not in matrix.versions:
            continue
        cells = []
        for view in views:
            if (client.name, view) not in matrix.results:
                cells.append("-")
                continue
            counts: Counter[str] = Counter()
            for path in matrix.shown[view]:
                foreseen = matrix.foreseen(client.name, view, path)
                found = matrix.found(client.name, view, path).found
                if foreseen.bug:
                    counts["bug"] += 1
                    bugs.setdefault(client.title, set()).add(foreseen.bug)
                else:
                    counts[found] += 1
            cells.append(_cell(counts))
        lines.append(f"| {client.title} | {matrix.versions[client.name]} | {' | '.join(cells)} |")
    lines += ["", "Readers' own bugs that these arrays meet:", ""]
    for title in sorted(bugs):
        lines += [f"* {title}: {bug}." for bug in sorted(bugs[title])]
    return "\n".join(lines)


def _cell(counts: Counter[str]) -> str:
    """Say how many arrays were read right, refused, and met a bug of the reader."""
    text = f"**{counts[Found.RIGHT]}**"
    refused = counts[Found.ERROR]
    text += f" + {refused} refused" if refused else ""
    text += f" + {counts['bug']} own bug" if counts["bug"] else ""
    others = counts[Found.WRONG] + counts[Found.CRASH]
    return text + (f" + {others} WRONG" if others else "")


def write(file: Path, text: str) -> None:
    """Put the tables between the markers of *file*."""
    whole = file.read_text()
    head, _, rest = whole.partition(BEGIN)
    _, _, tail = rest.partition(END)
    file.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")
