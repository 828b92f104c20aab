"""Learning curves of the results in files of JSON lines: python -m lps.experiments.curves SCORE FILE... PICTURE."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Draw; 2 after a line where the arguments are wrong."""
    if len(arguments) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    score, *files, picture = arguments
    try:
        results = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
        draw(results, score, picture)
    except (ValueError, OSError) as error:
        print(f"lps curves: {error}", file=sys.stderr)
        return 2
    return 0


def draw(results: list[dict[str, Any]], score: str, picture: str) -> None:
    """Validation scores by epoch, one line a result and a colour a model, and beside them the training loss."""
    import matplotlib.pyplot as plt

    if not all(isinstance(result, dict) and "config" in result for result in results):
        raise ValueError("FILE: expected lines of results, with a config each")
    rows = [row for result in results for row in result.get("history", [])]
    if all(row.get(f"valid_{score}") is None for row in rows):
        raise ValueError(f"SCORE: expected one that a line of results has a learning curve of, got {score!r}")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    drawn: dict[str, str] = {}  # label -> colour: runs that differ in their seed look alike
    for result in results:
        config, rows = result["config"], result.get("history", [])
        label = ", ".join(str(config[k]) for k in ("backbone", "group") if k in config)
        again, colour = label in drawn, drawn.setdefault(label, f"C{len(drawn)}")
        for axis, key in zip(axes, (f"valid_{score}", "train_loss")):
            points = [(row["epoch"] + 1, row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points), marker=".", color=colour, label="_" + label if again else label)
    for axis, title in zip(axes, (f"validation {score}", "training loss")):
        axis.set_xlabel("epoch")
        axis.set_title(title, fontsize=9)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
