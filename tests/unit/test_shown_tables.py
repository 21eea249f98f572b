"""Tables on a terminal."""

from __future__ import annotations

import pytest

from mmkit.cli import tables


@pytest.mark.parametrize("width", [20, 60, 200])
def test_no_number_is_cut_and_nothing_is_left_out(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A p-value of 1.1e-47 that is broken after "1.1e-4" reads as another one."""
    monkeypatch.setenv("COLUMNS", str(width))
    table = [["task", "95 % interval", "p", "note"], ["x" * 30, "+46.67 to +58.00", "1.1e-47", "seen by nobody"]]
    tables.show(table)
    shown = capsys.readouterr().out
    for word in ("interval", "+46.67", "+58.00", "1.1e-47", "seen", "nobody"):
        assert word in shown
    assert shown.count("x") == 30


def test_an_empty_column_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show([["a", "b"], ["1", ""]])
    assert capsys.readouterr().out.split() == ["a", "───", "1"]
