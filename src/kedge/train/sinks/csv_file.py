"""Figures as a table that any program can read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kedge.errors import InputError
from kedge.train.checkpoint import CheckpointError


class CsvFile:
    """`metrics.csv` in the run's folder: a row a reading, the step first. A figure that appears later gets a column of
    its own, which is empty in the rows before.
    """

    def __init__(self, name: str = "metrics.csv") -> None:
        self.name = name
        self.columns: list[str] = ["step"]
        self.path = Path(name)
        self._file: IO[str] | None = None

    def open(self, run: Path, step: int) -> None:
        """Keeps the whole rows up to `step`: a killed process may have written more, or half a row."""
        self.path = run / self.name
        rows = [row for row in self._rows() if row["step"].isdigit() and int(row["step"]) <= step]
        with self._writing():
            self._rewrite(rows)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Adds a row, and the columns that it is the first to need."""
        with self._writing():
            self._write(step, row)

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a row that found no room was an error before; closing tries it once more
                file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A run whose figures find no room ends: it goes on from its last checkpoint, and writes these rows again."""
        try:
            yield
        except OSError as error:
            self.close()
            with suppress(OSError):
                self._scratch.unlink()
            why = error.strerror or error
            raise CheckpointError(f"{self.path} could not be written ({why}); what was saved before is whole") from None

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        new = [name for name in row if name not in self.columns]
        if new:
            rows = list(self._rows())
            self.columns += new
            self._rewrite(rows)
        if self._file is None:
            raise ValueError(f"{self.name}: the sink is not open")
        cells = [str(step), *(_cell(row.get(name)) for name in self.columns[1:])]
        csv.writer(self._file).writerow(cells)
        self._file.flush()

    @property
    def _scratch(self) -> Path:
        return self.path.with_name(f".writing-{self.path.name}")

    def _rows(self) -> list[dict[str, str]]:
        """The whole rows of the file, if there is one; learns its columns."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            try:
                header, *rows = csv.reader(file)
            except (ValueError, csv.Error) as error:
                if self.path.stat().st_size == 0:
                    return []
                raise InputError(f"{self.path} cannot be read ({error}); remove it to go on without it") from None
        if not header or header[0] != "step":
            begins = repr(header[0]) if header else "nothing"
            raise InputError(f"{self.path} is not a table of figures by step (its header begins with {begins})")
        self.columns = header
        return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Replaces the file as a whole, so that a process killed meanwhile leaves the old one."""
        self.close()
        with self._scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([row.get(name, "") for name in self.columns] for row in rows)
        os.replace(self._scratch, self.path)
        self._file = self.path.open("a", newline="", encoding="utf-8")


def _cell(figure: Any) -> str:
    if figure is None:
        return ""
    return str(int(figure)) if float(figure).is_integer() and abs(figure) < 1e15 else repr(float(figure))
