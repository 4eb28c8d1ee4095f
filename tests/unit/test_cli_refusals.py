"""Names that a command does not know, and configurations that it refuses: what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
