"""Print what the recipe has measured, shaped like the paper's Tables 3 and 5, and draw its Figure 3; of the working
directories of several seeds, print what they agree on.

python report.py [DIRECTORY...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from over_seeds import Seeds
from results import Results


def main() -> None:
    """The tables and figures of one working directory, or the tables over the seeds of several."""
    results = [Results(Path(directory)) for directory in sys.argv[1:] or ["."]]
    parts = results[0].tables() if len(results) == 1 else Seeds(results).tables()
    print("\n\n".join("\n".join(part) for part in parts))
    if len(results) == 1:
        results[0].draw()


if __name__ == "__main__":
    main()
