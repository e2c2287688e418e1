"""Parts of sets: which images they take, that none is in two, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.part_of_sets import Part, main, parse_part
from datasets.index import list_set
from utils.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images of two kinds, nine of them with a mask, and a set with a group."""
    names = [f"{kind}_{number}" for kind in ("cat", "dog") for number in range(5)]
    for name in names:
        for folder, ending in (("images", "jpg"), ("gts", "png")):
            path = tmp_path / "D" / folder / "ALL" / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name, encoding="utf-8")
    (tmp_path / "D/gts/ALL/dog_4.png").unlink()
    group = tmp_path / "D/images/GROUPED/cats/1.jpg"
    group.parent.mkdir(parents=True)
    group.write_text("", encoding="utf-8")
    return tmp_path / "D"


def names_of(out: Path, set_name: str) -> list[str]:
    return [sample.image.stem for sample in list_set(out, set_name)]


def test_parts_are_evenly_spaced_and_share_no_image(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "P"
    words = ["--data_root", str(root), "--out", str(out)]
    words += ["TR=ALL:5", "DOGS=ALL/dog:2", "REST=ALL:3", "AGAIN=GROUPLESS:1"]
    (root / "images/GROUPLESS").mkdir()
    (root / "images/GROUPLESS/a.jpg").write_text("", encoding="utf-8")
    assert main(words) == 0
    assert names_of(out, "TR") == ["cat_0", "cat_2", "cat_4", "dog_1", "dog_3"]
    assert names_of(out, "DOGS") == ["dog_0", "dog_2"]
    assert names_of(out, "REST") == ["cat_1", "cat_3", "dog_4"]
    samples = list_set(out, "REST")
    assert samples[0].image.read_text(encoding="utf-8") == "cat_1"
    assert samples[0].mask.read_text(encoding="utf-8") == "cat_1"
    assert not samples[2].mask.exists()
    assert main(words) == 0  # once more: nothing to do


def test_what_is_in_the_way_is_told(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "P"
    words = ["--data_root", str(root), "--out", str(out)]
    for part, told in (
        ("TR=ALL:11", "TR: 11 images wanted, ALL has 9 left"),
        ("TR=ALL/cat,dog_4:7", "7 images wanted, ALL has 5 left"),
        ("TR=ALS:1", "did you mean 'ALL'"),
        ("TR=GROUPED:1", "has groups"),
    ):
        with pytest.raises(UserError, match=told):
            main([*words, "OK=ALL:1", part])
        assert not out.exists()
    taken = out / "images/TR/cat_0.jpg"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"cat_0.jpg: is there, and something else"):
        main([*words, "TR=ALL:1"])
    assert taken.read_text(encoding="utf-8") == "mine"


def test_parts_of_another_call_are_not_mixed_in(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "P"
    words = ["--data_root", str(root), "--out", str(out)]
    assert main([*words, "TR=ALL:5"]) == 0
    with pytest.raises(UserError, match=r"TR: holds cat_2.jpg, which is not of this part"):
        main([*words, "TR=ALL:3", "DEV=ALL:2"])
    assert len(names_of(out, "TR")) == 5
    assert not (out / "images/DEV").exists()
    with pytest.raises(UserError, match="A: is to be made twice"):
        main([*words, "A=ALL:2", "A=ALL:3"])


def test_how_a_part_is_written() -> None:
    assert parse_part("A=B/x_,y:12") == Part("A", "B", ("x_", "y"), 12)
    assert parse_part("A=B:1") == Part("A", "B", (), 1)
    for text in (
        "A",
        "A=B",
        "A=B:",
        "A=B:0",
        "A=B:x",
        "=B:1",
        "A=:1",
        "A/C=B:1",
        "A=B/:1",
        "A+C=B:1",
    ):
        with pytest.raises(UserError):
            parse_part(text)
