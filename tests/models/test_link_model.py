"""The link word: a reader copies a chunk while the writer replaces it and gives it to another series.

    reader    load link -> copy the values -> fence -> load link again: unchanged = all values are its
    writer    contents -> (release) link -> (release fence) only then overwrite the chunk that was replaced
    stamp     a link word made anew never equals an older one, even of the same chunk

Two chunks of two values. A value is the name of the series and chunk number that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.models.weakmemory import FENCE, RELAXED, RELEASE, Broken, Explored, Step, explore

LINK, CHUNKS = 0, (1, 3)  # address of the link word; first of the two values of each chunk
OURS, OTHER = "ours", "another series"

# What the writer does, one entry a store: (label, address, value).
Store = tuple[str, int, Any]


def fill(chunk: int, whose: str) -> list[Store]:
    return [(f"write {whose} to chunk {chunk}", CHUNKS[chunk] + place, whose) for place in range(2)]


def history(stamps: bool) -> list[Store]:
    """Promote from chunk 0 to 1, give 0 to another series, then promote back to 0 and give 1 away."""
    link = [(chunk, stamp if stamps else 0) for chunk, stamp in ((1, 2), (0, 3))]
    return [
        *fill(1, OURS), ("link 1", LINK, link[0]),
        *fill(0, OTHER), *fill(0, OURS), ("link 0", LINK, link[1]),
        *fill(1, OTHER), ("unlink", LINK, None),
        *fill(0, OTHER),
    ]  # fmt: skip


def writer(stores: list[Store], publish: str, fence: bool) -> Callable[..., Iterator[Step]]:
    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Any) -> Iterator[Step]:
        if pc < len(stores):
            label, address, value = stores[pc]
            made: tuple[Any, ...] = ((address, value, publish if address == LINK else RELAXED),)
            if address == LINK and fence:
                made += (FENCE,)
            yield Step(label, pc + 1, (), made)

    return step


def reader(looks_again: bool, fence: bool) -> Callable[..., Iterator[Step]]:
    """regs: (link, values copied, link as loaded the second time)"""

    def step(pc: int, regs: Any, read: Callable[[int], Any], ghost: Any) -> Iterator[Step]:
        link, values, again = regs
        if pc == 0:
            found = read(LINK)
            yield Step("load link", 1 if found is not None else 0, (found, (), None))
        elif pc in (1, 2):
            value = read(CHUNKS[link[0]] + pc - 1)
            yield Step(f"copy a value: {value}", pc + 1, (link, (*values, value), again))
            if pc == 2 and not fence:  # nothing keeps the second load of the link behind the copy
                yield Step("load link early", 5, (link, values, read(LINK)))
        elif pc == 3:
            yield Step("load link again", 4, (link, values, read(LINK)))
        elif pc == 4:
            taken = again == link or not looks_again
            if taken and set(values) != {OURS}:
                raise Broken(f"the reader takes {values} for its own")
            yield Step("take the copy" if taken else "plan again", 6, (None, (), None))
        elif pc == 5:
            value = read(CHUNKS[link[0]] + 1)
            yield Step(f"copy a value late: {value}", 4, (link, (*values, value), again))

    return step


def run(
    *,
    stamps: bool = True,
    publish: str = RELEASE,
    writer_fence: bool = True,
    looks_again: bool = True,
    reader_fence: bool = True,
) -> Explored:
    first = history(stamps)
    memory = ((0, 1 if stamps else 0), OURS, OURS, "empty", "empty")
    threads = [
        ("writer", writer(first, publish, writer_fence), 0, ()),
        ("reader", reader(looks_again, reader_fence), 0, (None, (), None)),
    ]
    return explore(memory, threads, ())


def test_reader_never_takes_a_value_of_another_chunk() -> None:
    run().expect_whole(300)


@pytest.mark.parametrize(
    ("variant", "what"),
    [
        ({"looks_again": False}, "the link is not loaded again"),
        ({"reader_fence": False}, "no fence between the copy and the second load"),
        ({"stamps": False}, "a link to the same chunk looks like the one before"),
        ({"publish": RELAXED}, "the link is visible before the contents"),
        ({"writer_fence": False}, "the old chunk is overwritten before the new link is visible"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_model_finds_the_fault_when_a_piece_is_missing(variant: dict[str, Any], what: str) -> None:
    found = run(**variant)
    print(what, found.told())
    assert found.broken.startswith("the reader takes"), what
