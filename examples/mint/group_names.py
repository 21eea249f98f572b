"""Print the names of the groups in a file of group rows, one a line.

python group_names.py GROUPS.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Read the file that the command line names."""
    rows = map(json.loads, Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
    print("\n".join(sorted({row["group"] for row in rows})))


if __name__ == "__main__":
    main()
