"""The ledger as LaTeX, BibTeX, a web page; the paper's build, which an unknown macro or citation must fail."""

import shutil
import subprocess
from pathlib import Path

import pytest
import xarray as xr

from experiments.cli import main
from experiments.ledger import records
from experiments.registry import registry
from experiments.report import citations
from experiments.report.latex import (
    accuracies,
    clearance,
    escape,
    fields,
    ledger_table,
    macros,
    predicted,
    slug,
    value,
    with_error,
)
from experiments.report.page import markdown_table, with_table
from experiments.store import Store

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "paper/results"


@pytest.fixture(scope="module")
def published():
    return list(records(Store(PUBLISHED, write=False)))


def test_every_claim_has_published_evidence_with_the_expected_verdict(published):
    assert {r["claim"] for r in published} == set(registry().entries)
    assert all(r["as_expected"] for r in published)
    assert all(not r["dirty"] and len(r["commit"]) == 40 for r in published)


def test_published_evidence_is_small():
    assert sum(p.stat().st_size for p in PUBLISHED.rglob("*") if p.is_file()) < 20e6


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.25, r"\ensuremath{0.250}"),
        (-1234.5678, r"\ensuremath{-1235}"),
        (3.14159e-7, r"\ensuremath{3.14\times 10^{-7}}"),
        (100_000, r"\ensuremath{100\,000}"),
        ("inf", r"\ensuremath{\infty}"),
        (True, "yes"),
        ((64, 128), r"\ensuremath{64}, \ensuremath{128}"),
        ("50 % & more_", r"50 \% \& more\_"),
    ],
)
def test_values_in_latex(number, text):
    assert value(number) == text


@pytest.mark.parametrize(
    ("number", "error", "texts"),
    [
        (1.6258, 0.00204, ("1.6258", "0.0020")),
        (2.0, 2.8e-6, ("2.0000000", "0.0000028")),
        (8.8e-4, 0.0042, ("0.0009", "0.0042")),
        (-1e-5, 0.0042, ("0.0000", "0.0042")),
        (9.184e-4, 1.9e-4, (r"9.2\times 10^{-4}", r"1.9\times 10^{-4}")),
        (7.19e-5, 6.1e-4, (r"7\times 10^{-5}", r"6.1\times 10^{-4}")),
        (1234.6, 21.0, ("1235", "21")),
        (0.98765, 0.0, ("0.988", "0")),
    ],
)
def test_numbers_end_where_their_errors_do(number, error, texts):
    assert with_error(number, error) == tuple(rf"\ensuremath{{{text}}}" for text in texts)


@pytest.mark.parametrize(
    ("number", "text"), [(1.0, "1"), (-0.5, "-0.5"), (0.0, "0"), (0.9875, "0.9875"), (1 / 3, "0.3333")]
)
def test_predictions_known_exactly_are_printed_as_they_are(number, text):
    assert predicted(number, 0.0012) == rf"\ensuremath{{{text}}}"


def test_accuracies_are_shares_of_the_test_examples():
    right = xr.DataArray(
        [[[1, 1, 1, 0], [1, 0, 0, 0]]],
        dims=("kernel", "size", "test"),
        coords={"kernel": ["nngp"], "size": [100, 200]},
    )
    assert accuracies(xr.Dataset({"right": right})) == {
        "accuracy.nngp-100.measured": r"\ensuremath{0.75}",
        "accuracy.nngp-100.error": r"\ensuremath{0.22}",
        "accuracy.nngp-200.measured": r"\ensuremath{0.25}",
        "accuracy.nngp-200.error": r"\ensuremath{0.22}",
    }
    assert accuracies(xr.Dataset({"left": right})) == {}


def test_text_in_latex():
    assert escape("σ² ≤ n⁻¹") == (r"\ensuremath{\sigma}\ensuremath{^2} \ensuremath{\le} n\ensuremath{^{-1}}")
    with pytest.raises(ValueError, match=r"'☃' \(U\+2603\).*no LaTeX form"):
        escape("a ☃")
    assert (
        slug("exponent of the distance to the infinite network") == "exponent-of-the-distance-to-the-infinite-network"
    )
    assert clearance("inf") == "exact"
    assert clearance(1e72) == r"\ensuremath{>1000}"


def test_fields_are_those_of_the_record(published):
    record = next(r for r in published if r["claim"] == "ntk/linearised-dynamics")
    found = fields(record)
    assert found["status"] == "supported"
    row = record["verdict"]["comparisons"][0]
    measured, error = with_error(row["prediction"] + row["effect"], row["standard_error"])
    assert found[f"{slug(row['label'])}.measured"] == measured
    assert found[f"{slug(row['label'])}.error"] == error
    assert found["rival.bound-as-rate.status"] == "refuted"
    assert "claim@ntk/linearised-dynamics@status" in macros([record])
    assert r"\older" in ledger_table([record], {record["claim"]: True})
    assert r"\older" not in ledger_table([record], {record["claim"]: False})


def test_readme_table(published, tmp_path):
    from experiments.ledger import entry

    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    table = markdown_table([entry(r) for r in published])
    assert table.count("\n") == len(published) + 1
    assert table in with_table(readme, table)


def test_cite_prints_every_source_once_and_the_package(capsys):
    citations.cite(["ntk"])
    printed = capsys.readouterr().out
    assert printed.count("@") >= 5
    assert "{lee2019wide," in printed
    assert "{unmagic," in printed
    keys = [line for line in printed.splitlines() if line.startswith("@")]
    assert len(keys) == len(set(keys))


@pytest.fixture
def paper(tmp_path):
    """A copy of the paper around one paragraph, so that a build takes seconds."""
    folder = tmp_path / "paper"
    folder.mkdir()
    text = (ROOT / "paper/main.tex").read_text()
    preamble = text[: text.index(r"\maketitle")]

    def write(body):
        bibliography = "\\bibliographystyle{plainnat}\n\\bibliography{generated/references}\n"
        (folder / "main.tex").write_text(f"{preamble}\n{body}\n{bibliography}\\end{{document}}\n")
        generated = folder / "generated"
        generated.mkdir(exist_ok=True)
        (generated / "macros.tex").write_text(macros(list(records(Store(PUBLISHED, write=False)))))
        (generated / "references.bib").write_bytes(citations.BIBLIOGRAPHY.read_bytes())
        from experiments.report.paper import _latex

        return _latex(folder)

    return write


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")
def test_macros_work_in_text_captions_and_tables(paper, tmp_path):
    field = r"\claim{bounds/coverage}{status}"
    body = rf"\begin{{table}}[H]\caption{{It is {field}.}}\begin{{tabular}}{{l}}{field}\end{{tabular}}\end{{table}}"
    assert paper(body + r" Text: " + field + r"~\citep{lee2019wide}") == 0
    printed = subprocess.run(
        ["pdftotext", str(tmp_path / "paper/build/main.pdf"), "-"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.count("supported") == 3


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")
@pytest.mark.parametrize(
    ("body", "word"),
    [
        (r"\claim{bounds/coverage}{nonsense}", "no field"),
        (r"\claim{bounds/nonsense}{status}", "no field"),
        (r"\claimfigure{bounds/nonsense}", "not found"),
        (r"\citep{nobody2099}", "nobody2099"),
    ],
)
def test_an_unknown_macro_figure_or_key_fails_the_build(paper, body, word, capsys):
    assert paper(body + " " + r"\cite{lee2019wide}") == 1
    assert word in capsys.readouterr().err


def test_no_latex_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_:
        main(["paper"])
    assert exit_.value.code == 2
    assert "install LaTeX" in capsys.readouterr().err
