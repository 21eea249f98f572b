"""A sample is exact, lies inside that of a larger budget, and depends on nothing but the seed and the rows."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_kit import dump

from mmkit.data import mix, mixtures, strata
from mmkit.data.heldout import HeldOut
from mmkit.errors import DataError, MissingInputError
from mmkit.streams import Row, StreamOptions, read, run

Files = Mapping[str, Sequence[dict[str, Any]]]
SharedOut = Callable[[Sequence[strata.Cell]], list[strata.Stratum]]


def sample(
    inputs: Sequence[str],
    budget: int,
    *,
    ratio: str | None = None,
    shared_out: SharedOut = strata.equal,
    seed: int = 0,
    by: strata.By = "task",
    strict: bool = True,
    **frame_options: Any,
) -> mix.Sample:
    """The sample of files that exist."""
    if ratio is not None:
        shared_out = partial(strata.by_ratio, ratio=strata.parse_ratio(ratio))
    frame = mix.Frame(strata.label_by(by, strata.file_names(inputs)), seed=seed, **frame_options)
    frame.read(lambda wanted: read(inputs, wanted=wanted), strict=strict)
    return frame.draw(shared_out(frame.cells), budget)


def mixed(
    files: Files | Mapping[str, bytes], budget: int, *, shard: tuple[int, int] | None = None, **options: Any
) -> bytes:
    """What a mixture of these files is, as bytes."""
    with tempfile.TemporaryDirectory() as directory:
        inputs = []
        for name, rows in files.items():
            path = Path(directory, f"{name}.jsonl")
            path.write_bytes(rows if isinstance(rows, bytes) else dump(rows))
            inputs.append(str(path))
        drawn = sample(sorted(inputs), budget, **options)
        output = Path(directory, "out")
        run(
            mix.mix_stage(drawn),
            StreamOptions(inputs=sorted(inputs), output=str(output), shard=shard),
            command="mix",
        )
        return output.read_bytes()


def ids(output: bytes) -> list[str]:
    return [orjson.loads(line)["id"] for line in output.splitlines()]


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": str(i), **fields, "question": f"{fields} {i}?"} for i in range(count)]


# Few ids and few texts, so that ids collide in a data set and between data sets, and whole rows repeat.
_rows = st.lists(
    st.fixed_dictionaries(
        {"question": st.sampled_from("pqr")},
        optional={
            "id": st.sampled_from(["1", "2", "2#2", "a:1", "a:2", "3", "4", "5"]),
            "task": st.sampled_from(["a", "b", "a:1"]),
            "family": st.sampled_from(["f", "g"]),
            "images": st.sampled_from([[], [{"path": "x"}]]),
        },
    ),
    min_size=1,
    max_size=8,
)
_files = st.dictionaries(st.sampled_from(["a", "b", "c"]), _rows, min_size=1)
_budgets = st.integers(1, 60)


def by_modality(cells: Sequence[strata.Cell], language: int, vision: int) -> list[strata.Stratum]:
    """What `--ratio language=…,vision=…` gives, with all for the one where the other has no row."""
    parts = {"language": language, "vision": vision}
    there = {name: part for name, part in parts.items() if any(cell.modality == name for cell in cells)}
    return strata.by_ratio(cells, {name: Fraction(part, sum(there.values())) for name, part in there.items()})


def by_weights(cells: Sequence[strata.Cell], weights: Sequence[float]) -> list[strata.Stratum]:
    """What `--weights` gives with these for the data sets in the order of their names."""
    return strata.by_weight(cells, dict(zip(sorted({cell.dataset for cell in cells}), cycle(weights), strict=False)))


_parts = st.integers(1, 8)
_proportions = st.one_of(
    st.just(strata.equal),
    st.builds(lambda one, other: partial(by_modality, language=one, vision=other), _parts, _parts),
    st.builds(lambda weights: partial(by_weights, weights=weights), st.lists(st.floats(0.01, 9), min_size=1)),
)
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(_files, _budgets, _proportions, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_files_and_rows_does_not_matter(
    files: Files, budget: int, shared_out: SharedOut, seed: int, chance: Any
) -> None:
    options: dict[str, Any] = {"seed": seed, "shared_out": shared_out}
    once = mixed(files, budget, **options)
    other_files = {name: files[name] for name in chance.sample([*files], len(files))}
    assert mixed(other_files, budget, **options) == once
    other_rows = {name: chance.sample(own, len(own)) for name, own in files.items()}
    assert sorted(mixed(other_rows, budget, **options).splitlines()) == sorted(once.splitlines())


@thorough
@given(_files, _budgets, _budgets, _proportions)
def test_a_smaller_sample_lies_inside_a_larger_one_line_by_line(
    files: Files, one: int, other: int, shared_out: SharedOut
) -> None:
    budgets = sorted((one, other))
    smaller, larger = (Counter(mixed(files, budget, shared_out=shared_out).splitlines()) for budget in budgets)
    assert smaller <= larger
    assert (smaller.total(), larger.total()) == tuple(sorted((one, other)))


@thorough
@given(_files, _budgets, _proportions)
def test_ids_are_unique_whatever_comes_together(files: Files, budget: int, shared_out: SharedOut) -> None:
    found = ids(mixed(files, budget, shared_out=shared_out))
    assert len(set(found)) == len(found) == budget


@thorough
@given(_files, _budgets, st.integers(1, 4))
def test_shards_together_are_the_whole(files: Files, budget: int, count: int) -> None:
    parts = [mixed(files, budget, shard=(index, count)).splitlines() for index in range(count)]
    assert sorted(line for part in parts for line in part) == sorted(mixed(files, budget).splitlines())


@thorough
@given(st.integers(1, 9), _budgets, st.integers(0, 5))
def test_every_row_is_drawn_before_one_is_drawn_again(count: int, budget: int, seed: int) -> None:
    drawn = Counter(name.split("#")[0] for name in ids(mixed({"a": rows(count)}, budget, seed=seed)))
    assert len(drawn) == min(count, budget)
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_each_pass_over_a_data_set_begins_with_other_rows() -> None:
    files = {"a": rows(40)}
    counts = [Counter(name.split("#")[0] for name in ids(mixed(files, budget))) for budget in (20, 60, 100)]
    begun = [frozenset(name for name in count if count[name] == max(count.values())) for count in counts]
    assert [len(names) for names in begun] == [20, 20, 20]
    assert len(set(begun)) == 3


def test_what_is_drawn_once_keeps_its_bytes_and_a_copy_names_its_parent() -> None:
    odd = b'{"id" : "1",  "question":"caf\\u00e9"}\n'
    assert mixed({"a": odd}, 1) == odd
    first, second, third = mixed({"a": odd}, 3).splitlines()
    assert first == odd.strip()
    for copy, line in ((2, second), (3, third)):
        record = orjson.loads(line)
        assert record["id"] == f"1#{copy}"
        assert [(entry["op"], entry["parents"]) for entry in record["lineage"]] == [("mix", ["1"])]
        assert record["question"] == "café"


def test_two_files_that_use_the_same_ids_keep_all_their_rows() -> None:
    files = {"a": rows(100, context="a"), "b": rows(100, context="b")}
    found = ids(mixed(files, 200))
    assert sorted(found) == sorted(f"{name}:{i}" for name in "ab" for i in range(100))
    parents = [orjson.loads(line)["lineage"][-1]["parents"] for line in mixed(files, 200).splitlines()]
    assert sorted(parents) == sorted([[str(i)] for i in range(100)] * 2)
    # One data set: its name does not tell them apart, and each is drawn by itself, not both or neither.
    of_one_task = {name: [{**row, "task": "t"} for row in own] for name, own in files.items()}
    both = ids(mixed(of_one_task, 200))
    assert len(set(both)) == 200
    assert all(name.startswith("t:") for name in both)
    numbers = Counter(name.split("@")[0] for name in ids(mixed(of_one_task, 100)))
    assert 20 < sum(count == 1 for count in numbers.values()) < 80


def test_an_id_that_looks_like_a_copys_gives_way() -> None:
    files = {"a": [{"id": "x", "question": "one"}], "b": [{"id": "x#2", "question": "two"}]}
    found = ids(mixed(files, 6))
    assert len(set(found)) == 6
    assert {"x", "x#2"} < set(found)


def test_a_row_a_second_time_is_left_out_and_told(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump([*rows(3), *rows(2), {"question": "no id"}, {"question": "no id"}]))
    drawn = sample([str(source)], 4)
    assert drawn.notes() == ["a 4 of 4", "3 exact duplicates"]
    summary = run(
        mix.mix_stage(drawn),
        StreamOptions(inputs=[str(source)], output=str(tmp_path / "out"), dropped=str(tmp_path / "dropped")),
        command="mix",
    )
    assert (summary.kept, summary.dropped) == (4, 3)
    reasons = [orjson.loads(line)["reason"] for line in (tmp_path / "dropped").read_bytes().splitlines()]
    assert reasons == ["an exact duplicate"] * 3


def test_a_row_in_another_format_is_the_same_row(tmp_path: Path) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows(4, task="t")))
    table.write_bytes(orjson.dumps(rows(5, task="t")))
    assert sample([str(lines), str(table)], 5).notes() == ["t 5 of 5", "4 exact duplicates"]


def test_a_row_is_a_duplicate_only_of_one_that_can_be_drawn(tmp_path: Path) -> None:
    one, copy, other = tmp_path / "one.jsonl", tmp_path / "copy.jsonl", tmp_path / "other.jsonl"
    for path in (one, copy):
        path.write_bytes(dump(rows(4, task="t")))
    other.write_bytes(dump(rows(2, task="u")))
    inputs = [str(path) for path in (one, copy, other)]
    assert sample(inputs, 8, ratio="copy=.5,other=.5").notes() == [
        "copy 4 of 4, other 4 of 2",
        "bootstrapped: u 4 from 2",
        "4 in no stratum",
        "4 ids made unique",
    ]
    with pytest.raises(DataError, match="t: every row is held out, or an exact duplicate of another"):
        sample(inputs, 8, ratio="one=.5,copy=.5")


def test_ids_that_a_table_holds_are_kept_and_made_ones_do_not_depend_on_the_row(tmp_path: Path) -> None:
    """A Parquet file that `convert` wrote holds made ids, which end with the row's number."""
    own = [{"id": f"{i:016x}-{i}", "task": "t", "question": str(i)} for i in range(1, 9)]
    without = [{"task": "t", "question": str(i)} for i in range(1, 9)]

    def drawn(content: list[dict[str, Any]]) -> list[str]:
        source = tmp_path / "a.json"
        source.write_bytes(orjson.dumps(content))
        run(mix.mix_stage(sample([str(source)], 4)), StreamOptions([str(source)], str(tmp_path / "out")), command="mix")
        return sorted(ids((tmp_path / "out").read_bytes()))

    assert set(drawn(own)) < {row["id"] for row in own}
    assert drawn(own) == drawn(own[::-1])
    assert drawn(without) == drawn(without[::-1])
    assert all(len(name) == 16 for name in drawn(without))


