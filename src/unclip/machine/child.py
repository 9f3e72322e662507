"""The process of a check: `python -m unclip.machine.child CHECK FILE DEVICE SMALL FOLDER ITEM...`.

It appends lines of JSON to FILE: that an item begins, and what it found or why it failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from unclip.machine.check import Machine, Unavailable
from unclip.machine.registry import CHECKS


def main() -> int:
    """Measure the items until one fails."""
    name, file, device, small, folder, *items = sys.argv[1:]
    check = next(check for check in CHECKS if check.name == name)
    machine = Machine(device, small == "small", Path(folder))
    for item in items:
        _append(Path(file), {"item": item})
        try:
            rows = check.measure(item, machine)
        except Unavailable as reason:
            _append(Path(file), {"item": item, "skipped": str(reason)})
            continue
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            _append(Path(file), {"item": item, "error": f"{type(error).__name__}: {lines[0]}"})
            return 1
        _append(Path(file), {"item": item, "rows": rows})
    return 0


def _append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
