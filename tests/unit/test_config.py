"""mmkit.toml: found upwards, placed beside the file, what it does not know refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkit.cli import config
from mmkit.cli.config import Option
from mmkit.errors import UsageError

OPTIONS = {
    "filter": {"model": Option("model"), "judge": Option("judge"), "image_root": Option("image_root")},
    "predict": {
        "model": Option("model"),
        "samples": Option("num_samples"),
        "image_root": Option("image_root"),
        "base_url": Option("base_url", repeatable=True),
        "weights": Option("weights", repeatable=True),
    },
}


def loaded(path: Path, content: str) -> dict[str, dict[str, object]]:
    path.write_text(content)
    return config.load(path, OPTIONS)


def test_the_nearest_file_upwards_is_found(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert config.find(deep) is None
    (tmp_path / config.FILE_NAME).write_text("")
    assert config.find(deep) == tmp_path / config.FILE_NAME
    (tmp_path / "a" / config.FILE_NAME).write_text("")
    assert config.find(deep) == tmp_path / "a" / config.FILE_NAME


def test_a_table_sets_its_command_and_a_key_above_every_command_that_has_it(tmp_path: Path) -> None:
    content = 'model = "all"\njudge = "contains"\n[predict]\nmodel = "own"\nsamples = 3\n'
    assert loaded(tmp_path / "mmkit.toml", content) == {
        "filter": {"model": "all", "judge": "contains"},
        "predict": {"model": "own", "num_samples": 3},
    }


def test_dashes_and_underscores_are_the_same(tmp_path: Path) -> None:
    assert loaded(tmp_path / "mmkit.toml", 'image-root = "/img"')["filter"] == {"image_root": "/img"}


@pytest.mark.parametrize("where", ["", "[predict]\n"])
def test_a_repeatable_option_takes_one_value_or_a_list(tmp_path: Path, where: str) -> None:
    path = tmp_path / "mmkit.toml"
    assert loaded(path, f'{where}base_url = "http://a/v1"')["predict"] == {"base_url": ["http://a/v1"]}
    assert loaded(path, f'{where}base_url = ["http://a/v1", "http://b/v1"]')["predict"] == {
        "base_url": ["http://a/v1", "http://b/v1"]
    }
    assert loaded(path, f"{where}base-url = []")["predict"] == {"base_url": []}
    assert loaded(path, f"{where}samples = 3")["predict"] == {"num_samples": 3}


def test_each_place_of_a_list_lies_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    weights = loaded(tmp_path / "mmkit.toml", 'weights = ["./a.jsonl", "/b.jsonl"]')["predict"]["weights"]
    assert weights == ["../a.jsonl", "/b.jsonl"]


def test_places_lie_beside_the_file_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "sub").mkdir()
    path = tmp_path / "mmkit.toml"
    for here, up in ((tmp_path, ""), (tmp_path / "sub", "../")):
        monkeypatch.chdir(here)
        assert loaded(path, '[filter]\nmodel = "tuned"')["filter"]["model"] == f"{up}tuned"
        assert loaded(path, '[filter]\nmodel = "./later"')["filter"]["model"] == f"{up}later"
        assert loaded(path, '[filter]\nmodel = "org/name"')["filter"]["model"] == "org/name"
        assert loaded(path, '[filter]\nmodel = "/abs"')["filter"]["model"] == "/abs"
        assert loaded(path, '[filter]\njudge = "tuned"')["filter"]["judge"] == "tuned"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[filter]\njugde = 1", "mmkit filter has no option 'jugde'"),
        ("[fitler]\njudge = 1", r"\[fitler\] is no command"),
        ("colour = 1", "no command has an option 'colour'"),
        ("[filter", "mmkit.toml"),
    ],
)
def test_what_it_does_not_know_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path / "mmkit.toml", content)
