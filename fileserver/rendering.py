"""What all rendered documents have in common. Pure.

Long ones come as generators of slices, so that the connection can let others run in between: rendering 65,536
entries at once would hold the loop for a tenth of a second.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SLICE = 500
"""Lines rendered between two chances for others: about a millisecond."""


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1024: `17 B`, `1.5 KiB`, `64 MiB`."""
    if size < 1024:
        return f"{size} B"
    amount, unit = float(size), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):  # noqa: B007
        amount /= 1024
        if amount < 999.5:
            break
    return f"{amount:.3g} {unit}"


def slices(items: list[Item]) -> Iterator[list[Item]]:
    """The items, SLICE at a time."""
    return (items[start : start + SLICE] for start in range(0, len(items), SLICE))


def lines_json(items: list[Item], line: Callable[[Item], str]) -> Iterator[bytes]:
    """The inside of a JSON list, a line for each item."""
    separator = ""
    for some in slices(items):
        yield (separator + ",\n".join(map(line, some))).encode()
        separator = ",\n"
