"""The fuzz driver of the framing, fuzz/fuzz_framing.py: a seeded part of it, and that it would find a fault."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from mstore.ipc import framing


def load_fuzzer() -> ModuleType:
    """fuzz/ is no package."""
    path = Path(__file__).resolve().parents[2] / "fuzz" / "fuzz_framing.py"
    spec = importlib.util.spec_from_file_location("fuzz_framing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzzer()


def test_mutated_frames_are_messages_or_protocol_errors(seed: int) -> None:
    rng = random.Random(seed)
    accepted = sum(fuzz.one_run(rng) for _ in range(3000))
    assert accepted > 300, "most of a stream is still whole"


def test_the_driver_finds_a_decoder_that_forgets_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LIMIT", 100)
    runs = random.Random(1)
    assert sum(fuzz.one_run(runs) for _ in range(50)) > 0
    decoder = framing.FrameDecoder
    monkeypatch.setattr(framing, "FrameDecoder", lambda _limit, tags: decoder(1 << 20, tags))
    with pytest.raises(AssertionError):
        sum(fuzz.one_run(runs) for _ in range(50))
