"""Print what the recipe has measured, shaped like the paper's tables and figures; of several seeds, what they agree on.

python report.py [DIRECTORY...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from over_seeds import Seeds
from results import Results


def main() -> None:
    """The tables of one working directory, or those over the seeds of several."""
    results = [Results(Path(directory)) for directory in sys.argv[1:] or ["."]]
    parts = results[0].tables() if len(results) == 1 else Seeds(results).tables()
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
