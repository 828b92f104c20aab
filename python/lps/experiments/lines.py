"""Results as lines of JSON."""

from __future__ import annotations

import json
import math
from typing import Any


def line(result: dict[str, Any]) -> str:
    """A result on one line, with null for numbers that are not finite, which JSON has not.

    >>> line({"loss": float("nan"), "history": [{"r2": -float("inf")}, {"r2": 0.5}]})
    '{"loss": null, "history": [{"r2": null}, {"r2": 0.5}]}'
    """
    return json.dumps(_finite(result), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
