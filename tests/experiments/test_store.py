"""Evidence is whole or absent, and an altered file is never believed."""

import json

import numpy as np
import pytest
import xarray as xr

from experiments.errors import UsageError
from experiments.store import AlteredError, Store, from_bytes, read_json, to_bytes, write_atomically, write_json


@pytest.fixture
def evidence(rng):
    return xr.Dataset(
        {"gap": (("width", "member"), rng.standard_normal((3, 4))), "count": ("width", np.arange(3))},
        coords={"width": [1, 2, 4], "phase": ("width", ["ordered", "chaotic", "critical"])},
        attrs={"units": "nats"},
    )


@pytest.fixture
def sealed(tmp_path, evidence):
    store = Store(tmp_path)
    folder = store.folder("smoke", "toy/mean", 0)
    store.seal(folder, {"": evidence, "rival": 2 * evidence}, {"claim": "toy/mean", "cells": []})
    return store, folder


def test_evidence_comes_back_as_it_was(sealed, evidence):
    store, folder = sealed
    stored, provenance = store.load_evidence(folder)
    assert stored[""].identical(evidence)
    assert stored["rival"]["gap"].identical(2 * evidence["gap"])
    assert provenance["claim"] == "toy/mean"
    assert not (folder / "cells").exists()


def test_equal_evidence_is_an_equal_file(evidence):
    assert to_bytes(evidence) == to_bytes(from_bytes(to_bytes(evidence)))


def test_any_flipped_bit_is_noticed(sealed, rng):
    store, folder = sealed
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".nc", ".json")):
        content = path.read_bytes()
        for position in rng.integers(0, len(content), 40):
            altered = bytearray(content)
            altered[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(altered)
            with pytest.raises(AlteredError, match=path.name):
                store.load_evidence(folder)
        path.write_bytes(content)
    assert store.load_evidence(folder)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_or_missing_file_is_noticed(sealed, keep):
    store, folder = sealed
    path = next(folder.glob("evidence-rival-*.nc"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(AlteredError, match=path.name):
        store.load_evidence(folder)
    path.unlink()
    with pytest.raises(AlteredError, match="missing"):
        store.load_evidence(folder)


def test_new_evidence_replaces_the_old_in_one_step(sealed, evidence):
    store, folder = sealed
    store.seal(folder, {"": 3 * evidence}, {"claim": "toy/mean", "cells": []})
    stored, _ = store.load_evidence(folder)
    assert list(stored) == [""]
    assert stored[""]["gap"].identical(3 * evidence["gap"])
    assert len(list(folder.glob("*.nc"))) == 1


def test_a_seal_that_breaks_off_leaves_the_old_evidence(sealed, evidence, monkeypatch):
    store, folder = sealed
    monkeypatch.setattr("experiments.store.write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.seal(folder, {"": 3 * evidence}, {"claim": "toy/mean"})
    monkeypatch.undo()
    stored, _ = store.load_evidence(folder)
    assert stored[""].identical(evidence)


def test_cells_are_kept_and_altered_ones_named(tmp_path, evidence):
    store = Store(tmp_path)
    folder = store.folder("smoke", "toy/mean", 0)
    store.save_cell(folder, "a" * 64, evidence)
    store.save_cell(folder, "b" * 64, evidence)
    victim = next((folder / "cells").glob("b*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    cells, altered = store.load_cells(folder)
    assert list(cells) == ["a" * 32]
    assert cells["a" * 32].identical(evidence)
    assert altered == [str(victim)]


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"n": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"n": 2})
    assert read_json(path)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_of_another_version_is_refused(tmp_path):
    (tmp_path / "ledger.json").write_text(json.dumps({"format": 99, "entries": []}))
    with pytest.raises(UsageError, match=r"format 99.*--out"):
        Store(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write.*--out"):
        Store(tmp_path / "file" / "results")


def test_a_damaged_ledger_is_no_obstacle(tmp_path):
    write_atomically(tmp_path / "ledger.json", b"{")
    assert Store(tmp_path).root == tmp_path


def test_a_cell_under_another_key_is_not_believed(tmp_path, evidence):
    store = Store(tmp_path)
    folder = store.folder("smoke", "toy/mean", 0)
    store.save_cell(folder, "a" * 64, evidence)
    path = next((folder / "cells").glob("a*"))
    path.rename(path.with_name(path.name.replace("a" * 32, "b" * 32)))
    cells, altered = store.load_cells(folder)
    assert not cells
    assert len(altered) == 1
