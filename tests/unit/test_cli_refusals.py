"""Names that a command does not know, and configurations that it refuses: what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mstore.cli import hints
from mstore.client.outcomes import Protection
from mstore.errors import ConfigError, MstoreError, UnknownMetric, UnknownSelector
from mstore.workers.settings import Settings
from tests import cli_rig
from tests.cli_rig import FakeClient, Run

client, run = cli_rig.client, cli_rig.run

# --- names that are not known


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (UnknownSelector("there is no cluster 'fitz'", cluster="fitz"), "; did you mean fritz?"),
        (UnknownMetric("no metric", cluster="fritz", metric="men_bw"), "; did you mean mem_bw?"),
        (UnknownMetric("no metric", cluster="fitz", metric="mem_bw"), "; did you mean fritz?"),
        (
            UnknownMetric("no host", cluster="fritz", host="f100", metric="x"),
            "; did you mean f10? fritz has f[2,10]",
        ),
        (UnknownMetric("no host", cluster="fritz", host="zzz", metric="x"), "; fritz has f[2,10]"),
        (UnknownSelector("no level", selector="fritz/f100/*"), "; did you mean f10?"),
        (UnknownSelector("no level", selector="fitz"), "; did you mean fritz?"),
        (UnknownSelector("no level", selector="f*/f100"), ""),
        (UnknownMetric("no metric", cluster="fritz", metric="zzz"), ""),
    ],
)
def test_an_unknown_name_is_told_with_the_one_that_is_like_it(
    run: Run, client: FakeClient, error: MstoreError, hint: str
) -> None:
    def refuse(*args: object) -> object:
        raise error

    client.answer = refuse
    status, out, err = run("query", "fritz", "f10", "mem_bw")
    assert (status, out, err) == (1, "", f"mstore: {error.message}{hint}\n")


def test_of_very_many_hosts_the_first_and_the_last_are_told() -> None:
    told = hints.of_host("f0110", "fritz", [f"f{n:04}" for n in range(101, 1000) if n % 10])
    assert told == "; did you mean f0109? fritz has 810 hosts, f0101 to f0999"
    assert (
        hints.of_host("f0110", "fritz", ["a,b", "f0109"])
        == "; did you mean f0109? fritz has 2 hosts, a,b to f0109"
    )
    assert hints.of_host("f0110", "fritz", []) == ""


def test_ls_and_sizes_of_what_is_not_there_are_errors(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "sizes", lambda *args, **options: [], raising=False)
    assert run("sizes", "fitz/*") == (1, "", "mstore: no level matches fitz/*; did you mean fritz?\n")
    assert run("sizes", "fitz/*", "--json")[:2] == (1, "")
    assert run("sizes")[0] == 0, "an empty store is no error"
    assert run("ls", "fitz") == (1, "", "mstore: the store has no 'fitz'; did you mean fritz?\n")
    assert run("ls", "zzz")[2] == "mstore: the store has no 'zzz'; it has fritz\n"


# --- protect


def test_protect_says_which_names_are_no_host(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Protection(14, tuple("abcdefghij"), 12)
    monkeypatch.setattr(client, "protect", lambda *args: done, raising=False)
    assert run("protect", "fritz", "f[1-14]") == (
        0,
        "14 hosts protected now, by whomever\n",
        "mstore: no host of fritz today: a, b, c, d, e, f, g, h, i, j, ... (12 in all);"
        " what appears under such a name is protected\n",
    )
    assert json.loads(run("protect", "fritz", "f1", "--json")[1])["n_unknown"] == 12
    done = Protection(0, ("f1",), 1)
    assert run("protect", "fritz", "f1", "--clear")[2] == "mstore: no host of fritz today: f1\n"


@pytest.mark.parametrize(
    ("hosts", "meant"),
    [
        (("f1", "f2"), "'f[1-2]' or 'f1,f2'"),
        (("f[1-2]", "g1"), "'f[1-2],g1'"),
        (("g1", "f["), "'g1,f['"),
    ],
)
def test_several_hosts_to_protect_are_told_to_be_one_hostlist(
    run: Run, client: FakeClient, hosts: tuple[str, ...], meant: str
) -> None:
    told = (2, "", f"mstore: HOSTS is one hostlist: give {meant}\n")
    assert run("protect", "fritz", *hosts) == told
    assert run("protect", "fritz", *hosts, "--until", "+1h") == told


# --- config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('memory_cap = "1MiB"', 'memory_cap = "1MiB" is not allowed: expected "0" (none) or at least '),
        ("retention = 48", 'retention = 48 is not allowed: expected a duration with its unit, such as "48s"'),
        (
            '[clusters.c]\nretention = "48"',
            'clusters.c.retention = "48" is not allowed: expected a duration with',
        ),
    ],
)
def test_config_refuses_what_serve_refuses_in_the_same_words(
    run: Run, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "mstore.toml").write_text(text)
    status, out, err = run("config", "--config", str(tmp_path / "mstore.toml"))
    assert (status, out) == (2, "")
    assert err.startswith(f"mstore: {tmp_path}/mstore.toml: {told}")
    with pytest.raises(ConfigError) as refused:
        Settings(tmp_path / "mstore.toml")
    assert err == f"mstore: {refused.value.message}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[archive]\ndirectory = "wal/old"',
            'archive.directory = "wal/old" is not allowed: DIR/wal is the store\'s own',
        ),
        (
            '[archive]\ndirectory = "x/../snapshots"',
            "DIR/snapshots is the store's own; expected a directory outside, or",
        ),
        (
            '[export]\ndirectory = "run"',
            'export.directory = "run" is not allowed: DIR/run is the store\'s own',
        ),
        ('[export]\ndirectory = "./"', 'export.directory = "./" is not allowed: that is DIR itself'),
        (
            '[archive]\nmode = "delete"\n[export]\ndirectory = "./archive"',
            'export.directory = "./archive" is not allowed: archive.directory is the same; expected a directory of its own',
        ),
        ('[archive]\ndirectory = "{store}"', "that is DIR itself"),
        ('[export]\ndirectory = "{store}/wal/out"', "DIR/wal is the store's own"),
        ('[export]\ndirectory = "{link}/out"', "DIR/wal is the store's own"),
    ],
)
def test_archive_and_export_may_not_be_among_a_stores_own_files_nor_together(
    run: Run, tmp_path: Path, text: str, told: str
) -> None:
    store = tmp_path / "store"
    (store / "wal").mkdir(parents=True)
    (store / "lock").touch()
    (tmp_path / "link").symlink_to(store / "wal")
    (tmp_path / "mstore.toml").write_text(text.format(store=store, link=tmp_path / "link"))
    status, out, err = run("config", "--config", str(tmp_path / "mstore.toml"))
    assert (status, out) == (2, "")
    assert told in err
    with pytest.raises(ConfigError) as refused:
        Settings(tmp_path / "mstore.toml")
    assert err == f"mstore: {refused.value.message}\n"


def test_a_directory_that_no_store_has_used_yet_is_known_to_the_one_that_begins_there(tmp_path: Path) -> None:
    config = tmp_path / "mstore.toml"
    for place, said in (
        ("new", "that is DIR itself"),
        ("new/snapshots/a", "DIR/snapshots is the store's own"),
    ):
        config.write_text(f'[archive]\ndirectory = "{tmp_path / place}"')
        Settings(config).close()
        with pytest.raises(ConfigError, match=said):
            Settings(config, store_dir=tmp_path / "new")


@pytest.mark.parametrize(
    "text",
    [
        '[archive]\ndirectory = "walnut"\n[export]\ndirectory = "archive/wal"',
        '[export]\ndirectory = "archive"',  # no archive is kept or read
        '[export]\ndirectory = "{folder}/wal"',  # nobody's store
    ],
)
def test_other_places_of_archive_and_export_are_allowed(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "mstore.toml").write_text(text.format(folder=tmp_path))
    assert run("config", "--config", str(tmp_path / "mstore.toml"))[0] == 0


# --- numbers


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("query fritz f1 load --rows -3", "--rows: -3 is not allowed: expected a whole number from 0"),
        ("query fritz f1 load --rows 1.5", "--rows: 1.5 is not allowed: expected a whole number from 0"),
        (f"query fritz f1 load --rows {'9' * 5000}", f"--rows: {'9' * 57}... is not allowed"),
        ("job meta.json --rows -1", "--rows: -1 is not allowed: expected a whole number from 0"),
        ("simulate --seed -1", "--seed: -1 is not allowed: expected a whole number from 0"),
        ("demo --live -1", "--live: -1 is not allowed: expected a whole number from 0"),
        ("demo --span 0", "--span: 0 is not allowed: expected a duration of at least 1s"),
        ("top --interval 0", "--interval: 0 is not allowed: expected a duration of at least 1s"),
        ("collect host --interval 0s", "--interval: 0s is not allowed: expected a duration of at least 1s"),
        ("stop --timeout 0", "--timeout: 0 is not allowed: expected a duration of at least 1s"),
        ("free --all --timeout 0", "--timeout: 0 is not allowed: expected a duration of at least 1s"),
        ("archive --now --timeout 0", "--timeout: 0 is not allowed: expected a duration of at least 1s"),
        ("backup /nowhere --limit 0", "--limit: 0 is not allowed: expected a duration of at least 1s"),
        ("follow fritz --count 0", "--count: 0 is not allowed: expected a whole number from 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_with_what_is_allowed(
    run: Run, client: FakeClient, arguments: str, told: str
) -> None:
    status, out, err = run(*arguments.split())
    assert (status, out, client.calls) == (2, "", [])
    assert told in err
    assert err.count("\n") == 1
