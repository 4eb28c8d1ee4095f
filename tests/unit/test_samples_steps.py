"""Every prefix of the writer's stores is safe for a reader between any two of its loads.

The model has the writer's exact store order (kernels/_chunks.pyx) for a new chunk, promotion, growth of the
link table, and freeing with reuse, and a reader that loads as kernels/_gather.pyx does. All interleavings of
the two are explored. Orders of stores and loads are kept as written: whether the fences keep them is another
model's question (test_link_model.py). Each rule is then broken in turn, and the model must notice.

    cells     "table" -> 0 or (address, words)        "link0" -> 0 or link
              (address, i) -> word i of a table; of a chunk: 0 its owner, 1 + i its value i
    link      (address, slots, stamp)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

Cells = dict[Any, Any]
Store = tuple[Any, Any]

MINE, OTHER = "mine", "other"
ABSENT = None
BOTH_PLACES = (0, 1)


@dataclass(frozen=True)
class Scenario:
    """A start, the stores in order, and what chunk `n` of MINE truly holds before and after each."""

    start: Cells
    stores: list[Store]
    truth: list[tuple[Any, Any]]
    n: int

    def __post_init__(self) -> None:
        assert len(self.truth) == len(self.stores) + 1


def chunk(address: str, owner: str, n: int, values: list[Any]) -> list[Store]:
    return [((address, 0), (owner, n)), *(((address, 1 + i), value) for i, value in enumerate(values))]


def steps(
    start: tuple[Any, Any], *parts: tuple[list[Store], tuple[Any, Any] | None]
) -> tuple[list[Store], list[Any]]:
    """Stores in order; the truth changes with the last store of a part that names a new one."""
    stores: list[Store] = []
    truth = [start]
    for part, after in parts:
        for i, store in enumerate(part):
            stores.append(store)
            truth.append(after if after is not None and i == len(part) - 1 else truth[-1])
    return stores, truth


def new_chunk() -> Scenario:
    stores, truth = steps(
        (ABSENT, ABSENT),
        (chunk("A", MINE, 0, ["nan", "nan"]), None),
        ([("link0", ("A", 2, 1))], ("nan", "nan")),
        ([(("A", 1), "v0")], ("v0", "nan")),
        ([(("A", 2), "v1")], ("v0", "v1")),
    )
    old = dict([*chunk("A", OTHER, 0, ["stale0", "stale1"]), ("table", 0), ("link0", 0)])
    return Scenario(old, stores, truth, 0)


def promotion(free_first: bool = False) -> Scenario:
    """Chunk 0 moves from A (1 slot) to B (2 slots); A is taken by another series at once."""
    link = [("link0", ("B", 2, 2))]
    reuse = chunk("A", OTHER, 0, ["theirs0"])
    stores, truth = steps(
        ("v0", ABSENT),
        (chunk("B", MINE, 0, ["v0", "nan"]), None),
        *([(reuse, None), (link, ("v0", "nan"))] if free_first else [(link, ("v0", "nan")), (reuse, None)]),
        ([(("B", 2), "v1")], ("v0", "v1")),
    )
    old = dict([*chunk("A", MINE, 0, ["v0"]), *chunk("B", OTHER, 5, ["stale0", "stale1"]), ("table", 0)])
    return Scenario({**old, "link0": ("A", 1, 1)}, stores, truth, 0)


def table_growth(from_table: bool, keep_old_words: bool = False, table_last: bool = True) -> Scenario:
    """Chunk 0 of link0 (or a table of 1 word) moves into a table of 2 at T; then it is freed, A reused."""
    link, old_word = ("A", 2, 1), ("U", 0) if from_table else "link0"
    words = [(("T", 0), link), (("T", 1), 0)]
    publish = [("table", ("T", 2))]
    clear = [] if keep_old_words else [(old_word, 0)]
    reuse_table = chunk("U", OTHER, 9, ["x", "y"]) if from_table and not keep_old_words else []
    stores, truth = steps(
        ("v0", "v1"),
        (words if table_last else publish, None),
        (publish if table_last else words, None),
        (clear, None),
        (reuse_table, None),
        ([(("T", 0), 0)], (ABSENT, ABSENT)),
        (chunk("A", OTHER, 0, ["theirs0", "theirs1"]), None),
    )
    start: Cells = {**dict(chunk("A", MINE, 0, ["v0", "v1"])), **{("T", i): "junk" for i in range(3)}}
    start |= {("U", 0): link, ("U", 1): 0, ("U", 2): 0} if from_table else {}
    start |= {"table": ("U", 1) if from_table else 0, "link0": 0 if from_table else link}
    return Scenario(start, stores, truth, 0)


def free_of_the_last_chunk(unlink_first: bool = True) -> Scenario:
    """Chunk 1 in table T is freed, its memory reused, the table given back and reused by others."""
    unlink, reuse = [(("T", 1), 0)], chunk("A", OTHER, 1, ["theirs0", "theirs1"])
    stores, truth = steps(
        ("v0", "v1"),
        *(
            [(unlink, (ABSENT, ABSENT)), (reuse, None)]
            if unlink_first
            else [(reuse, None), (unlink, (ABSENT, ABSENT))]
        ),
        ([("table", 0)], None),
        ([(("T", 0), "free list"), (("T", 0), 0), (("T", 1), ("A", 2, 7))], None),
    )
    start = {**dict(chunk("A", MINE, 1, ["v0", "v1"])), ("T", 0): 0, ("T", 1): ("A", 2, 1)}
    return Scenario({**start, "table": ("T", 2), "link0": 0}, stores, truth, 1)


def chunk_after_chunk() -> Scenario:
    """Chunk 0 is freed and the same memory becomes chunk 0 of the same series again, with other values."""
    stores, truth = steps(
        ("v0", "v1"),
        ([("link0", 0)], (ABSENT, ABSENT)),
        ([(("A", 0), (OTHER, 0))], None),
        (chunk("A", MINE, 0, ["nan", "nan"]), None),
        ([("link0", ("A", 2, 2))], ("nan", "nan")),
        ([(("A", 2), "w1")], ("nan", "w1")),
    )
    start = {**dict(chunk("A", MINE, 0, ["v0", "v1"])), "table": 0, "link0": ("A", 2, 1)}
    return Scenario(start, stores, truth, 0)


SCENARIOS = {
    "a new chunk": new_chunk(),
    "promotion": promotion(),
    "a table instead of link0": table_growth(from_table=False),
    "a larger table": table_growth(from_table=True),
    "the last chunk freed": free_of_the_last_chunk(),
    "a chunk freed and made again": chunk_after_chunk(),
}


@dataclass(frozen=True)
class Rules:
    """What the reader keeps to; each False breaks one rule."""

    look_again_at_link: bool = True
    look_again_at_table: bool = True
    look_again_when_absent: bool = True
    check_header: bool = True


class Explorer:
    """Runs the reader against the writer in every interleaving; counts the states it meets."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules = scenario, rules
        self.faults: set[str] = set()
        self.memories: list[Cells] = [dict(scenario.start)]
        for cell, value in scenario.stores:
            self.memories.append({**self.memories[-1], cell: value})
        self.seen: set[Any] = set()

    def run(self) -> None:
        for began in range(len(self.memories)):
            self._step(began, began, "table", ())

    def quiet_pass_ends(self) -> bool:
        """A reader that starts after the last store does not have to start again."""
        at, held = self._load(self.memories[-1], "table", ())
        while at not in ("done", "table"):
            at, held = self._load(self.memories[-1], at, held)
        return at == "done"

    def _step(self, began: int, now: int, at: str, held: tuple[Any, ...]) -> None:
        """One load at writer position `now`; the next at any position the writer may reach meanwhile."""
        if (began, now, at, held) in self.seen:
            return
        self.seen.add((began, now, at, held))
        memory = self.memories[now]
        following, kept = self._load(memory, at, held)
        if following == "done":
            self._judge(began, now, kept)
            return
        for later in range(now, len(self.memories)):
            self._step(began, later, following, kept)

    def _load(self, memory: Cells, at: str, held: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """(the next load, what is held by then); "done" holds the two values read."""
        rules, n = self.rules, self.scenario.n
        if at == "table":
            return "link", (memory["table"],)
        table = held[0]
        place = "link0" if table == 0 else (table[0], n % table[1])
        if at == "link":
            word = memory[place]
            if (
                not isinstance(word, tuple) or len(word) != 3
            ):  # 0, or bytes of something else: fails the bounds checks
                return ("table again" if rules.look_again_when_absent else "done"), (
                    table,
                    word,
                    ABSENT,
                    ABSENT,
                )
            return "header", (table, word)
        word = held[1]
        if at == "header":
            mine = memory.get((word[0], 0)) == (MINE, n) or not rules.check_header
            return ("value 0", held) if mine else ("link again", (table, word, ABSENT, ABSENT))
        if at == "value 0":
            return "value 1", (table, word, memory[(word[0], 1)])
        if at == "value 1":
            return "link again", (*held, memory[(word[0], 2)] if word[1] > 1 else ABSENT)
        if at == "link again":
            if rules.look_again_at_link and memory[place] != word:
                return "table", held
            return "table again", held
        if rules.look_again_at_table and memory["table"] != table:
            return "table", held
        return "done", held[2:]

    def _judge(self, began: int, now: int, values: tuple[Any, ...]) -> None:
        """Each value was true at some moment between the first load and the last."""
        for place in BOTH_PLACES:
            allowed = {moment[place] for moment in self.scenario.truth[began : now + 1]} | (
                {"nan"}
                if ABSENT in {moment[place] for moment in self.scenario.truth[began : now + 1]}
                else set()
            )
            if values[-2:][place] not in allowed:
                self.faults.add(
                    f"place {place}: read {values[-2:][place]}, true were {sorted(map(str, allowed))}"
                )


def faults(scenario: Scenario, rules: Rules | None = None) -> set[str]:
    explorer = Explorer(scenario, rules or Rules())
    explorer.run()
    assert len(explorer.seen) > 20
    return explorer.faults


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_interleaving_shows_a_value_that_was_not_true_meanwhile(name: str) -> None:
    assert not faults(SCENARIOS[name])
    assert Explorer(SCENARIOS[name], Rules()).quiet_pass_ends()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_between_any_two_stores_leaves_links_to_whole_chunks_of_their_own(name: str) -> None:
    """What rebuilding the free lists relies on: follow the table word or link0, and every link leads home."""
    for memory in Explorer(SCENARIOS[name], Rules()).memories:
        table = memory["table"]
        words = [memory["link0"]] if table == 0 else [memory[(table[0], i)] for i in range(table[1])]
        for word in words:
            if word:
                address, n_slots, _ = word
                assert memory[(address, 0)] == (MINE, SCENARIOS[name].n)
                assert all(memory[(address, 1 + i)][0] in "vwn" for i in range(n_slots))


@pytest.mark.parametrize(
    ("scenario", "rules"),
    [
        (promotion(free_first=True), Rules()),
        (free_of_the_last_chunk(unlink_first=False), Rules()),
        (table_growth(from_table=False, table_last=False), Rules()),
        (table_growth(from_table=False, keep_old_words=True), Rules(look_again_at_table=False)),
        (promotion(), Rules(look_again_at_link=False)),
        (table_growth(from_table=False), Rules(look_again_when_absent=False)),
        (table_growth(from_table=True), Rules(look_again_at_table=False)),
    ],
)
def test_each_broken_order_or_skipped_look_is_noticed(scenario: Scenario, rules: Rules) -> None:
    assert faults(scenario, rules)
