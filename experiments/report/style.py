"""One look for all figures: text width of the paper, colours that survive print and colour-blindness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito 2008, ordered so that neighbours also differ in lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Inches: the text width of the paper, and a height that leaves room for a caption.
WIDTH, HEIGHT = 5.5, 3.0


def settings() -> dict[Any, Any]:
    """matplotlib's settings for every figure."""
    from tueplots import axes, fontsizes

    return {
        **axes.lines(),
        **fontsizes.jmlr2001(default_smaller=2),
        "font.family": "serif",
        "font.serif": ["STIXGeneral"],
        "mathtext.fontset": "stix",
        "axes.prop_cycle": _cycle(),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "errorbar.capsize": 1.5,
        "lines.markersize": 3.5,
        "figure.constrained_layout.use": True,
        # Text stays text (searchable, and small files); no dates, so that equal figures are equal files.
        "svg.fonttype": "none",
        "svg.hashsalt": "unmagic",
        "pdf.fonttype": 42,
    }


def new_figure() -> Figure:
    """An empty figure of text width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, HEIGHT), layout="constrained")


def _cycle() -> Any:
    from cycler import cycler

    return cycler(color=list(COLOURS))
