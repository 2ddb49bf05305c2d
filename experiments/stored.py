"""Configurations as they come back from storage."""

from __future__ import annotations

from typing import Any

from experiments.errors import UsageError


def stored_config(current: object, fields: dict[str, Any]) -> Any:
    """The configuration that evidence was measured with; lists from JSON become tuples again.

    Args:
        current: an instance of the claim's `Config` as it is today.
        fields: as provenance has them.

    Raises:
        UsageError: the fields are no longer those of the claim's `Config`.
    """
    try:
        return type(current)(**{name: _tuples(value) for name, value in fields.items()})
    except TypeError as error:
        raise UsageError(f"the evidence was measured with other settings ({error}): verify the claim again") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
