"""The command `unmagic`. Nothing here imports JAX before a claim is run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from experiments.errors import UsageError

OUT = Path("results")
PUBLISHED = Path("paper/results")
MAX_SEED = 2**32


@dataclass(frozen=True)
class List:
    """Show claims: id, kind, source, expected verdict, last verdict."""

    pattern: Positional[tuple[str, ...]] = ()
    """Ids, areas or patterns such as 'ntk/*'; all when none is given."""
    out: Path = OUT
    """Results folder to look up last verdicts in (then paper/results)."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from experiments.commands import list_claims

        return list_claims(self.pattern, self.out, as_json=self.json)


@dataclass(frozen=True)
class Show:
    """Show one claim: statement, source, prediction, evidence, path of the figure."""

    id: Positional[str]
    """The claim's id."""
    out: Path = OUT
    """Results folder (then paper/results)."""

    def run(self) -> int:
        from experiments.commands import show

        return show(self.id, self.out)


@dataclass(frozen=True)
class Verify:
    """Measure claims and give verdicts. Finished cells are kept and skipped."""

    pattern: Positional[tuple[str, ...]] = ()
    """Ids, areas or patterns such as 'ntk/*'; all when none is given."""
    tier: Literal["smoke", "paper", "scale"] = "smoke"
    """Sizes: smoke takes seconds a claim, paper minutes, scale a GPU or a cluster."""
    seed: int = 0
    """The first seed."""
    seeds: int = 1
    """How many seeds, counted from --seed."""
    out: Path = OUT
    """Results folder."""
    json: bool = False
    """Print the ledger's entries of this run as JSON."""
    dry_run: bool = False
    """Say what would be measured, and measure nothing."""
    fresh: bool = False
    """Measure again what is stored."""
    executor: str = "local"
    """local, processes, processes:N or dask://HOST:PORT."""

    def run(self) -> int:
        if not 0 <= self.seed < MAX_SEED:
            raise UsageError(f"--seed must lie between 0 and 2^32 − 1, got {self.seed}")
        if not 1 <= self.seeds <= MAX_SEED - self.seed:
            raise UsageError(f"--seeds must be at least 1 (and stay below 2^32 with --seed), got {self.seeds}")
        from experiments.commands import verify

        return verify(
            self.pattern,
            tier=self.tier,
            seeds=range(self.seed, self.seed + self.seeds),
            out=self.out,
            as_json=self.json,
            dry_run=self.dry_run,
            fresh=self.fresh,
            executor=self.executor,
        )


@dataclass(frozen=True)
class Figure:
    """Redraw a claim's figure from stored evidence, without training."""

    id: Positional[str]
    """The claim's id."""
    source: Annotated[Path, arg(name="from")] = OUT
    """Results folder."""
    tier: Literal["smoke", "paper", "scale"] | None = None
    """Which evidence; by default the largest tier that is there."""
    seed: int | None = None
    """Which seed; by default the smallest that is there."""
    to: Path | None = None
    """Folder for figure.svg and figure.pdf; by default beside the evidence."""

    def run(self) -> int:
        from experiments.commands import figure

        return figure(self.id, self.source, self.tier, self.seed, self.to)


@dataclass(frozen=True)
class Report:
    """Write the ledger as a web page (and, with --readme, as the table in README.md)."""

    source: Annotated[Path, arg(name="from")] = OUT
    """Results folder."""
    to: Path | None = None
    """The page; by default report.html in the results folder."""
    readme: Path | None = None
    """A README whose ledger table is brought up to date as well."""

    def run(self) -> int:
        from experiments.report.page import report

        return report(self.source, self.to, self.readme)


@dataclass(frozen=True)
class Paper:
    """Judge the published evidence anew and build the paper. Needs a checkout and LaTeX."""

    source: Annotated[Path, arg(name="from")] = PUBLISHED
    """Results folder."""
    paper: Path = Path("paper")
    """Folder with main.tex."""

    def run(self) -> int:
        from experiments.report.paper import build

        return build(self.source, self.paper)


@dataclass(frozen=True)
class Cite:
    """BibTeX of the claims' sources and of this package."""

    id: Positional[tuple[str, ...]] = ()
    """Ids, areas or patterns; all when none is given."""

    def run(self) -> int:
        from experiments.report.citations import cite

        return cite(self.id)


Command = (
    Annotated[List, subcommand("list")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Figure, subcommand("figure")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Paper, subcommand("paper")]
    | Annotated[Cite, subcommand("cite")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit status: 0 every verdict as expected, 1 some not, 2 wrong use, 130 interrupted."""
    parse: Callable[..., List | Show | Verify | Figure | Report | Paper | Cite] = tyro.cli
    try:
        command = parse(
            Command,
            args=arguments,
            prog="unmagic",
            description="Theories of deep learning, compared with finite networks.",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        status = command.run()
        sys.stdout.flush()
    except UsageError as error:
        print(f"unmagic: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # the reader (head, less) has seen enough
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        print(
            "\nunmagic: interrupted; finished cells are kept, and the same command goes on from there", file=sys.stderr
        )
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
