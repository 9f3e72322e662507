"""Every file of a source: read for some sample, or left out for a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from unclip.data.keys import printable

FEW = 5  # names that are kept of each reason


@dataclass
class LeftOut:
    """Files that are left out for one reason."""

    count: int = 0
    names: list[str] = field(default_factory=list)  # the first few


@dataclass
class Inventory:
    """The files of a folder or the members of a tar: ``read`` ones and those left out, by reason.

    A file is read if it holds a sample, or a part of one: even if that turns out to be damaged.
    """

    read: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many files there are."""
        return self.read + sum(each.count for each in self.left_out.values())

    def leave_out(self, name: str, reason: str) -> None:
        """Count a file that is not read."""
        each = self.left_out.setdefault(reason, LeftOut())
        each.count += 1
        if len(each.names) < FEW:
            each.names.append(printable(name))

    def add(self, other: Inventory) -> None:
        """Count the files of another part of the source too."""
        self.read += other.read
        for reason, more in other.left_out.items():
            each = self.left_out.setdefault(reason, LeftOut())
            each.count += more.count
            each.names = [*each.names, *more.names][:FEW]

    def reasons(self) -> str:
        """What is left out, on one line; empty if nothing is.

        >>> Inventory(3, {"hidden": LeftOut(6, [".a", ".b"])}).reasons()
        '6 x hidden (.a, .b, ...)'
        """
        return "; ".join(
            f"{each.count:,} x {reason} ({', '.join(each.names)}"
            f"{', ...' if each.count > len(each.names) else ''})"
            for reason, each in sorted(self.left_out.items(), key=lambda item: -item[1].count)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, the most frequent reason first."""
        reasons = sorted(self.left_out.items(), key=lambda item: -item[1].count)
        return {
            "total": self.total,
            "read": self.read,
            "left_out": [
                {"reason": reason, "count": each.count, "names": each.names}
                for reason, each in reasons
            ],
        }

    @classmethod
    def of_dict(cls, content: dict[str, Any]) -> Inventory:
        """The inventory of which ``content`` is the `as_dict`."""
        left_out = {
            str(each["reason"]): LeftOut(int(each["count"]), [str(name) for name in each["names"]])
            for each in content["left_out"]
        }
        return cls(int(content["read"]), left_out)


@runtime_checkable
class CountsFiles(Protocol):
    """A source that knows which files it is made of."""

    def inventory(self) -> Inventory | None:
        """See `inventory_of`."""
        ...


def inventory_of(source: object) -> Inventory | None:
    """Every file that lies in a source; None where there are none, or they cannot be listed."""
    return source.inventory() if isinstance(source, CountsFiles) else None
