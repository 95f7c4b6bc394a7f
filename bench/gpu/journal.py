"""The measurements of one section as a file that outlives the process writing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .measurement import Case, Measurement, Status, measurement_key


class Journal:
    """JSON lines: that a measurement begins, then its result.

    What began without a result is what took the process along. Every line is written out at once.
    """

    def __init__(self, path: Path, section: str) -> None:
        self.section = section
        self._path = path
        self._measurements: dict[str, Measurement] = {}
        self._begun: tuple[str, Case] | None = None
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)

    @property
    def measurements(self) -> list[Measurement]:
        return list(self._measurements.values())

    def find(self, arm: str, case: Case) -> Measurement | None:
        """The result of an earlier process, or of this one."""
        return self._measurements.get(measurement_key(arm, case))

    def crashes(self, arm: str) -> int:
        """How often an arm took the process along."""
        return sum(m.arm == arm and m.status == "crashed" for m in self.measurements)

    def begin(self, arm: str, case: Case) -> None:
        self._write({"begin": {"arm": arm, "case": case}})

    def record(self, measurement: Measurement) -> Measurement:
        self._write({"result": measurement.as_dict()})
        return measurement

    def close(self, note: str, status: Status = "crashed") -> bool:
        """Give what was begun and never ended a result; whether there was something."""
        if self._begun is None:
            return False
        arm, case = self._begun
        self.record(Measurement(self.section, arm, case, status, note=note))
        return True

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the last process may have died in the middle of a line
        self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if "begin" in entry:
            self._begun = entry["begin"]["arm"], entry["begin"]["case"]
        else:
            measurement = Measurement.from_dict(entry["result"])
            self._measurements[measurement.key] = measurement
            self._begun = None
