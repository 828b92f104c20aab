"""Results of a run as they are kept: benchmarks/results/<machine>.json, and a plot of ratios against n beside it."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from pathlib import Path

import torch

from benchmarks.measure import device
from lps_kernels import info, native

FOLDER = Path(__file__).parent / "results"


def machine() -> str:
    """What is measured: a GPU, or the processor with its threads and kernels."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    count = torch.get_num_threads()
    return f"{info.cpu_name()}, {count} thread{'s' * (count > 1)}, {native.loaded or 'no'} kernels"


def file_name() -> str:
    """The machine as a file name, whatever kernels ran on it."""
    words = machine() if device().type == "cuda" else machine().rpartition(", ")[0]
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def write(rows: list[dict], command: str) -> Path:
    """Keep the rows of a run; of an earlier run of the same commit those of other cases stay."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{file_name()}.json"
    git = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    before = json.loads(path.read_text()) if path.exists() else {"commit": None}
    again = {(row["op"], row["case"]) for row in rows}
    earlier = before["rows"] if before["commit"] == commit else []
    kept = [row for row in earlier if (row["op"], row["case"]) not in again]
    content = {
        "machine": machine(),
        "versions": info.versions(),
        "command": command,
        "commit": commit,
        "date": datetime.date.today().isoformat(),
        "rows": kept + [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    if any(row["sweep"] for row in content["rows"]):
        plot(content, path.with_suffix(".png"))
    return path


def plot(content: dict, path: Path) -> None:
    """How many times faster than each rival, against n, both on log scales."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    rows = [r for r in content["rows"] if r["sweep"] and not r["rival"].endswith(", compiled")]
    for rival in dict.fromkeys(r["rival"] for r in rows):
        points = sorted((r["sizes"]["n"], r["ratio"], r["low"], r["high"]) for r in rows if r["rival"] == rival)
        n, ratio, low, high = zip(*points)
        axes.plot(n, ratio, marker="o", markersize=4, label=rival)
        axes.fill_between(n, low, high, alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="nodes n", ylabel="times faster than")
    axes.set_title("scores to nodes in, out and entropy, forward + backward", fontsize=10)
    sizes = sorted({r["sizes"]["n"] for r in rows})
    axes.set_xticks(sizes, [str(n) for n in sizes], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    axes.annotate(
        f"{content['machine']}, torch {content['versions']['torch']}, {content['date']}",
        (0.99, 0.01), xycoords="axes fraction", ha="right", fontsize=7, color="gray",
    )  # fmt: skip
    figure.savefig(path, dpi=140)
    plt.close(figure)


def best_rows(rows: list[dict]) -> list[dict]:
    """Of each rival of each case the better of eager and compiled."""
    best: dict[tuple, dict] = {}
    for row in rows:
        key = (row["op"], row["case"], row["rival"].removesuffix(", compiled"))
        if key not in best or row["ratio"] < best[key]["ratio"]:
            best[key] = row
    return list(best.values())


def measured() -> list[Path]:
    """The files that runs of the benchmarks wrote; what compilers say is kept beside them."""
    return [path for path in sorted(FOLDER.glob("*.json")) if "machine" in json.loads(path.read_text())]


def markdown(path: Path) -> str:
    """The rows that have a goal, and those beside them, as README shows them."""
    from benchmarks.run import clock, figures

    content = json.loads(path.read_text())
    with_goal = {(r["op"], r["case"]) for r in content["rows"] if r["goal"]}
    text = [
        f"{content['machine']}, torch {content['versions']['torch']}, {content['date']}, commit {content['commit']}, "
        f"`{content['command']}`:",
        "",
        "| work, float32 | ours | rival | its time | ratio, 95 % interval |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in best_rows([r for r in content["rows"] if (r["op"], r["case"]) in with_goal]):
        ratio = f"{figures(row['ratio'])}x ({figures(row['low'])} to {figures(row['high'])})"
        if "exponent" in row:
            ratio = f"exponent {row['exponent']:.2f}"
        cells = [f"{row['op']}: {row['case']}", clock(row["ours_s"]), row["rival"], clock(row["rival_s"]), ratio]
        text.append(f"| {' | '.join(cells)} |")
    if path.with_suffix(".png").exists():
        text += ["", f"![ratio against n](benchmarks/results/{path.stem}.png)"]
    return "\n".join(text)
