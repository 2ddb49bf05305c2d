"""Data sets by name, each with its checksum and licence.

Looked for in the folder that the environment variable UNMAGIC_DATA names, then in the user's cache
(`$XDG_CACHE_HOME/unmagic`, usually `~/.cache/unmagic`), then downloaded from OpenML into that cache. Both folders have
one layout:

    mnist/train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-…, t10k-labels-…
    fashion-mnist/  the same four names
    cifar10/cifar10_first10k_train_first1k_test.npz

Whatever the place, the arrays must have the checksum written here, so that a result never depends on where they were.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from experiments.download import openml

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DataError(RuntimeError):
    """A data set is not there, or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """A data set, its arrays read-only.

    Attributes:
        x_train, x_test: examples along the leading axis: images as stored (uint8), features as float64.
        y_train, y_test: labels 0, 1, ….
        name: as given to `load`.
        checksum: SHA-256 of the arrays.
        licence: under which it may be used.
    """

    x_train: Shaped[np.ndarray, "n ..."]
    y_train: Int[np.ndarray, " n"]
    x_test: Shaped[np.ndarray, "m ..."]
    y_test: Int[np.ndarray, " m"]
    name: str
    checksum: str
    licence: str


@dataclass(frozen=True)
class Source:
    """What is known of a data set: where its arrays come from, and how they are recognised.

    Attributes:
        checksum: SHA-256 of the arrays, see `digest`.
        licence: in words.
        bundled: makes the arrays with nothing but what is installed.
        files: names of the stored files, with the MD5 of each.
        read: the arrays from the paths of those files.
        download: name and version at OpenML.
    """

    checksum: str
    licence: str
    bundled: Callable[[], Arrays] | None = None
    files: tuple[tuple[str, str], ...] = ()
    read: Callable[[list[Path]], Arrays] | None = None
    download: tuple[str, int] | None = None


def load(name: str) -> Dataset:
    """The data set of that name: digits, wine, breast-cancer, shwartz-ziv-tishby, mnist, fashion-mnist or cifar10.

    The bundled sets have no test set of their own: every fifth example is held out. That of
    Shwartz-Ziv & Tishby is a whole population: its test set is empty.

    Raises:
        ValueError: there is no data set of that name, or UNMAGIC_DATA is no folder.
        DataError: it is stored nowhere and cannot be downloaded, or a file was altered.
    """
    source = _source(name)
    arrays = _arrays(name, tuple(_folders()))
    return Dataset(*arrays, name=name, checksum=source.checksum, licence=source.licence)


def checksum(name: str) -> str:
    """SHA-256 of the data set's arrays, without reading them: `load` gives these or an error."""
    return _source(name).checksum


def available(name: str) -> bool:
    """Whether `load` finds the data set without a download."""
    source = _source(name)
    return source.bundled is not None or any(_stored(name, source, folder) for folder in _folders())