def in_memory(name: str, count: int, *, image: bool = False) -> Iterable[Row]:
    """Rows of a data set without a file behind them."""
    for i in range(count):
        record = {"id": f"{name}-{i}", "task": name, **({"images": [{"path": "x"}]} if image else {})}
        yield Row(record, 0, "all", 1, orjson.dumps(record))


TABLE_3 = {"squad": 87_600, "cosmosqa": 25_300, "strategyqa": 2_300, "commonsenseqa": 9_700, "arc-challenge": 3_400}
TABLE_3_VISION = {"vqav2": 44_400, "a-okvqa": 25_000}


def test_mlans_counts_are_exact_and_only_what_is_short_is_bootstrapped() -> None:
    """80,000 rows of the data sets of MLAN's Table 3, in the sizes it gives."""
    mixture = mixtures.named("mlan")
    frame = mix.Frame(mixture.label("task", {"all": "all"}))
    sizes = (TABLE_3 | TABLE_3_VISION).items()
    frame.read(lambda _: chain(*(in_memory(name, count, image=name in TABLE_3_VISION) for name, count in sizes)))

    def drawn(name: str) -> tuple[dict[str, int], set[str]]:
        result = frame.draw(mixtures.named(name).strata(frame.cells), mixture.budget).drawn
        again = {d.pool.dataset for d in result if d.num_draws > d.num_rows}
        return {d.pool.dataset: d.num_draws for d in result}, again

    counts, again = drawn("mlan")
    assert counts["squad"] == counts["cosmosqa"] + 0 == 20_000
    reasoning = [counts[name] for name in ("strategyqa", "commonsenseqa", "arc")]
    assert sum(reasoning) == 40_000
    assert {min(reasoning), max(reasoning)} == {13_333, 13_334}
    assert again == {"strategyqa", "commonsenseqa", "arc"}  # which is what the paper says
    counts, again = drawn("mlan-v")
    assert sum(counts[name] for name in TABLE_3_VISION) == 10_000
    assert counts["vqav2"] == counts["a-okvqa"] == 5_000
    assert sum(counts.values()) == 80_000
    assert (counts["squad"], counts["cosmosqa"]) == (17_500, 17_500)
    assert again == {"strategyqa", "commonsenseqa", "arc"}
    for name, language in (("mlan-v-vicuna", 40_000), ("cambrian", 20_000)):
        counts, _ = drawn(name)
        assert sum(counts[dataset] for dataset in TABLE_3_VISION) == 80_000 - language
        assert sum(counts.values()) == 80_000
        assert counts["squad"] + counts["cosmosqa"] == language / 2
    counts, again = drawn("llava")
    assert counts == {"squad": 1200, "cosmosqa": 1200, "strategyqa": 800, "commonsenseqa": 800, "arc": 800} | {
        "vqav2": 37_600,
        "a-okvqa": 37_600,
    }
    assert again == {"a-okvqa"}


