"""mmkit doctor"""

from __future__ import annotations

from typing import Annotated

import typer

from mmkit.cli.parity_options import Parity


def command(
    parity: Parity,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write rows here. [default: stdout]")
    ] = None,
) -> None:
    """Say what is installed, which engines and devices work, and how to add what is missing.

    With --parity: put the same records through transformers and vLLM and compare what each makes of them, prompt
    tokens, image tokens and the log-probabilities of the first token. Exit code 69 where they differ.

    Example: mmkit doctor
      mmkit doctor --parity --model Qwen/Qwen2-VL-2B-Instruct
    """
    from mmkit.cli import tables
    from mmkit.engines import diagnosis

    if parity.parity:
        parity.run(output)
        return
    parity.require_unused()
    findings = diagnosis.examine()
    table = [["what", "state", "detail", "to add it"]]
    table += [[finding.what, finding.state, finding.detail, finding.remedy] for finding in findings]
    tables.deliver((finding.to_wire() for finding in findings), table, output)
