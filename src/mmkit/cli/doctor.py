"""mmkit doctor"""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write rows here. [default: stdout]")
    ] = None,
) -> None:
    """Say what is installed, which engines and devices work, and how to add what is missing.

    Example: mmkit doctor
    """
    from mmkit.cli import tables
    from mmkit.engines import diagnosis

    findings = diagnosis.examine()
    table = [["what", "state", "detail", "to add it"]]
    table += [[finding.what, finding.state, finding.detail, finding.remedy] for finding in findings]
    tables.deliver((finding.to_wire() for finding in findings), table, output)
