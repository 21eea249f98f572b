"""Which adapter answers a record: what the groups and --adapters say, and nothing by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkit.errors import DataError, UsageError
from mmkit.evaluation.routing import Route, parse_adapters

GROUPS = {"digits": "redundancy", "maps": "uniqueness", "charts": "uniqueness", "jokes": "synergy"}
ALL = {"redundancy": "red", "uniqueness": "uni", "synergy": "syn"}


def route(adapters: dict[str, str], groups: dict[str, str] = GROUPS) -> Route:
    return Route(groups, adapters, "groups.jsonl")


def answered_by(one: Route) -> list[str]:
    return [one.adapter_of({"id": "r", "task": task}) for task in GROUPS]


def test_a_task_goes_to_its_groups_adapter() -> None:
    one = route(ALL)
    assert answered_by(one) == ["red", "uni", "uni", "syn"]
    assert one.adapters == ("red", "uni", "syn")


def test_base_is_the_model_itself_and_other_is_all_that_is_left() -> None:
    one = route({"redundancy": "red", "other": "base"})
    assert answered_by(one) == ["red", "", "", ""]
    assert one.adapters == ("red",)
    assert one.adapter_of({"id": "r", "task": "new"}) == one.adapter_of({"id": "r"}) == ""
    one = route({"redundancy": "base", "other": "rest"})
    assert answered_by(one) == ["", "rest", "rest", "rest"]
    assert (one.adapters, one.adapter_of({"id": "r", "task": None})) == (("rest",), "rest")


def test_groups_may_share_an_adapter() -> None:
    assert route({"redundancy": "one", "uniqueness": "one", "synergy": "two"}).adapters == ("one", "two")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"id": "r", "task": "new"}, "task 'new' is in no group of groups.jsonl"),
        ({"id": "r"}, "no task, and so no group"),
        ({"id": "r", "task": ["maps"]}, r"task \['maps'\] is in no group of groups.jsonl"),
    ],
)
def test_a_record_without_a_group_is_no_guess(record: dict[str, object], words: str) -> None:
    with pytest.raises(
        DataError, match=f"{words}: add it there, or say who answers such rows, other=DIR or other=base"
    ):
        route(ALL).adapter_of(record)


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ({"redundancy": "red", "uniqueness": "uni"}, "nobody answers for group 'synergy' of groups.jsonl"),
        (ALL | {"synergie": "x"}, "--adapters synergie: .* did you mean synergy?"),
        (ALL | {"xyz": "x"}, "no group of that name; it has redundancy, uniqueness, synergy"),
    ],
)
def test_groups_and_adapters_that_do_not_match_are_said_at_once(adapters: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        route(adapters)


def test_a_group_called_other_would_mean_two_things() -> None:
    with pytest.raises(UsageError, match="a group is called 'other'"):
        route({"other": "red"}, {"digits": "other"})


def test_adapters_are_read_from_one_option_or_several() -> None:
    assert parse_adapters(["redundancy=runs/a=1, uniqueness = base", "synergy=c"]) == {
        "redundancy": "runs/a=1",
        "uniqueness": "base",
        "synergy": "c",
    }
    for text in ("redundancy", "redundancy=", "=a", "redundancy=a,", "redundancy=a,,synergy=b", ""):
        with pytest.raises(UsageError, match="expected GROUP=DIR, or GROUP=base"):
            parse_adapters([text])
    with pytest.raises(UsageError, match="group 'synergy' is given twice"):
        parse_adapters(["synergy=a", "synergy=a"])


def test_the_digest_is_of_what_goes_where() -> None:
    digest = route(ALL).digest()
    assert route(ALL, dict(reversed(GROUPS.items()))).digest() == digest
    renamed = {task: group.replace("synergy", "emergence") for task, group in GROUPS.items()}
    assert route({"redundancy": "red", "uniqueness": "uni", "emergence": "syn"}, renamed).digest() == digest
    others = [
        route(ALL | {"other": "base"}),
        route(ALL | {"synergy": "uni"}),
        route(ALL, GROUPS | {"jokes": "redundancy", "puns": "synergy"}),
    ]
    assert digest not in {one.digest() for one in others}


def test_the_digest_is_of_what_the_adapters_hold(tmp_path: Path) -> None:
    one = route({"redundancy": str(tmp_path), "other": "base"})
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"first")
    digest = one.digest()
    weights.write_bytes(b"again")
    assert one.digest() != digest, "a run would go on with an adapter that was trained anew in its place"
    weights.write_bytes(b"first")
    assert one.digest() == digest
