"""Downloads from OpenML through scikit-learn, with a progress bar."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# Shape of an image as OpenML stores it (flat), and the numbers of training and test images to keep. OpenML holds the
# training images before the test images, in the published order.
LAYOUTS: dict[str, tuple[tuple[int, ...], int, int, int]] = {
    "mnist": ((28, 28), 60_000, 60_000, 10_000),
    "fashion-mnist": ((28, 28), 60_000, 60_000, 10_000),
    "cifar10": ((3, 32, 32), 50_000, 10_000, 1_000),
}


def openml(name: str, title: str, version: int, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The arrays (x_train, y_train, x_test, y_test) of a data set of images.

    Args:
        name: ours; title, version: OpenML's.
        cache: folder in which the raw file is kept while it is read.

    Raises:
        OSError, ValueError: there is no network, or OpenML does not answer as expected.
    """
    from sklearn.datasets import fetch_openml

    cache.mkdir(parents=True, exist_ok=True)
    shape, published, train, test = LAYOUTS[name]
    with tempfile.TemporaryDirectory(dir=cache) as folder, _progress(name, Path(folder)):
        # pandas reads the file twenty times faster than scikit-learn's own parser; xarray brings it anyway.
        fetched = fetch_openml(
            title, version=version, data_home=folder, return_X_y=True, as_frame=False, parser="pandas", n_retries=1
        )
    x = np.asarray(fetched[0]).astype(np.uint8).reshape(-1, *shape)
    if len(shape) == 3:
        # Colours last, as images are shown.
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    y = np.asarray(fetched[1]).astype(np.int64)
    return x[:train], y[:train], x[published : published + test], y[published : published + test]


@contextmanager
def _progress(name: str, folder: Path) -> Iterator[None]:
    """A bar that shows how much has arrived: scikit-learn does not say, so the growing files are looked at."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    finished = threading.Event()
    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def watch() -> None:
            while not finished.wait(0.2):
                bar.update(task, completed=_size(folder))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # A file may be renamed between being listed and being measured.
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
