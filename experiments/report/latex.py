"""The ledger as LaTeX: macros, and the table of verdicts."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.ledger import number

if TYPE_CHECKING:
    import xarray as xr

# What labels and sentences of claims may hold beside ASCII; anything else stops the build instead of vanishing.
_SYMBOLS = {
    "−": "-", "–": "--", "—": "---", "…": r"\ldots{}", "×": r"\times", "·": r"\cdot", "±": r"\pm", "√": r"\surd",
    "≤": r"\le", "≥": r"\ge", "≈": r"\approx", "≪": r"\ll", "≫": r"\gg", "≠": r"\ne", "∞": r"\infty", "∈": r"\in",
    "∝": r"\propto", "→": r"\to", "←": r"\leftarrow", "∂": r"\partial", "∫": r"\int", "∑": r"\sum", "∏": r"\prod",
    "‖": r"\Vert", "½": r"\tfrac12", "⅓": r"\tfrac13", "¼": r"\tfrac14", "¾": r"\tfrac34", "²": "^2", "³": "^3",
    "⁴": "^4", "⁵": "^5", "⁻": "^-", "¹": "^1", "⁰": "^0", "₀": "_0", "₁": "_1", "₂": "_2", "α": r"\alpha",
    "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "η": r"\eta", "θ": r"\theta",
    "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho",
    "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "Δ": r"\Delta",
    "Θ": r"\Theta", "Σ": r"\Sigma", "Φ": r"\Phi", "Ω": r"\Omega", "′": "'", "‐": "-", "’": "'", "“": "``",
    "”": "''", "é": r"\'e", "ö": r'\"o', "ü": r'\"u', "ż": r"\.z",
}  # fmt: skip
_TEXT = {"–", "—", "…", "−", "‐", "’", "“", "”", "é", "ö", "ü", "ż", "′"}
_ESCAPES = {c: f"\\{c}" for c in "#$%&_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$",
    "|": "$|$",
}  # fmt: skip


def escape(text: str) -> str:
    """Plain text as LaTeX.

    Raises:
        ValueError: a character has no known LaTeX form; it names the character.
    """
    out = []
    for character in text:
        if character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif character in _SYMBOLS:
            symbol = _SYMBOLS[character]
            out.append(symbol if character in _TEXT else rf"\ensuremath{{{symbol}}}")
        elif character.isascii():
            out.append(character)
        else:
            raise ValueError(
                f"'{character}' (U+{ord(character):04X}) in '{text}' has no LaTeX form yet: add it to latex.py"
            )
    # Superscripts in a row (n⁻¹) become one.
    return re.sub(r"\\ensuremath\{\^-\}\\ensuremath\{\^(\w)\}", r"\\ensuremath{^{-\1}}", "".join(out))


def value(x: Any, digits: int = 3) -> str:
    """A number, text or flag as LaTeX; numbers get three significant digits."""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, list | tuple):
        return ", ".join(value(v) for v in x)
    if isinstance(x, int):
        return rf"\ensuremath{{{f'{x:,}'.replace(',', chr(92) + ',')}}}"
    if isinstance(x, str) and x not in ("nan", "inf", "-inf"):
        return escape(x)
    y = number(x)
    if math.isnan(y):
        return "--"
    if math.isinf(y):
        return r"\ensuremath{\infty}" if y > 0 else r"\ensuremath{-\infty}"
    if y == 0:
        return r"\ensuremath{0}"
    if 1e-3 <= abs(y) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(y))), 0)
        return rf"\ensuremath{{{y:.{decimals}f}}}"
    mantissa, exponent = f"{y:.{digits - 1}e}".split("e")
    return rf"\ensuremath{{{mantissa}\times 10^{{{int(exponent)}}}}}"


def with_error(x: float, error: float) -> tuple[str, str]:
    """A number and its standard error, both to the error's second digit; without an error, as `value` has them."""
    if not (math.isfinite(x) and math.isfinite(error) and error > 0):
        return value(x), value(error, 2)
    last = 1 - math.floor(math.log10(error))
    if 1e-3 <= max(abs(x), error) < 1e5:
        # No negative zero.
        return rf"\ensuremath{{{round(x, last) + 0.0:.{max(last, 0)}f}}}", rf"\ensuremath{{{error:.{max(last, 0)}f}}}"
    digits = math.floor(math.log10(abs(x))) + last + 1 if x else 1
    return value(x, max(digits, 1)), value(error, 2)


def predicted(x: float, error: float) -> str:
    """A prediction to the digits of the measurement's error; exponents like 1 or 0.5, known exactly, as they are."""
    if abs(x) < 1000 and x == round(x, 2):
        return rf"\ensuremath{{{x + 0.0:g}}}"
    return with_error(x, error)[0]