def test_what_else_is_mixed_in_does_not_change_who_is_drawn() -> None:
    alone = ids(mixed({"a": rows(50, task="a")}, 20))
    other = [{"id": f"other-{i}", "task": "b", "question": "q"} for i in range(9)]
    assert ids(mixed({"a": rows(50, task="a"), "b": other}, 40))[:20] == alone
    assert ids(mixed({"a": rows(50, task="a")}, 20, seed=1)) != alone


def test_a_sample_is_even_over_the_rows() -> None:
    drawn = Counter(name for seed in range(400) for name in ids(mixed({"a": rows(8)}, 2, seed=seed)))
    assert len(drawn) == 8
    assert all(60 < count < 140 for count in drawn.values())  # expected: 100, standard deviation 9


def with_tokens(*lengths: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "num_tokens": length} for i, length in enumerate(lengths)]


@thorough
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.integers(2, 400),
)
def test_a_budget_in_tokens_is_exceeded_by_less_than_a_row_of_each_data_set(
    one: list[int], other: list[int], budget: int
) -> None:
    files = {"a": with_tokens(*one), "b": with_tokens(*other)}
    output = mixed(files, budget, in_tokens=True, by="file")
    assert (
        budget <= sum(orjson.loads(line)["num_tokens"] for line in output.splitlines()) < budget + max(one) + max(other)
    )


