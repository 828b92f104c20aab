"""Settings of a run: a preset, changed by key=value, --key value or --key=value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any


class ConfigError(ValueError):
    """A setting that is none, or has a value that it can't have. The message is one line."""


def parse(arguments: Sequence[str], presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings that arguments ask for.

    presets: "paper" has every key with its default; the others say what differs. `preset=NAME` picks one, wherever it
    stands. A value is read as the type that its default has.

    >>> parse(["--lr", "0.1", "preset=small"], {"paper": {"lr": 1.0, "epochs": 9}, "small": {"epochs": 2}})
    {'lr': 0.1, 'epochs': 2}
    """
    given = pairs(arguments)
    name = given.pop("preset", "paper")
    if name not in presets:
        raise ConfigError(f"preset: expected one of {', '.join(presets)}, got {name!r}")
    settings = {**presets["paper"], **presets[name]}
    for key, text in given.items():
        if key not in settings:
            near = difflib.get_close_matches(key, settings, 1)
            hint = f", did you mean {near[0]}?" if near else f", known are {', '.join(sorted(settings))}"
            raise ConfigError(f"{key}: unknown setting{hint}")
        settings[key] = _read(key, text, type(settings[key]))
    _check(settings)
    return settings


# Settings with few values, and the least of those that have one.
WORDS = {
    "optimizer": ("adam", "adamw"),
    "precision": ("fp32", "bf16"),
    "group": ("prob", "uniform", "canonical", "frame"),
}
COUNTS = ("epochs", "batch_size", "samples", "eval_samples", "eval_every", "repeats", "most_samples")
COUNTS += ("train_count", "valid_count", "test_count", "count", "score_layers", "score_hidden", "hidden", "layers")
SIZES = ("lr", "group_rate", "weight_decay", "clip", "warmup_epochs", "max_steps", "patience")
SIZES += ("noise_scale", "data_seed")
LEAST = {**dict.fromkeys(COUNTS, 1), **dict.fromkeys(SIZES, 0)}


def _check(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if key in WORDS and value not in WORDS[key]:
            raise ConfigError(f"{key}: expected one of {', '.join(WORDS[key])}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}: expected a finite number, got {value}")
        if key in LEAST and value < LEAST[key]:
            raise ConfigError(f"{key}: expected {LEAST[key]} or more, got {value}")
        if key == "stand_in" and value != 0 and value < 4:
            raise ConfigError(f"stand_in: expected 4 graphs or more, so that every split has one, or 0, got {value}")
        if key == "seed" and not 0 <= value < 2**32:
            raise ConfigError(f"seed: expected 0 to {2**32 - 1}, got {value}")


def pairs(arguments: Sequence[str]) -> dict[str, str]:
    """Keys and values as they are written, the last of a key that comes twice.

    >>> pairs(["--max-steps", "7", "lr=1e-3"])
    {'max_steps': '7', 'lr': '1e-3'}
    """
    arguments, given = list(arguments), {}
    while arguments:
        first = arguments.pop(0)
        key, equals, value = first.removeprefix("--").partition("=")
        if not equals:
            if not first.startswith("--") or not arguments:
                raise ConfigError(f"{first}: expected key=value or --key value")
            value = arguments.pop(0)
        given[key.replace("-", "_")] = value
    return given


def _read(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ConfigError(f"{key}: expected true or false, got {text!r}")
        return words[text.lower()]
    try:
        return kind(text)
    except ValueError:
        word = {"int": "a whole number", "float": "a number"}[kind.__name__]
        raise ConfigError(f"{key}: expected {word}, got {text!r}") from None


def choose(key: str, value: str, table: dict[str, Any]) -> Any:
    """The entry of a table that a setting names."""
    if value not in table:
        raise ConfigError(f"{key}: expected one of {', '.join(table)}, got {value!r}")
    return table[value]
