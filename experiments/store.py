"""The results folder: evidence that is never half written, and is never believed when it was altered.

    <root>/ledger.json
    <root>/<tier>/<area>/<claim>/seed-<n>/provenance.json    how it was measured; names the evidence files
                                          evidence-<sha>.nc  a file's name holds the start of its SHA-256
                                          verdict.json       judged from that evidence
                                          figure.svg, figure.pdf
                                          cells/<key>-<sha>.nc   only while a measurement is under way

Every file is written under a temporary name and renamed. `provenance.json` is the point of commitment: it is replaced
after the evidence that it names lies on disk, and JSON files hold their own SHA-256. Reading runs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UsageError
from experiments.provenance import canonical

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1


class AlteredError(Exception):
    """A stored file is not what was written; the message names it."""


class Store:
    """A results folder.

    Args:
        root: created when missing.
        write: whether this process is going to write; then the folder is tried out at once.

    Raises:
        UsageError: the folder cannot be written, or another version of this package wrote it.
    """

    def __init__(self, root: Path, *, write: bool = True) -> None:
        self.root = root
        if write:
            try:
                root.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=root):
                    pass
            except OSError as error:
                raise UsageError(
                    f"cannot write to the results folder {root} ({error.strerror}): choose another with --out"
                ) from None
        ledger = root / "ledger.json"
        if ledger.exists():
            try:
                found = json.loads(ledger.read_text(encoding="utf-8")).get("format")
            except (ValueError, AttributeError, OSError):
                found = None if not write else FORMAT  # the ledger is derived: an unreadable one is made anew
            if found != FORMAT:
                raise UsageError(
                    f"the results folder {root} has format {found}, this version reads {FORMAT}: "
                    "choose another with --out, or remove it"
                )

    def folder(self, tier: str, claim_id: str, seed: int) -> Path:
        return self.root / tier / claim_id / f"seed-{seed}"

    # --- cells under way -------------------------------------------------------------------------------------------

    def save_cell(self, folder: Path, key: str, data: xr.Dataset) -> None:
        content = to_bytes(data.assign_attrs(key=key))
        name = f"{key[:32]}-{_sha(content)[:16]}.nc"
        write_atomically(folder / "cells" / name, content)

    def load_cells(self, folder: Path) -> tuple[dict[str, xr.Dataset], list[str]]:
        """Finished cells by the first half of their key, and the names of files that are not what was written."""
        cells: dict[str, xr.Dataset] = {}
        altered: list[str] = []
        for path in sorted((folder / "cells").glob("*.nc")):
            key, _, sha = path.stem.partition("-")
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # another run sealed its evidence just now
                continue
            data = from_bytes(content) if _sha(content)[:16] == sha else None
            # The key inside says whose result it is, whatever the file is called.
            if data is not None and str(data.attrs.pop("key", ""))[:32] == key:
                cells[key] = data
            else:
                altered.append(str(path))
        return cells, altered

    def start_afresh(self, folder: Path) -> None:
        """Drops unfinished cells, and notes that evidence from before is to be replaced, even by a later run."""
        for path in (folder / "cells").glob("*.nc"):
            path.unlink(missing_ok=True)
        write_atomically(folder / "cells" / "fresh", b"")

    def is_afresh(self, folder: Path) -> bool:
        """Whether a run that measures everything anew was interrupted here."""
        return (folder / "cells" / "fresh").exists()

    # --- evidence --------------------------------------------------------------------------------------------------

    def seal(self, folder: Path, evidence: Mapping[str, xr.Dataset], provenance: dict[str, Any]) -> dict[str, Any]:
        """Stores a finished measurement; afterwards its cells' files are gone.

        Args:
            evidence: measurement by variant (the empty name is the claim's own).
            provenance: plain data; `evidence` and `sha256` are added here.

        Returns:
            The provenance as stored.
        """
        files: dict[str, dict[str, str]] = {}
        with locked(folder):
            for variant, data in evidence.items():
                content = to_bytes(data)
                sha = _sha(content)
                name = f"evidence-{variant + '-' if variant else ''}{sha[:16]}.nc"
                write_atomically(folder / name, content)
                files[variant] = {"file": name, "sha256": sha}
            record = write_json(folder / "provenance.json", {**provenance, "format": FORMAT, "evidence": files})
            kept = {f["file"] for f in files.values()}
            for path in folder.glob("evidence-*.nc"):
                if path.name not in kept:
                    path.unlink(missing_ok=True)
            for path in (folder / "cells").glob("[!.]*"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (folder / "cells").rmdir()
        return record

    def load_evidence(self, folder: Path) -> tuple[dict[str, xr.Dataset], dict[str, Any]] | None:
        """Evidence and provenance, or None when there is none.

        Raises:
            AlteredError: a file is missing or not what was written.
        """
        # A second look, since another run may have replaced the evidence between reading its name and the file.
        for attempt in (1, 2):
            if not (folder / "provenance.json").exists():
                return None
            provenance = read_json(folder / "provenance.json")
            try:
                contents = self.check_files(folder, provenance["evidence"])
                return {variant: from_bytes(content) for variant, content in contents.items()}, provenance
            except AlteredError:
                if attempt == 2:
                    raise
        return None

    def check_files(self, folder: Path, files: Mapping[str, Mapping[str, str]]) -> dict[str, bytes]:
        """Contents of evidence files by variant.

        Raises:
            AlteredError: a file is missing or not what was written.
        """
        contents = {}
        for variant, entry in files.items():
            path = folder / entry["file"]
            try:
                contents[variant] = path.read_bytes()
            except FileNotFoundError:
                raise AlteredError(f"{path} is missing") from None
            if _sha(contents[variant]) != entry["sha256"]:
                raise AlteredError(f"{path} is not what was written (its SHA-256 differs)")
        return contents


def write_json(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Writes plain data with a SHA-256 of its content inside; returns what was written."""
    record = {**data, "sha256": _sha(canonical(data).encode())}
    write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    return record


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Raises:
        AlteredError: it is not what was written.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sha = record.pop("sha256")
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError):
        raise AlteredError(f"{path} is not what was written (it cannot be read)") from None
    if _sha(canonical(record).encode()) != sha:
        raise AlteredError(f"{path} is not what was written (its SHA-256 differs)")
    return {**record, "sha256": sha}


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside the target, flushes to disk, then renames: a reader sees the old file or the new one."""
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; results are meant to be read by others.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> tuple[int, str]:
    # Another run that has just sealed its evidence may remove the empty folder between our two steps.
    for attempt in range(5):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except FileNotFoundError:
            if attempt == 4:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes on this machine that seal or scan it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)  # the folder itself, so that no lock file is left among the results
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def to_bytes(data: xr.Dataset) -> bytes:
    """A data set as netCDF."""
    buffer = io.BytesIO()
    data.to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()


def from_bytes(content: bytes) -> xr.Dataset:
    """A data set from netCDF, wholly in memory."""
    import xarray as xr

    return xr.load_dataset(io.BytesIO(content), engine="h5netcdf")


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
