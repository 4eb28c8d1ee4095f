"""Names of series, learnt from the definitions that were read before: numbers alone say little to people."""

from __future__ import annotations

from typing import Any

from mstore.shm import layout

_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}
_DEPTH_MAX = 4


class Names:
    """Levels, metrics and series of one store, as far as their definitions have been seen."""

    def __init__(self) -> None:
        self._levels: dict[int, tuple[int, str]] = {0: (0, "")}
        self._metrics: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._series: dict[int, tuple[int, int, int]] = {}

    def learn(self, kind: int, fields: dict[str, Any]) -> None:
        """Take what a decoded record defines."""
        if kind == layout.REC_LEVEL:
            self.level(fields["id"], fields["parent"], fields["level_type"] + fields["level_id"])
        elif kind == layout.REC_METRIC:
            columns = fields["columns"].split(",") if fields["columns"] else [f":{fields['value_type']}"]
            types = tuple(_TYPES.get(column.partition(":")[2], 0) for column in columns)
            self._metrics[fields["index"]] = fields["name"], types
        elif kind in (layout.REC_SERIES, layout.REC_ERA):
            value_type = _TYPES.get(fields["value_type"], 0)
            self.series(fields["slot"], fields["generation"], fields["level"], fields["metric"], value_type)

    def level(self, number: int, parent: int, name: str) -> None:
        self._levels[number] = parent, name

    def series(self, slot: int, generation: int, level: int, metric: int, value_type: int) -> None:
        self._series[generation << 32 | slot] = level, metric, value_type

    def of_series(self, slot: int, generation: int) -> str:
        """CLUSTER/HOST[/...] METRIC; "" when its definition was not seen."""
        level, metric, _ = self._series.get(generation << 32 | slot, (0, -1, 0))
        name, _ = self._metrics.get(metric, ("", ()))
        path = self.of_level(level)
        return f"{path} {name}" if path and name else ""

    def of_level(self, number: int) -> str:
        """CLUSTER/HOST[/...]; "" for the root and for what is not known."""
        parts: list[str] = []
        while number and len(parts) < _DEPTH_MAX:
            parent, name = self._levels.get(number, (0, ""))
            if not name:
                return ""
            parts.append(name)
            number = parent
        return "/".join(reversed(parts))

    def types_of(self, slot: int, generation: int) -> tuple[int, ...]:
        """layout.TYPE_* of a stamped series' columns; empty when its definition was not seen."""
        _, metric, value_type = self._series.get(generation << 32 | slot, (0, -1, 0))
        if value_type:
            return (value_type,)
        return self._metrics.get(metric, ("", ()))[1]
