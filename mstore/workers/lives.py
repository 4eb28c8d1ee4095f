"""One life of the memory after another: what the next one begins with, and what it takes over from the one before.

A store counts from the start of its supervisor. So memory that an earlier store left begins with counters at 0, and
under the same supervisor each life goes on with those of the life before, whether its memory is kept or made anew, and
however many workers it has.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mstore import faults
from mstore.config import Config
from mstore.shm import layout
from mstore.shm.control import WORKER_KINDS, Control, Counted
from mstore.workers import adoption, incarnation
from mstore.workers.family import Place
from mstore.workers.incarnation import Incarnation

log = logging.getLogger(__name__)


def begin(
    store_dir: Path, config: Config, places: Sequence[Place], counted: Counted | None, *, adopt: bool
) -> tuple[Incarnation, Control]:
    """Kept memory or new one, with the note that names it, its state and its counters.

    places   of its workers, by slot
    counted  of the life before under this supervisor; None: this is the first
    adopt    kept memory may be used
    raises   StoreFull, LayoutMismatch, StorageError, OSError
    """
    n_ingest = sum(kind == "ingest" for kind, _ in places)
    life = _kept(store_dir, config, n_ingest) if adopt else None
    if life is None:
        incarnation.remove_stale(store_dir)
        life = incarnation.create(store_dir, config, n_ingest)
    incarnation.publish_note_if_room(life)
    faults.hit("supervisor.made")
    control = Control(life.mappings["control"])
    control.state = layout.STATE_STARTING
    if counted is None:
        control.count_anew()
    else:
        control.go_on_counting(counted, [(WORKER_KINDS[kind], index) for kind, index in places])
    return life, control


def _kept(store_dir: Path, config: Config, n_ingest: int) -> Incarnation | None:
    """The memory that the run before left, if it may be used."""
    try:
        life = adoption.find(store_dir, config, n_ingest)
    except adoption.NotAdopted as reason:
        log.info("the memory of the run before is not used: %s", reason)
        return None
    if life is not None:
        incarnation.remove_stale(store_dir, but=life.names.values())
    return life


def misfit(life: Incarnation, newer: Config) -> str:
    """Why this memory cannot serve under a newer configuration, "" when it can."""
    removed = "its names were removed from /dev/shm" if life.removed else ""
    return removed or adoption.misfit(life.mappings, newer)


def mend(life: Incarnation, store_dir: Path) -> None:
    """Write the note again where it is gone, and say which names of segments are: they cannot be given back."""
    incarnation.mend_note(life)
    if removed := incarnation.look_at_names(life):
        log.error(
            "%s removed by somebody from /dev/shm: the memory itself is still there, this store goes on, and"
            " workers that are replaced are handed it; programs cannot attach any more, and no start can take"
            " it over: a restart, or the end of the persister, reads the files instead (%s). `mstore restart`"
            " makes it anew at a time of your choice",
            ", ".join(removed), incarnation.cost_of_reading(store_dir),
        )  # fmt: skip
