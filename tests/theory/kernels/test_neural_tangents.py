"""The adapter sets what is missing and nothing else; each check runs in a clean interpreter."""

import json
import subprocess
import sys
import textwrap

NAMES = [
    *(
        f"jax.core.{name}"
        for name in (
            "Jaxpr",
            "JaxprEqn",
            "Literal",
            "Var",
            "Primitive",
            "AbstractValue",
            "Value",
            "ShapedArray",
            "eval_context",
        )
    ),
    "jax.util.safe_map",
    "jax.util.safe_zip",
    "jax.interpreters.ad.zeros_like_p",
]

# Records every public attribute of the modules concerned, before and after.
SNAPSHOT = """
import importlib, json, sys
import jax, jax.core, jax.interpreters.ad

def snapshot():
    found = {}
    for name in ("jax", "jax.core", "jax.util", "jax.interpreters.ad"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        found |= {f"{name}.{key}": id(value) for key, value in vars(module).items() if not key.startswith("__")}
    return found
"""


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", SNAPSHOT + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_it_sets_what_is_missing_and_nothing_that_exists():
    report = run(
        """
        from theory.kernels import infinite  # whatever our own imports do to JAX is not the adapter's doing
        before = snapshot()
        from theory.kernels import neural_tangents as adapter
        after = snapshot()
        print(json.dumps({
            "set": adapter.adapted,
            "again": adapter.adapt(),
            "changed": [key for key in before if after.get(key) != before[key]],
            "new": sorted(set(after) - set(before)),
            "before": sorted(before),
            "tensorflow": "tensorflow" in sys.modules,
        }))
        """
    )
    missing = [name for name in NAMES if name not in report["before"]]
    assert set(missing) <= set(report["set"])
    assert not set(report["set"]) & set(report["before"])
    assert report["changed"] == []
    assert report["again"] == []
    assert not report["tensorflow"]
    # Beyond those names only the emptied module itself, and submodules that neural-tangents imports.
    allowed = {*report["set"], "neural_tangents.experimental"}
    unexpected = [key for key in report["new"] if key not in allowed and not key.startswith("jax._src")]
    assert [key for key in unexpected if key.startswith(("jax.core.", "jax.util.", "jax.interpreters.ad."))] == []


def test_a_name_that_exists_is_left_alone():
    report = run(
        """
        marker = object()
        jax.core.Jaxpr = marker
        from theory.kernels import neural_tangents as adapter
        print(json.dumps({"kept": jax.core.Jaxpr is marker, "set": adapter.adapted}))
        """
    )
    assert report["kept"]
    assert "jax.core.Jaxpr" not in report["set"]


def test_without_neural_tangents_the_error_names_the_extra():
    report = run(
        """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "neural_tangents" else find(name, *rest)
        try:
            import theory.kernels.neural_tangents
        except ImportError as error:
            print(json.dumps(str(error)))
        """
    )
    assert "unmagic[reference]" in report
    assert "not installed" in report
