"""What every room that writes files needs of the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kedge.errors import InputError


def to_disk(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, remedy: str = "") -> Any:
    """What a JSON file holds; one line, ending with the remedy, where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}){remedy}") from None
