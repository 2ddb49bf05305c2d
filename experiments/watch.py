"""Progress on the terminal while claims are measured."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments.report.tables import GLYPHS, clearance_text
from experiments.runner import Observer
from experiments.worker import Task


class Watch(Observer):
    """Shows a bar of cells, and a line for each verdict."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("planning", total=None)

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def message(self, text: str) -> None:
        self._console.print(f"unmagic: {text}", markup=False, highlight=False, soft_wrap=True)

    def planned(self, tasks: int) -> None:
        self._progress.update(self._bar, total=tasks, description="measuring")

    def started(self, task: Task) -> None:
        self._progress.update(self._bar, description=task.name)

    def finished(self, count: int) -> None:
        self._progress.advance(self._bar, count)

    def judged(self, record: dict[str, Any]) -> None:
        verdict = record["verdict"]
        rivals = [r["status"] for r in record["rivals"].values()]
        lost = sum(r["status"] == r["expected"] for r in record["rivals"].values())
        self._console.print(
            f"{GLYPHS[verdict['status']]} {record['claim']} seed {record['seed']}: {verdict['status']}, "
            f"clearance {clearance_text(verdict['clearance'])}, {lost} of {len(rivals)} rivals lost, "
            f"{record['run']['seconds']:.1f} s{' (stored)' if record['run']['stored'] else ''}",
            highlight=False,
            soft_wrap=True,
        )
