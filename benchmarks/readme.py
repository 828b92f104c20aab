"""python -m benchmarks.readme: whether README's generated blocks are up to date; --write makes them so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import results
from lps_kernels import info

README = Path(__file__).parents[1] / "README.md"


def blocks() -> dict[str, str]:
    """What stands between <!-- begin NAME --> and <!-- end NAME -->."""
    measured = [
        results.markdown(path) for path in sorted(results.FOLDER.glob("*.json")) if path.stem != "compiled_triton"
    ]
    return {"ops": info.markdown(), "ratios": "\n\n".join(measured)}


def filled(text: str) -> str:
    for name, block in blocks().items():
        pattern = re.compile(rf"(<!-- begin {name} .*?-->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{README.name}: expected a block {name!r}")
        text = pattern.sub(lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text)
    return text


def main() -> None:
    before = README.read_text()
    after = filled(before)
    if sys.argv[1:] == ["--write"]:
        README.write_text(after)
    elif after != before:
        raise SystemExit(f"{README.name}: its generated blocks are out of date, run `make readme`")


if __name__ == "__main__":
    main()
