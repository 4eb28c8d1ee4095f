from typing import Any

from numpy.typing import NDArray

def scan(values: NDArray[Any]) -> tuple[int, int, int, int | float, int | float, int | float]: ...