def slug(label: str) -> str:
    """A comparison's label as part of a macro's field: lower-case words joined by dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")


def fields(record: Mapping[str, Any]) -> dict[str, str]:
    """What `\\claim{ID}{field}` knows of one verdict record."""
    verdict = record["verdict"]
    rows = verdict["comparisons"]
    out = {
        "id": escape(record["claim"]),
        "kind": record["kind"],
        "expected": record["expected"],
        "status": verdict["status"],
        "clearance": clearance(verdict["clearance"]),
        "margin-source": escape(verdict["margin_source"]),
        "comparisons": value(len(rows)),
        "rivals": value(len(record["rivals"])),
        "seconds": value(float(record["run"]["seconds"])),
        "minutes": value(float(record["run"]["seconds"]) / 60, 2),
        "seed": value(record["seed"]),
        "commit": escape(record["commit"][:10] or "unknown"),
        "backend": escape(record["backend"]),
        "jax": escape(record["versions"].get("jax", "unknown")),
    }
    for name, x in record["config"].items():
        out[f"config.{name.replace('_', '-')}"] = value(x)
    if verdict["decisive"] >= 0:
        out["decisive"] = escape(rows[verdict["decisive"]]["label"])
        out |= _comparison_fields("", rows[verdict["decisive"]])
    for row in rows:
        out |= _comparison_fields(f"{slug(row['label'])}.", row)
    for name, rival in record["rivals"].items():
        out[f"rival.{name}.status"] = rival["status"]
        out[f"rival.{name}.clearance"] = clearance(rival["clearance"])
    return out


def accuracies(measurement: xr.Dataset) -> dict[str, str]:
    """What `\\claim{ID}{accuracy.…}` knows where a measurement says which test examples are classified `right`.

    Accuracies are shares of the test examples with their binomial standard errors, named by the labels of the other
    dimensions: `accuracy.nngp-60000.measured`.
    """
    if "right" not in measurement:
        return {}
    right, out = measurement["right"], {}
    others = [str(dim) for dim in right.dims if dim != "test"]
    for labels in itertools.product(*(right[dim].values for dim in others)):
        row = right.sel(dict(zip(others, labels, strict=True)))
        share = float(row.mean())
        error = math.sqrt(share * (1 - share) / row.size)
        prefix = f"accuracy.{slug('-'.join(str(label) for label in labels))}."
        out[f"{prefix}measured"], out[f"{prefix}error"] = with_error(share, error)
    return out


def macros(records: Sequence[Mapping[str, Any]], measurements: Mapping[str, xr.Dataset] | None = None) -> str:
    """Definitions for `\\claim`, one a field.

    Args:
        measurements: by claim, for what no comparison has.
    """
    lines = ["% Made by `unmagic paper` from the results; never edited."]
    for record in records:
        found = fields(record)
        if measurements is not None:
            found |= accuracies(measurements[record["claim"]])
        for name, text in found.items():
            lines.append(rf"\expandafter\gdef\csname claim@{record['claim']}@{name}\endcsname{{{text}}}")
    return "\n".join(lines) + "\n"


def ledger_table(records: Sequence[Mapping[str, Any]], older: Mapping[str, bool]) -> str:
    """The rows of the table of verdicts.

    Args:
        older: by claim, whether its evidence was measured by other code than there is now.
    """
    rows = []
    for record in records:
        verdict = record["verdict"]
        decisive = verdict["comparisons"][verdict["decisive"]] if verdict["decisive"] >= 0 else None
        lost = sum(r["status"] == r["expected"] for r in record["rivals"].values())
        mark = r"\older" if older[record["claim"]] else ""
        cells = [
            rf"\texttt{{{escape(record['claim'])}}}",
            record["kind"],
            verdict["status"] + ("" if record["as_expected"] else r" (\textbf{unexpected})"),
            value(decisive["effect"], 2) if decisive else "--",
            _region(decisive) if decisive else "--",
            clearance(verdict["clearance"]),
            f"{lost}/{len(record['rivals'])}",
            rf"\texttt{{{escape(record['commit'][:7])}}}{mark}",
        ]
        rows.append(" & ".join(cells) + r" \\")
    return "% Made by `unmagic paper` from the results; never edited.\n" + "\n".join(rows) + "\n"


def clearance(x: Any) -> str:
    y = number(x)
    if math.isnan(y):
        return "--"
    if math.isinf(y):
        return "exact"
    return r"\ensuremath{>1000}" if y > 1000 else rf"\ensuremath{{{y:.1f}}}"


def _comparison_fields(prefix: str, row: Mapping[str, Any]) -> dict[str, str]:
    prediction, effect = number(row["prediction"]), number(row["effect"])
    margin = row["region_high"] if math.isfinite(number(row["region_high"])) else row["region_low"]
    error = number(row["standard_error"])
    measured, its_error = with_error(prediction + effect, error)
    return {
        f"{prefix}predicted": predicted(prediction, error),
        f"{prefix}measured": measured,
        f"{prefix}effect": with_error(effect, error)[0] if error else value(effect, 2),
        f"{prefix}low": value(row["low"]),
        f"{prefix}high": value(row["high"]),
        f"{prefix}measured-low": value(prediction + number(row["low"])),
        f"{prefix}measured-high": value(prediction + number(row["high"])),
        f"{prefix}error": its_error,
        f"{prefix}margin": value(margin, 2),
        f"{prefix}samples": value(int(row["sample_size"])) if row["sample_size"] else "exact",
    }


def _region(row: Mapping[str, Any]) -> str:
    low, high = number(row["region_low"]), number(row["region_high"])
    if low == -high:
        return rf"\ensuremath{{\pm}}{value(high, 2)}"
    if math.isinf(low):
        return rf"\ensuremath{{<}}{value(high, 2)}"
    if math.isinf(high):
        return rf"\ensuremath{{>}}{value(low, 2)}"
    return f"{value(low, 2)} to {value(high, 2)}"
