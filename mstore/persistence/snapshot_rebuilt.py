"""What is known of generations without the word of a whole manifest: from the names of files, and from what they say.

damaged manifest    its own sound blocks, and the files of its sequence
no manifest         it was removed, or a snapshot ended before it, or the manifest went first and its files not yet:
                    a part gets its name only when all of it, and the log up to what it holds, are durable, so it
                    is sound all the same; that nothing of the generation is missing nobody can tell
exchanged files     each says itself which it is (snapshot_files.identity): it is read where it lies; of copies the sound one
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from mstore.errors import CorruptRecord, LayoutMismatch, StorageError
from mstore.persistence.files import WAL_SUFFIX, Files, generation_of, snapshot_dir, snapshot_name, wal_dir
from mstore.persistence.snapshot_files import (
    FILES,
    ROLE_CHUNKS,
    ROLE_DEFINITIONS,
    ROLE_MANIFEST,
    Expected,
    Identity,
    Part,
    Totals,
    identity,
    named_identity,
    part_name,
    read_blocks,
    read_end,
    read_sound_blocks,
)
from mstore.persistence.snapshot_manifest import Manifest, parts_in, read_manifest

_SERIES_RECORD_BYTES = 40


def misplaced(files: Files, folder: Path) -> dict[Identity, Path]:
    """Files that stand under another's name: what each of them is, and where it lies.

    One that is sound under its own name, too, is none of them. What cannot be read says nothing here: whoever needs it
    will tell.
    """
    elsewhere: dict[Identity, list[Path]] = {}
    at_home: dict[Identity, Path] = {}
    for name in files.list(folder):
        path = folder / name
        if (named := named_identity(name)) is None or (said := _said(files, path)) is None:
            continue
        if said == (named if named.id else named._replace(id=said.id)):
            at_home[said] = path
        else:
            elsewhere.setdefault(said, []).append(path)
    found = {}
    for said, paths in elsewhere.items():
        home = at_home.get(said)
        there = [home, *paths] if home else paths
        best = next((path for path in there if _is_sound(files, path, said)), there[0])
        if best != home:
            found[said] = best
    return found


def _said(files: Files, path: Path) -> Identity | None:
    with contextlib.suppress(StorageError):
        return identity(files, path)
    return None


def _is_sound(files: Files, path: Path, said: Identity) -> bool:
    """As far as a file says itself."""
    try:
        for _ in read_blocks(files, path, Expected(said.log_seq, said.role, said.cluster, said.id)):
            pass
    except (CorruptRecord, LayoutMismatch, StorageError):
        return False
    return True


def with_places(manifest: Manifest, lying: dict[Identity, Path]) -> Manifest:
    """A manifest that knows where its files lie, if not under their names."""
    moved = {
        (part.role, part.cluster): path
        for part in manifest.parts
        if (path := lying.get(Identity(manifest.log_seq, manifest.id, part.role, part.cluster)))
    }
    return replace(manifest, moved=moved) if moved else manifest


def manifest_elsewhere(
    files: Files, path: Path, log_seq: int, lying: dict[Identity, Path]
) -> Manifest | None:
    """The manifest that belongs at `path` and lies, sound, under another name."""
    for said, there in lying.items():
        if (said.log_seq, said.role) == (log_seq, ROLE_MANIFEST):
            with contextlib.suppress(CorruptRecord):
                return replace(read_manifest(files, there, log_seq), path=path)
    return None


def manifests_of_parts(files: Files, path: Path, log_seq: int, lying: dict[Identity, Path]) -> list[Manifest]:
    """A generation whose manifest is damaged: by the manifest's sound blocks and by its files; one for each id.

    That all of its files are there, only the manifest could say: `n_bytes` of these is 0.
    """
    found = _parts_there(files, path.parent, lying, log_seq)
    ids = {owner for _, owner in found}
    for block in read_sound_blocks(files, path, Expected(log_seq, ROLE_MANIFEST), []):
        if block.kind == FILES and (
            block.owner in ids or not ids
        ):  # else it is another generation's manifest
            held = found.setdefault((log_seq, block.owner), {})
            held.update({(one.role, one.cluster): one for one in parts_in(block)})
    return list(_rebuilt(path.parent, found))


def without_manifest(
    files: Files, folder: Path, known: Collection[Manifest], lying: dict[Identity, Path]
) -> list[Manifest]:
    """Generations of which no manifest is there, newest first; `known`: those that have one, whole or damaged."""
    theirs = {(one.log_seq, one.id) for one in known}
    found = _parts_there(files, folder, lying)
    return list(_rebuilt(folder, {key: parts for key, parts in found.items() if key not in theirs}))


def _parts_there(
    files: Files, folder: Path, lying: dict[Identity, Path], log_seq: int | None = None
) -> dict[tuple[int, int], dict[tuple[int, int], Part]]:
    """By (sequence, id) of the generation, then by (role, cluster): all parts that have a name or lie under another's."""
    found: dict[tuple[int, int], dict[tuple[int, int], Part]] = {}
    names = (named_identity(name) for name in files.list(folder) if generation_of(name))
    for one in sorted({*filter(None, names), *(said for said in lying if said.role != ROLE_MANIFEST)}):
        if log_seq not in (None, one.log_seq):
            continue
        totals, n_bytes = Totals(), -1
        path = lying.get(one) or folder / part_name(one.log_seq, one.id, one.role, one.cluster)
        with contextlib.suppress(CorruptRecord, LayoutMismatch, StorageError):
            totals, n_bytes = read_end(files, path, Expected(one.log_seq, one.role, one.cluster, one.id))
        parts = found.setdefault((one.log_seq, one.id), {})
        parts[one.role, one.cluster] = Part(one.role, one.cluster, n_bytes, -1, totals)
    return found


def _rebuilt(folder: Path, found: dict[tuple[int, int], dict[tuple[int, int], Part]]) -> Iterator[Manifest]:
    for (log_seq, owner), parts in sorted(found.items(), reverse=True):
        path = folder / snapshot_name(log_seq)
        yield Manifest(path, log_seq, owner, 0, 0, tuple(parts.values()), 0, 1, ())


def missing_part(cluster: int) -> Part:
    """A file that nobody names, of a cluster that has series."""
    return Part(ROLE_CHUNKS, cluster, -1, -1, Totals())


def series_bound(files: Files, store_dir: Path) -> int:
    """No store in these files has more series: all that may hold definitions, under whatever name."""
    paths = [
        wal_dir(store_dir) / name for name in files.list(wal_dir(store_dir)) if name.endswith(WAL_SUFFIX)
    ]
    folder = snapshot_dir(store_dir)
    names = files.list(folder)
    paths += [
        folder / name for name in names if (one := named_identity(name)) and one.role == ROLE_DEFINITIONS
    ]
    paths += [path for said, path in misplaced(files, folder).items() if said.role == ROLE_DEFINITIONS]
    return sum(path.stat().st_size for path in paths) // _SERIES_RECORD_BYTES