def test_a_budget_in_tokens_nests_and_is_bootstrapped(tmp_path: Path) -> None:
    files = {"a": with_tokens(5, 7, 11), "b": with_tokens(100)}
    outputs = [Counter(mixed(files, budget, in_tokens=True).splitlines()) for budget in (10, 60, 400)]
    assert outputs[0] <= outputs[1] <= outputs[2]
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump(with_tokens(5, 7, 11)))
    drawn = sample([str(source)], 46, in_tokens=True)
    assert drawn.notes() == ["a 6 of 3 (46 tokens)", "bootstrapped: a 6 from 3"]


@pytest.mark.parametrize("num_tokens", [None, 0, -1, "7", 1.5, True])
def test_without_its_number_of_tokens_a_row_is_refused(num_tokens: Any, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump([*with_tokens(3), {"id": "x", "num_tokens": num_tokens}]))
    with pytest.raises(DataError, match=r"a.jsonl:2: num_tokens: .* mmkit stats --per-row adds it"):
        sample([str(source)], 10, in_tokens=True)


def test_what_is_held_out_goes_before_the_drawing(tmp_path: Path) -> None:
    source, rejects = tmp_path / "a.jsonl", tmp_path / "rejects"
    (tmp_path / "seen.jpg").write_bytes(b"seen")
    (tmp_path / "new.jpg").write_bytes(b"new")
    pictures = ["seen", "new", "gone"]
    source.write_bytes(
        dump([*rows(6), *({"id": name, "images": [{"path": f"{name}.jpg"}], "question": "Q"} for name in pictures)])
    )
    held_out = HeldOut([rows(6)[2], {"id": "h", "images": [{"path": "seen.jpg"}]}], str(tmp_path))
    with pytest.raises(MissingInputError, match=r"a.jsonl:9: image 'gone.jpg' not found"):
        sample([str(source)], 6, held_out=held_out)
    drawn = sample([str(source)], 6, held_out=held_out, strict=False)
    options = StreamOptions([str(source)], str(tmp_path / "out"), rejects=str(rejects), dropped=str(tmp_path / "drop"))
    summary = run(mix.mix_stage(drawn), options, command="mix")
    assert (summary.kept, summary.dropped, summary.rejected) == (6, 2, 1)
    assert ids((tmp_path / "out").read_bytes()) == ["0", "1", "3", "4", "5", "new"]
    reasons = [orjson.loads(line)["reason"] for line in (tmp_path / "drop").read_bytes().splitlines()]
    assert reasons == ["its question is held out", "its image is held out"]
    assert "'gone.jpg' not found" in rejects.read_text()
    assert drawn.notes() == ["a 6 of 6", "2 held out (1 by image, 1 by question)"]


