"""Data sets: found in the stated order, recognised whatever their place, refused when altered."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from experiments import data, download

GIVEN = os.environ.get("UNMAGIC_DATA", "")
needs_files = pytest.mark.skipif(
    not (Path(GIVEN) / "mnist").is_dir(), reason="UNMAGIC_DATA names no folder with the real images"
)
BUNDLED = {"digits": (1438, 359, 10), "wine": (143, 35, 3), "breast-cancer": (456, 113, 2)}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data folder, and an empty cache."""
    monkeypatch.delenv("UNMAGIC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data._arrays.cache_clear()
    yield tmp_path / "unmagic"
    data._arrays.cache_clear()


@pytest.fixture
def tiny(monkeypatch):
    """A data set of five small images in place of MNIST, with checksums of its own."""
    arrays = (
        np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        np.array([0, 1, 2]),
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
        np.array([1, 0]),
    )
    source = data.Source(data.digest(arrays), "none", read=data._read_idx_files, download=("tiny", 1))
    monkeypatch.setitem(data.SOURCES, "mnist", source)
    return arrays


@pytest.mark.parametrize("name", list(BUNDLED))
def test_bundled_sets_need_no_files(name, nowhere):
    train, test, classes = BUNDLED[name]
    loaded = data.load(name)
    assert (len(loaded.x_train), len(loaded.x_test)) == (train, test)
    # wine is sorted by class: a held-out tail would be of one class only.
    train_shares, test_shares = (np.bincount(y, minlength=classes) / len(y) for y in (loaded.y_train, loaded.y_test))
    np.testing.assert_allclose(train_shares, test_shares, atol=0.08)
    assert data.available(name)
    assert loaded.checksum == data.checksum(name)
    assert loaded.licence
    with pytest.raises(ValueError, match="read-only"):
        loaded.x_train[0] = 0


def test_the_task_of_shwartz_ziv_and_tishby_is_a_whole_population(nowhere):
    loaded = data.load("shwartz-ziv-tishby")
    assert loaded.x_train.shape == (4096, 12)
    assert len(np.unique(loaded.x_train, axis=0)) == 4096
    assert loaded.x_test.shape == (0, 12)


@needs_files
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_images_are_the_published_ones(name):
    """Facts from the publications: sizes, class counts, and the mean grey of MNIST's training images (0.1307)."""
    loaded = data.load(name)
    assert loaded.x_train.shape == (60_000, 28, 28)
    assert loaded.x_test.shape == (10_000, 28, 28)
    assert loaded.x_train.dtype == np.uint8
    if name == "mnist":
        np.testing.assert_array_equal(loaded.y_train[:5], [5, 0, 4, 1, 9])
        np.testing.assert_allclose(loaded.x_train.mean() / 255, 0.1307, atol=5e-5)
    else:
        np.testing.assert_array_equal(np.bincount(loaded.y_train), 6000)


@needs_files
def test_real_colour_images():
    loaded = data.load("cifar10")
    assert loaded.x_train.shape == (10_000, 32, 32, 3)
    # The first batch of CIFAR-10 begins with a frog and two trucks.
    np.testing.assert_array_equal(loaded.y_train[:3], [6, 9, 9])


@needs_files
def test_an_altered_file_is_named(tmp_path, monkeypatch):
    for path in (Path(GIVEN) / "mnist").iterdir():
        (tmp_path / "mnist").mkdir(exist_ok=True)
        (tmp_path / "mnist" / path.name).symlink_to(path)
    victim = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.unlink()
    victim.write_bytes(content)
    monkeypatch.setenv("UNMAGIC_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte\.gz was altered"):
        data.load("mnist")


def test_nothing_stored_and_no_network_names_all_three_places(nowhere, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    assert not data.available("mnist")
    with pytest.raises(data.DataError) as caught:
        data.load("mnist")
    for part in ("UNMAGIC_DATA (not set)", str(nowhere), "OpenML failed (no route to host)"):
        assert part in str(caught.value)


def test_a_download_is_kept_and_not_repeated(nowhere, tiny, monkeypatch):
    calls = []

    def fetch(title, **options):
        calls.append(title)
        x, y = np.concatenate([tiny[0], tiny[2]]), np.concatenate([tiny[1], tiny[3]])
        return x.reshape(5, 4).astype(float), y.astype(str)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    monkeypatch.setitem(download.LAYOUTS, "mnist", ((2, 2), 3, 3, 2))
    for _ in range(2):
        loaded = data.load("mnist")
        np.testing.assert_array_equal(loaded.x_test, tiny[2])
        np.testing.assert_array_equal(loaded.y_train, tiny[1])
        data._arrays.cache_clear()
    assert calls == ["tiny"]
    assert data.available("mnist")
    # Nothing but the arrays is left in the cache.
    assert [path.name for path in nowhere.rglob("*") if path.is_file()] == ["arrays.npz"]
    kept = nowhere / "mnist" / "arrays.npz"
    kept.write_bytes(kept.read_bytes()[:-30])
    with pytest.raises(data.DataError, match="cannot be read"):
        data.load("mnist")


def test_a_download_of_other_images_is_refused_and_not_kept(nowhere, tiny, monkeypatch):
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *a, **o: (np.ones((5, 4)), np.zeros(5)))
    monkeypatch.setitem(download.LAYOUTS, "mnist", ((2, 2), 3, 3, 2))
    with pytest.raises(data.DataError, match="OpenML is not the one published"):
        data.load("mnist")
    assert not data.available("mnist")


def test_colours_of_a_download_come_last(nowhere, monkeypatch):
    flat = np.arange(2 * 3 * 4, dtype=float).reshape(2, 12)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *a, **o: (flat, np.array(["0", "1"])))
    monkeypatch.setitem(download.LAYOUTS, "cifar10", ((3, 2, 2), 1, 1, 1))
    x_train, _, x_test, _ = download.openml("cifar10", "CIFAR_10", 1, nowhere)
    assert x_train.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(x_train[0, 0, 1], [1, 5, 9])
    np.testing.assert_array_equal(x_test[0, 1, 0], [14, 18, 22])


def test_idx_files_are_read_as_specified(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])))
    np.testing.assert_array_equal(data._read_idx(path), [[1, 2, 3], [4, 5, 6]])


def test_the_data_folder_comes_before_the_cache(nowhere, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMAGIC_DATA", str(tmp_path / "given"))
    (tmp_path / "given").mkdir()
    data._arrays.cache_clear()
    data._write_npz(tmp_path / "given" / "mnist" / "arrays.npz", tiny)
    nowhere.joinpath("mnist").mkdir(parents=True)
    nowhere.joinpath("mnist", "arrays.npz").write_bytes(b"never read")
    np.testing.assert_array_equal(data.load("mnist").x_train, tiny[0])


def test_normalised_rows_have_length_root_d():
    rows = data.normalise(np.array([[[3, 0], [0, 4]], [[1, 0], [0, 0]]], np.uint8))
    np.testing.assert_allclose(rows, [[1.2, 0, 0, 1.6], [2, 0, 0, 0]])
    with pytest.raises(ValueError, match="row 1"):
        data.normalise(np.array([[1.0, 2.0], [0.0, 0.0]]))


def test_bad_names_and_folders(nowhere, monkeypatch):
    for function in (data.load, data.checksum, data.available):
        with pytest.raises(ValueError, match="unknown data set 'mnits'; there are digits, wine"):
            function("mnits")
    monkeypatch.setenv("UNMAGIC_DATA", str(nowhere / "absent"))
    with pytest.raises(ValueError, match="UNMAGIC_DATA must name a folder"):
        data.load("mnist")
