"""The value axis of a plot: round numbers from below the smallest to above the largest value, and their labels.

    12.5 M ┤      1.5e-300 ┤      1800000000 +
    10.0 M ┤      1.0e-300 ┤            0.50 ┤
     7.5 M ┤      0.5e-300 ┤            0.25 ┤
     5.0 M ┤             0 ┤               0 ┤

All ticks have the same unit and the same number of decimals. When it would take too many digits to tell them
apart, they are told from the lowest one on, which stands above the axis. Ticks are decimals, so that a label says
exactly where its line is; values are brought to a size of 1 to 10 first, so that 1e308 and 1e-320 can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

DIGITS_MAX = 7
"""Labels with more significant digits are told from a base."""
FLAT = 1e-12
"""Values closer than this share of their size are drawn as one: they differ in rounding at most."""
_LETTERS = {6: "M", 9: "G", 12: "T", 3: "k"}
_FACTORS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))


@dataclass(frozen=True, slots=True)
class Axis:
    """Where values stand between the lowest and the highest tick, and what is written beside the ticks."""

    exponent: int
    """Values are divided by ten to this power before anything is calculated."""
    low: float
    high: float
    """The lowest and the highest tick, divided as well."""
    ticks: tuple[tuple[float, str], ...]
    """(share, label) from the lowest to the highest; a share is 0 at the lowest and 1 at the highest tick."""
    base: str
    """What must be added to every label; "" = nothing."""

    @property
    def width(self) -> int:
        """Characters of the longest label."""
        return max(len(text) for _, text in self.ticks)

    def shares(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[n], 0 to 1; NaN for what is not finite."""
        finite = np.where(np.isfinite(values), values, np.nan)
        shares = (_divided(finite, self.exponent) - self.low) / (self.high - self.low)
        return np.clip(shares, 0.0, 1.0)


def axis(low: float, high: float, n_steps: int) -> Axis:
    """The axis for finite values from low to high, with about n_steps steps.

    It begins at zero unless that would flatten the line.
    """
    peak = max(abs(low), abs(high))
    exponent = _exponent(peak) if peak else 0
    bottom, top = _divided(np.array([low, high]), exponent).tolist()
    if top - bottom <= FLAT * max(abs(bottom), abs(top)):
        room = abs(top) / 10 or 1.0
        bottom, top = (bottom - room, top + room) if peak else (0.0, room)
    elif bottom >= 0 and bottom < 0.6 * top:
        bottom = 0.0
    elif top <= 0 and top > 0.6 * bottom:
        top = 0.0
    step = _step((top - bottom) / n_steps)
    first = math.floor(bottom / float(step) + 1e-9)
    last = math.ceil(top / float(step) - 1e-9)
    ticks = [(step * number).scaleb(exponent) for number in range(first, last + 1)]
    base, labels = _labels(ticks)
    shares = [number / (last - first) for number in range(last - first + 1)]
    return Axis(
        exponent,
        float(step * first),
        float(step * last),
        tuple(zip(shares, labels, strict=True)),
        base,
    )


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def _divided(values: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """values / 10**exponent, also where that power is no float."""
    if exponent < -300:
        return values * 1e300 / 10.0 ** (exponent + 300)
    return values / 10.0**exponent


def _step(rough: float) -> Decimal:
    """The round number next above a distance."""
    power = Decimal(1).scaleb(_exponent(rough))
    return next(factor * power for factor in _FACTORS if float(factor * power) >= rough * 0.999)


def _labels(ticks: Sequence[Decimal]) -> tuple[str, list[str]]:
    """(base, a text for every tick)."""
    if _last_digit(ticks) is not None and _first_digit(ticks) - _last_digit(ticks) >= DIGITS_MAX:
        return _plain(ticks[0]), _texts([tick - ticks[0] for tick in ticks])
    return "", _texts(ticks)


def _first_digit(ticks: Sequence[Decimal]) -> int:
    return max(tick.adjusted() for tick in ticks if tick)


def _last_digit(ticks: Sequence[Decimal]) -> int:
    """Exponent of the last digit that any tick needs."""
    return min(int(tick.normalize().as_tuple().exponent) for tick in ticks if tick)


def _texts(ticks: Sequence[Decimal]) -> list[str]:
    """Labels of one unit and one number of decimals; zero is "0"."""
    first, last = _first_digit(ticks), _last_digit(ticks)
    n_digits = first - last + 1
    if (-4 <= first < 5 and last >= -7) or (5 <= first < 9 and n_digits > 4):
        unit, suffix = 0, ""
    elif 5 <= first < 15:
        unit = first // 3 * 3
        suffix = f" {_LETTERS[unit]}"
    else:
        unit, suffix = first, f"e{first}"
    decimals = max(0, unit - last)
    return [f"{tick.scaleb(-unit):.{decimals}f}{suffix}" if tick else "0" for tick in ticks]


def _plain(tick: Decimal) -> str:
    """All digits of a tick, as a number or with an exponent, whichever is shorter to read."""
    tick = tick.normalize()
    return f"{tick:f}" if -6 <= tick.adjusted() < 16 else f"{tick:e}"