def test_a_data_set_that_is_held_out_as_a_whole_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump(rows(3)))
    with pytest.raises(DataError, match="a: every row is held out"):
        sample([str(source)], 2, held_out=HeldOut(rows(3)))


def test_rows_of_no_stratum_are_left_out_and_told(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump([*rows(3, task="x"), {"id": "y", "task": "y"}]))
    drawn = sample([str(source)], 2, ratio="x=1")
    assert drawn.notes() == ["x 2 of 3", "1 in no stratum"]


def test_nothing_to_draw_from_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"")
    with pytest.raises(DataError, match="there is no row to draw from"):
        sample([str(source)], 1)


def test_a_budget_of_any_size_is_shared_out_exactly_and_no_copy_is_made_before_its_turn(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump(rows(1)))
    drawn = sample([str(source)], 5 * 10**12)
    assert drawn.notes()[0] == "a 5,000,000,000,000 of 1"
    (row,) = read([str(source)])
    assert isinstance(row, Row)
    copies = drawn.rows_of(row)
    assert isinstance(copies, Iterator)
    assert [next(copies).record["id"] for _ in range(3)] == ["0", "0#2", "0#3"]


class _Traced(dict[str, Any]):
    """A record that a weak reference can be had of."""


def test_no_row_is_held_not_even_a_refused_one() -> None:
    held: list[weakref.ref[_Traced]] = []

    def traced(_: Any) -> Iterator[Row]:
        for i in range(9):  # the first is refused, and others share an id
            record = _Traced(id=str(i // 3), task="t", **({"num_tokens": 5 + i} if i else {}))
            held.append(weakref.ref(record))
            yield Row(record, i, "all", 1, orjson.dumps(record))

    frame = mix.Frame(strata.label_by("task", {"all": "all"}), in_tokens=True)
    frame.read(traced, strict=False)
    gc.collect()
    assert len(held) == 18
    assert not any(reference() is not None for reference in held)
    assert frame.draw(strata.equal(frame.cells), 10).notes()[0].startswith("t 1 of 8 ")


def test_a_row_takes_21_bytes_and_120_while_drawing() -> None:
    frame = mix.Frame(strata.label_by("task", {"all": "all"}))
    tracemalloc.start()
    try:
        frame.read(lambda _: in_memory("a", 20_000))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        frame.draw(strata.equal(frame.cells), 15_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 21 <= held / 20_000 < 21 * 1.2 + 2  # an array grows in steps
    assert peak / 20_000 < 120


def test_a_sample_of_other_rows_has_another_digest(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump(rows(20)))
    digests = {sample([str(source)], budget, seed=seed).digest() for budget in (5, 6) for seed in (0, 1)}
    assert len(digests) == 4
    assert sample([str(source)], 5).digest() in digests


def test_an_input_that_grows_between_the_passes_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump(rows(3)))
    drawn = sample([str(source)], 2)
    source.write_bytes(dump(rows(4)))
    for options in ({}, {"dropped": str(tmp_path / "dropped")}):
        with pytest.raises(DataError, match="the input has grown since it was read first"):
            run(
                mix.mix_stage(drawn),
                StreamOptions([str(source)], str(tmp_path / "out"), **options),
                command="mix",
                wanted=drawn.wants,
            )


def test_an_input_that_grows_while_ids_are_compared_is_an_error_as_well(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(dump([*rows(3, context="a"), *rows(3, context="b")]))
    frame = mix.Frame(strata.label_by("task", strata.file_names([str(source)])))

    def growing(wanted: Any) -> Iterator[Any]:
        yield from read([str(source)], wanted=wanted)
        source.write_bytes(source.read_bytes() + dump(rows(2, context="c")))

    frame.read(growing)
    drawn = frame.draw(strata.equal(frame.cells), 2)
    with pytest.raises(DataError, match="the input has grown since it was read first"):
        run(mix.mix_stage(drawn), StreamOptions([str(source)], str(tmp_path / "out")), command="mix")


@pytest.mark.parametrize("now", [rows(2), [], rows(10, context="other"), None])
def test_an_input_that_is_another_in_the_end_is_an_error_and_gives_no_output(now: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_bytes(dump(rows(10)))
    unchanged = mix.unchanged([str(source)])
    drawn = sample([str(source)], 5)

    def write_again() -> None:
        if now is not None:
            source.write_bytes(dump(now))
            return
        other = tmp_path / "other"  # a file of the same size and time
        other.write_bytes(source.read_bytes().replace(b"9", b"8"))
        os.utime(other, ns=(0, source.stat().st_mtime_ns))
        other.replace(source)

    stage = mix.mix_stage(drawn, unchanged)
    run(stage, StreamOptions([str(source)], str(output)), command="mix", wanted=drawn.wants)
    assert len(ids(output.read_bytes())) == 5
    output.unlink()
    write_again()
    with pytest.raises(DataError, match=r"a\.jsonl has changed since it was read first"):
        run(stage, StreamOptions([str(source)], str(output)), command="mix", wanted=drawn.wants)
    assert not output.exists()
