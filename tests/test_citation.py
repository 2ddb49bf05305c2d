"""The citation file, against the format's own schema."""

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import yaml
from jsonschema import Draft7Validator, FormatChecker

ROOT = Path(__file__).parents[1]


def citation():
    # A date in the file is a date in YAML and a string in the schema.
    return json.loads(json.dumps(yaml.safe_load((ROOT / "CITATION.cff").read_text()), default=str))


def validator():
    schema = json.loads((files("cffconvert") / "schemas/1.2.0/schema.json").read_text())
    return Draft7Validator(schema, format_checker=FormatChecker())


def test_it_fits_the_schema():
    assert not [e.message for e in validator().iter_errors(citation())]


def test_the_schema_can_fail():
    assert list(validator().iter_errors({**citation(), "license": "My own"}))


def test_it_names_the_version_that_is_installed():
    assert citation()["version"] == version("unmagic")