def normalise(x: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n d"]:
    """Examples as rows of float64 with |x|² = d, the normalisation under which K_0 = σ_w² + σ_b² for all of them.

    Raises:
        ValueError: an example is zero everywhere.
    """
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if (length == 0).any():
        raise ValueError(f"x must have no example that is zero everywhere, got one at row {int(np.argmin(length))}")
    return rows * (np.sqrt(rows.shape[1]) / length)


def digest(arrays: Arrays) -> str:
    """SHA-256 of arrays with their shapes and dtypes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.shape}{array.dtype.str}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@lru_cache(maxsize=8)
def _arrays(name: str, folders: tuple[Path, ...]) -> Arrays:
    source = SOURCES[name]
    if source.bundled is not None:
        arrays, origin = source.bundled(), "the installed package"
    else:
        arrays, origin = _find(name, source, folders)
    if digest(arrays) != source.checksum:
        raise DataError(f"data set '{name}' from {origin} is not the one published: its checksum differs; replace it")
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _find(name: str, source: Source, folders: tuple[Path, ...]) -> tuple[Arrays, str]:
    for folder in folders:
        paths = [folder / name / file for file, _ in source.files]
        if source.read is not None and paths and all(path.exists() for path in paths):
            for path, (_, md5) in zip(paths, source.files, strict=True):
                # Before unpacking: a damaged archive would otherwise fail with a message about compression.
                if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
                    raise DataError(f"{path} was altered: its MD5 is not {md5}; replace it or remove it")
            return source.read(paths), str(folder / name)
        copy = _copy(name, folder)
        if copy.exists():
            return _read_npz([copy]), str(copy)
    cache = _cache()
    if source.download is None:
        raise DataError(f"data set '{name}' is not installed")
    try:
        arrays = openml(name, *source.download, cache)
    except (OSError, ValueError) as error:
        places = os.environ.get("UNMAGIC_DATA") or "not set"
        raise DataError(
            f"data set '{name}' was found nowhere: not in the folder of UNMAGIC_DATA ({places}), not in the cache "
            f"{cache}, and the download from OpenML failed ({error}). Put its files into {cache / name}, or name the "
            "folder that has them in UNMAGIC_DATA"
        ) from error
    if digest(arrays) == source.checksum:
        _write_npz(_copy(name, cache), arrays)
    return arrays, "OpenML"


def _stored(name: str, source: Source, folder: Path) -> bool:
    complete = bool(source.files) and all((folder / name / file).exists() for file, _ in source.files)
    return complete or _copy(name, folder).exists()


def _copy(name: str, folder: Path) -> Path:
    """Where a download is kept."""
    return folder / name / "arrays.npz"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmagic"


def _folders() -> list[Path]:
    given = os.environ.get("UNMAGIC_DATA")
    if given and not Path(given).is_dir():
        raise ValueError(f"UNMAGIC_DATA must name a folder, got '{given}'; create it, or unset the variable")
    return ([Path(given).resolve()] if given else []) + [_cache()]


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown data set '{name}'; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _read_idx(path: Path) -> np.ndarray:
    """An array in the IDX format: two zeros, the type (8 for uint8), the rank, the big-endian lengths, the data."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    lengths = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(lengths)


def _read_idx_files(paths: list[Path]) -> Arrays:
    x_train, y_train, x_test, y_test = (_read_idx(path) for path in paths)
    return x_train.copy(), y_train.astype(np.int64), x_test.copy(), y_test.astype(np.int64)


def _read_npz(paths: list[Path]) -> Arrays:
    try:
        with np.load(paths[0], allow_pickle=False) as stored:
            x_train, y_train, x_test, y_test = (stored[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        raise DataError(f"{paths[0]} cannot be read ({error}); replace it or remove it") from error
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _write_npz(path: Path, arrays: Arrays) -> None:
    """Written beside and renamed, so that an interrupted download leaves nothing half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.npz")
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(partial, **dict(zip(names, arrays, strict=True)))
    partial.replace(path)


def _hold_out(bunch: Any) -> Arrays:
    """scikit-learn's set with every fifth example held out."""
    x, y = bunch.data, bunch.target
    held = np.arange(len(x)) % 5 == 4
    return x[~held], y[~held].astype(np.int64), x[held], y[held].astype(np.int64)


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    return _hold_out(load_digits())


def _wine() -> Arrays:
    from sklearn.datasets import load_wine

    return _hold_out(load_wine())


def _breast_cancer() -> Arrays:
    from sklearn.datasets import load_breast_cancer

    return _hold_out(load_breast_cancer())


def _shwartz_ziv_tishby() -> Arrays:
    from experiments.shwartz_ziv_tishby import task

    patterns, labels = task()
    return patterns.astype(np.float64), labels, np.zeros((0, patterns.shape[1])), labels[:0].copy()


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
_FASHION_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)

SOURCES: dict[str, Source] = {
    "digits": Source(
        "8237f7c1dfa54b2ab6c4029c8b2ec898ee2316c10936c590e0cad1b8e67f8b81",
        "CC BY 4.0 (UCI, Alpaydin & Kaynak)",
        bundled=_digits,
    ),
    "wine": Source(
        "92de230757818ea4a4692a266ab82c5f19784b07114cf4d1870bb98c8de5ba03",
        "CC BY 4.0 (UCI, Aeberhard & Forina)",
        bundled=_wine,
    ),
    "breast-cancer": Source(
        "efd37b33963a88f453bd06b00cf473287cc662e127a8b81778cb090364748ab7",
        "CC BY 4.0 (UCI, Wolberg, Mangasarian, Street & Street)",
        bundled=_breast_cancer,
    ),
    "shwartz-ziv-tishby": Source(
        "d6340f5f1d6b58c7b49499cca097114affff4d635528aa3ce8bcc646eea77c15",
        "Apache-2.0 (regenerated from its rule)",
        bundled=_shwartz_ziv_tishby,
    ),
    "mnist": Source(
        "2c4b6e7a58d128e73f4775853a06ff31d55cf841576158e4a33e1e958498eb8a",
        "CC BY-SA 3.0 (LeCun, Cortes & Burges)",
        files=tuple(zip(_IDX, _MNIST_MD5, strict=True)),
        read=_read_idx_files,
        download=("mnist_784", 1),
    ),
    "fashion-mnist": Source(
        "a1f9654d8cad034f3604150cdf72ff67b946bdf8daf99a96e275a58066a55de3",
        "MIT (Zalando SE)",
        files=tuple(zip(_IDX, _FASHION_MD5, strict=True)),
        read=_read_idx_files,
        download=("Fashion-MNIST", 1),
    ),
    # The first 10,000 training and 1,000 test images: what the experiments here need, a fifth of the size.
    "cifar10": Source(
        "487703c1058a58a5f47d2578648d74439e1cf026a607cd963048d2ef9dbf004f",
        "none stated; for research, citing Krizhevsky 2009",
        files=(("cifar10_first10k_train_first1k_test.npz", "3d797067787e45fb1adfa193db3db6cc"),),
        read=_read_npz,
        download=("CIFAR_10", 1),
    ),
}
