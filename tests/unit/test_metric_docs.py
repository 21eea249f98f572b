"""docs/evaluation.md names every metric, and the rules of each."""

from __future__ import annotations

import re
from pathlib import Path

from mmkit.tasks.metrics import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    listed: dict[str, set[str]] = {}
    for names, rules in re.findall(r"^\| (`.+?) \| (`.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            listed[name] = set(re.findall(r"`([^`]+)`", rules))
    assert listed == {name: {*metric.rules, *metric.corpus_rules} for name, metric in METRICS.items()}


def test_the_default_rule_comes_first() -> None:
    for metric in METRICS.values():
        assert [*metric.rules, *metric.corpus_rules][0] == metric.default_rule
