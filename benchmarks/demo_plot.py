"""The demo's picture: the equivariance error against the number of samples, and what was timed."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def save_figure(path: str, samples: Sequence[int], errors: dict, rows: list[dict]) -> None:
    """errors: (net, k) -> with fresh samples, with samples moved along. rows: of `benchmarks.run.measure`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
    for name in dict.fromkeys(name for name, _ in errors):
        left.plot(samples, [errors[name, k][0] for k in samples], marker="o", markersize=4, label=name)
    first = max(fresh for (_, k), (fresh, _) in errors.items() if k == samples[0])
    left.plot(samples, [first * (samples[0] / k) ** 0.5 for k in samples], "k--", linewidth=1, label="1 / sqrt(k)")
    moved = max(same for _, same in errors.values())
    left.axhline(moved, color="gray", linestyle=":", label="same samples, moved along")
    left.set(xscale="log", yscale="log", xlabel="samples k", title="equivariance error on real graphs and clouds")
    left.grid(True, which="both", alpha=0.25)
    left.legend(fontsize=7)
    names = [row["rival"] for row in rows]
    bars = right.barh(names, [row["ratio"] for row in rows], color="tab:blue")
    right.bar_label(bars, [f" {row['ratio']:,.3g}x" for row in rows], fontsize=8)
    right.set(xscale="log", xlabel="times slower", title=f"{rows[0]['case']}, forward + backward")
    right.set_xlim(0.1, max(row["ratio"] for row in rows) * 5)
    right.xaxis.set_minor_formatter("")
    right.invert_yaxis()
    figure.savefig(path, dpi=140)
    plt.close(figure)
