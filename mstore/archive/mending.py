"""The manifest as it should be: read, or made again from the files when it is lost or damaged; what is not in it goes.

Every file says in its metadata which part of which cluster and day it is, and the file that a pass names last says up
to where all is archived: so files of a pass that was not complete are told from those of one that was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mstore.archive import names, schema
from mstore.archive.arrow import footer_checksum, pq
from mstore.archive.manifest import NOTHING_S, Manifest, Part, joined, read_manifest
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files

log = logging.getLogger(__name__)


def load(files: Files, root: Path, cluster: str) -> Manifest:
    """The cluster's manifest; a new one when nothing of it is archived yet. Call with the archive's lock held.

    raises  StorageError
    """
    try:
        found = read_manifest(files, root, cluster)
    except ArchiveError as error:
        log.error("%s: it is made again from the files", error.message)
        return _made_again(files, root, cluster)
    if found is None and any(_numbers(files, root, cluster)):
        log.error("there is no manifest of cluster %s: it is made again from the files", cluster)
        return _made_again(files, root, cluster)
    if found is not None and max((n for n, _ in _numbers(files, root, cluster)), default=0) > found.next_part:
        log.error("the manifest of cluster %s is older than its files: it is made again from them", cluster)
        return _made_again(files, root, cluster)
    return found or Manifest(cluster)


def remove_strangers(files: Files, root: Path, manifest: Manifest) -> None:
    """Remove what a pass, or a deletion of days, that was ended half way has left."""
    kept = {(part.number, part.day) for part in manifest.parts}
    for table in (names.SAMPLES, *names.TABLES):
        for day in _days(files, root, manifest.cluster, table):
            folder = names.day_dir(root, manifest.cluster, day, table)
            for name in files.list(folder):
                number = names.part_number(name)
                if number is None or (number, day) in kept:
                    continue
                if number >= manifest.next_part or day < manifest.first_day:
                    files.unlink(folder / name)
            remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """A directory of a day without files means nothing."""
    try:
        folder.rmdir()
    except OSError:
        return


def _days(files: Files, root: Path, cluster: str, table: str = names.SAMPLES) -> list[int]:
    folder = names.cluster_dir(root, cluster, table)
    found = (names.day_number(name) for name in files.list(folder))
    return sorted(day for day in found if day is not None)


def _numbers(files: Files, root: Path, cluster: str) -> Iterator[tuple[int, int]]:
    """(number, day) of every file of samples."""
    for day in _days(files, root, cluster):
        for name in files.list(names.day_dir(root, cluster, day)):
            if (number := names.part_number(name)) is not None:
                yield number, day


def _made_again(files: Files, root: Path, cluster: str) -> Manifest:
    """From the metadata of all files that can be read. The others, and those of an incomplete pass, are left out."""
    found: dict[int, list[tuple[Part, dict[str, Any]]]] = {}
    for number, day in _numbers(files, root, cluster):
        path = names.part_path(root, cluster, day, number)
        try:
            part, said = _described(path, root, cluster, number, day)
        except (ArchiveError, StorageError) as error:
            log.error("left out of the archive: %s", error.message)
            continue
        found.setdefault(number, []).append((part, said))
    manifest = Manifest(cluster)
    for number in sorted(found):
        reached = [said["archived_to"] for _, said in found[number] if "archived_to" in said]
        if not reached:
            continue  # its pass was ended before all its files had their names
        manifest.next_part = number + 1
        manifest.parts += [part for part, _ in found[number]]
        spans = [
            (int(first), int(last)) for _, said in found[number] for first, last in said.get("early", ())
        ]
        manifest.early = joined([*manifest.early, *spans])
        for metric, to_s in reached[0].items():
            manifest.archived_to[metric] = max(to_s, manifest.archived_to.get(metric, NOTHING_S))
    return manifest


def _described(path: Path, root: Path, cluster: str, number: int, day: int) -> tuple[Part, dict[str, Any]]:
    """What a file of samples says of itself. raises ArchiveError when it cannot be read, or is of another cluster"""
    try:
        meta = pq.read_metadata(path)
        said = json.loads((meta.metadata or {}).get(b"mstore", b"{}"))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: {error}", path=str(path)) from error
    if (said.get("cluster"), said.get("part"), said.get("version")) != (cluster, number, schema.VERSION):
        raise ArchiveError(f"{path} is not part {number} of cluster {cluster}", path=str(path))
    place = schema.SAMPLES.get_field_index("timestamp")
    bounds = [meta.row_group(group).column(place).statistics for group in range(meta.num_row_groups)]
    paths = {
        table: one
        for table in (names.SAMPLES, *names.TABLES)
        if (one := names.part_path(root, cluster, day, number, table)).exists()
    }
    try:
        footers = {table: footer_checksum(one) for table, one in paths.items()}
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: {error}", path=str(path)) from error
    n_bytes = sum(one.stat().st_size for one in paths.values())
    first, last = min(one.min for one in bounds), max(one.max for one in bounds)
    return Part(number, day, meta.num_rows, n_bytes, first, last, footers), said
