"""lps: the command line. `lps train graph8c --backbone mlp --group prob`, `lps list`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = "usage: lps train EXPERIMENT [--preset NAME] [--key value ...]    lps list"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 2 after one line on stderr where it is wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["list"]:
        from lps.experiments.run import NAMES

        print("\n".join(NAMES))
        return 0
    asked = arguments[:2][-1:] in (["-h"], ["--help"])
    if asked or len(arguments) < 2 or arguments[0] != "train":
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    from lps.experiments import run

    try:
        run.find(arguments[1])
    except ValueError as error:
        print(f"lps: {error}", file=sys.stderr)
        return 2
    return run.main(arguments[1].replace("-", "_"), arguments[2:])


if __name__ == "__main__":
    sys.exit(main())
