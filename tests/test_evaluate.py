"""evaluate.py on maps of any origin: from files to the table, and what can be amiss with them."""

from __future__ import annotations

import csv
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import active_learning.__main__ as asking
import evaluate
from datasets.points import read_points
from utils.errors import UserError
from utils.metrics import CONVENTIONS, METRICS, SetScores, tally
from utils.run_folder import VALIDATION, RunFolder, map_of
from utils.tables import read_rows

GOLDEN = Path(__file__).parent / "golden" / "pairs.py"


@pytest.fixture
def methods(tmp_path: Path) -> SimpleNamespace:
    """Maps of methods good and bad on sets A and B, of three images each, and their flags."""
    maps, masks = tmp_path / "maps", tmp_path / "gts"
    for set_name in "AB":
        for index in range(3):
            mask = np.zeros((12, 16), np.uint8)
            mask[3:8, 2 + index : 9] = 255
            put(masks / set_name / f"{index}.png", mask)
            put(maps / "good" / set_name / f"{index}.png", mask // 2 + 60)
            put(maps / "bad" / set_name / f"{index}.png", 255 - mask if index else mask)
    flags = ["--pred_root", str(maps), "--gt_root", str(masks), "--workers", "1", "--no_figures"]
    return SimpleNamespace(root=tmp_path, maps=maps, masks=masks, flags=flags)


def put(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)
    return path


def run(methods: SimpleNamespace, *more: str, sets: str = "A+B", out: Path | None = None) -> list:
    """Evaluate; return (checkpoint, set) and the row of each line of the table."""
    out = out or methods.root / "out"
    assert evaluate.main([*methods.flags, "--testsets", sets, "--out", str(out), *more]) == 0
    with open(out / "scores.csv", encoding="utf-8") as file:
        return [((row["checkpoint"], row["set"]), row) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_from_files_to_the_table(tmp_path: Path, name: str) -> None:
    """Grey masks hold every value around the middle; the reference sees the very same arrays."""
    pairs = runpy.run_path(str(GOLDEN))["golden_pairs"]()
    expected = SetScores(CONVENTIONS[name], METRICS)
    middle = 0
    for index, (key, (saliency, mask)) in enumerate(sorted(pairs.items())):
        if saliency.shape != mask.shape:
            continue
        grey = mask.copy()
        grey[mask > 128] = np.array([129, 200, 255])[np.arange((mask > 128).sum()) % 3]
        grey[mask <= 128] = np.array([0, 127, 128])[np.arange((mask <= 128).sum()) % 3]
        middle += int((grey == 128).sum())
        put(tmp_path / "gts" / "G" / f"{index:03}_{key}.png", grey)
        put(tmp_path / "maps" / "m" / "G" / f"{index:03}_{key}.png", saliency)
        expected.add(tally(saliency, mask > 128, CONVENTIONS[name])[None])
    assert middle > 1000
    flags = ["--pred_root", str(tmp_path / "maps"), "--gt_root", str(tmp_path / "gts")]
    flags += ["--testsets", "G", "--out", str(tmp_path), "--workers", "1", "--no_figures"]
    evaluate.main([*flags, "--convention", name])
    (row,) = read_rows(tmp_path / "scores.csv", METRICS)
    assert row["convention"] == name
    for metric, value in expected.result().items():
        assert float(row[metric]) == pytest.approx(value, abs=6e-7), metric


def test_golden_scores_of_the_files(tmp_path: Path) -> None:
    """What PySODMetrics says of masks with 128 in them: 128 is background."""
    mask = np.array([[0, 128], [129, 255]], np.uint8)
    put(tmp_path / "gts/G/a.png", mask)
    put(tmp_path / "maps/m/G/a.png", np.array([[0, 0], [255, 255]], np.uint8))
    flags = ["--pred_root", str(tmp_path / "maps"), "--gt_root", str(tmp_path / "gts")]
    evaluate.main([*flags, "--testsets", "G", "--metrics", "MAE", "IoU", "--no_figures"])
    (row,) = read_rows(tmp_path / "maps/scores.csv", METRICS)
    assert (row["MAE"], row["IoU"]) == ("0", "1")


def test_conventions_and_metrics_in_one_folder_disturb_nothing(methods: SimpleNamespace) -> None:
    alone = {
        name: run(methods, "--convention", name, out=methods.root / name) for name in CONVENTIONS
    }
    for metrics in (["maxF"], ["S", "wF"], list(METRICS)):
        for name in (*CONVENTIONS, *CONVENTIONS):
            rows = run(methods, "--convention", name, "--metrics", *metrics)
            for (cell, row), (other, expected) in zip(rows, alone[name], strict=True):
                assert cell == other
                kept = ("convention", *metrics)
                assert [row[key] for key in kept] == [expected[key] for key in kept]


@pytest.mark.parametrize("where", [".", "results", "good", "good/results"])
def test_results_among_the_maps_are_no_method(
    methods: SimpleNamespace, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(methods.root)
    methods.flags[1] = "maps"
    (methods.maps / "notes").mkdir()
    out = methods.maps / where
    first = run(methods, "--per_image", "--worst", "1", out=out)
    assert [cell for cell, _ in first] == [(m, s) for m in ("bad", "good") for s in "AB"]
    assert run(methods, out=out) == first


def test_who_names_the_folder_above_the_maps_is_told_so(methods: SimpleNamespace) -> None:
    flags = ["--pred_root", str(methods.maps), "--gt_root", str(methods.masks / "A")]
    with pytest.raises(UserError, match=r"3 of 3 maps are missing .* sets in it by --testsets"):
        evaluate.main([*flags, "--out", str(methods.root / "out"), "--workers", "1"])


def test_a_whole_cell_may_be_missing(methods: SimpleNamespace) -> None:
    shutil.rmtree(methods.maps / "bad/B")
    with pytest.raises(UserError, match=r"bad/B: 3 of 3 maps are missing .* --allow_missing"):
        run(methods)
    rows = run(methods, "--allow_missing")
    assert [cell for cell, _ in rows] == [("bad", "A"), ("good", "A"), ("good", "B")]
    with np.load(methods.root / "out/curves.npz") as curves:
        assert curves["checkpoints"].tolist() == ["bad", "good"]
        assert curves["sets"].tolist() == ["A", "B"]
        assert np.isnan(curves["f"][0, 1]).all()
        assert not np.isnan(curves["f"][[0, 1, 1], [0, 0, 1]]).any()
    line = next(
        ln for ln in (methods.root / "out/scores.md").read_text().splitlines() if "bad" in ln
    )
    assert line.count(" - ") == 5


def test_a_method_without_any_of_the_sets_is_passed_over(
    methods: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (methods.maps / "bad").rename(methods.maps / "other")
    for name in "AB":
        (methods.maps / "other" / name).rename(methods.maps / "other" / f"{name}2")
    assert [cell for cell, _ in run(methods)] == [("good", "A"), ("good", "B")]
    assert "no maps of the sets, so left out: other" in capsys.readouterr().out


def test_a_set_named_validation_is_an_ordinary_one(methods: SimpleNamespace) -> None:
    for root in (methods.masks, methods.maps / "good", methods.maps / "bad"):
        (root / "A").rename(root / "validation")
    rows = run(methods, sets="validation")
    assert [row["images"] for _, row in rows] == ["3", "3"]
    assert all(row["S"] for _, row in rows)
    assert "validation" in (methods.root / "out/scores.md").read_text()
    plain = ["--pred_root", str(methods.maps / "bad/validation"), "--no_figures"]
    plain += ["--gt_root", str(methods.masks / "validation"), "--out", str(methods.root / "p")]
    assert evaluate.main(plain) == 0
    (row,) = read_rows(methods.root / "p/scores.csv", METRICS)
    assert row["MAE"] == rows[0][1]["MAE"]


def test_flags_that_cannot_be_meant(methods: SimpleNamespace) -> None:
    with pytest.raises(
        UserError, match=r"no masks of 'AA' in .*; did you mean 'A'\? \(there: A, B"
    ):
        run(methods, sets="AA")
    with pytest.raises(UserError, match="--worst -1: must be 0 or more"):
        run(methods, "--worst", "-1")


def test_a_grouped_trial_is_scored_as_co_saliency_is(
    methods: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, expected in (((), "pysodmetrics"), (("--grouped",), "eval-co-sod")):
        assert {row["convention"] for _, row in run(methods, *flags)} == {expected}
        assert f"convention: {expected} (--conv" in capsys.readouterr().out
    rows = run(methods, "--grouped", "--convention", "raw")
    assert {row["convention"] for _, row in rows} == {"raw"}


def test_the_worst_are_drawn_last_with_what_pictures_there_are(
    methods: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (methods.root / "images/A").mkdir(parents=True)
    red = Image.fromarray(np.full((1200, 1600, 3), (255, 0, 0), np.uint8))
    red.save(methods.root / "images/A/1.JPG")
    (methods.root / "images/A/2.jpg").write_bytes(b"damaged")
    red.save(methods.root / "images/A/2.other.jpg")
    drawn = []

    def note(rows: list, path: Path) -> None:
        assert (methods.root / "out/scores.csv").exists()
        drawn.append((path.relative_to(methods.root / "out").as_posix(), rows))

    monkeypatch.setattr(evaluate, "draw_worst", note)
    run(methods, "--worst", "3", "--sort_by", "MAE", sets="A")
    assert [path for path, _ in drawn] == ["worst/bad/A.png", "worst/good/A.png"]
    by_name = {row.name: row for row in drawn[0][1]}
    assert list(by_name)[2] == "0.png"
    assert by_name["0.png"].image is None
    assert by_name["2.png"].image is None
    assert by_name["1.png"].image.shape == (132, 176, 3)
    for row in by_name.values():
        assert max(row.mask.shape[0] / 132, row.mask.shape[1] / 176) == 1


@pytest.fixture
def trial(tiny: list[str], sample_root: Path, tmp_path: Path) -> SimpleNamespace:
    """A trial whose maps are the masks, on data of its own."""
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    folder = tmp_path / "runs/tiny"
    shutil.copytree(root / "gts/SAMPLE-TE", folder / "preds/dense-best/SAMPLE-TE")
    flags = [*tiny, "--data_root", str(root), "--workers", "1", "--no_figures"]
    return SimpleNamespace(root=root, folder=folder, flags=flags)


def test_held_out_maps_are_scored_where_their_own_pixels_were_told(
    tiny: list[str], trial: SimpleNamespace
) -> None:
    asking.main([*tiny, "--data_root", str(trial.root)])
    run, rng, wrong = RunFolder(trial.folder), np.random.default_rng(0), []
    points = read_points(run.validation_points)
    for name in sorted({point.image for point in points}):
        width, height = Image.open(trial.root / "images/SAMPLE-TR" / name).size
        grey = rng.integers(0, 256, (height, width), np.uint8)
        put(run.predictions / "dense-best" / map_of(name, VALIDATION), grey)
        mine = [point for point in points if point.image == name]
        wrong += [abs(p.label - grey[p.y, p.x] / 255) for p in mine]
    out = trial.folder / "apart"
    evaluate.main([*trial.flags, "--out", str(out)])
    rows = read_rows(out / "scores.csv", ("set", "MAE"))
    (row,) = [row for row in rows if row["set"] == VALIDATION]
    assert float(row["MAE"]) == pytest.approx(np.mean(wrong), abs=1e-6)


def test_masks_missing_in_a_trial_are_told_and_may_be_left_out(
    trial: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = sorted((trial.root / "gts/SAMPLE-TE").iterdir())
    for path in masks[2:4]:
        path.unlink()
    told = rf"SAMPLE-TE: 2 of 6 masks are missing \({masks[2].name}, {masks[3].name}\)"
    with pytest.raises(UserError, match=told):
        evaluate.main(trial.flags)
    evaluate.main([*trial.flags, "--allow_missing"])
    (row,) = read_rows(trial.folder / "scores.csv", METRICS)
    assert (row["images"], row["missing"], row["MAE"]) == ("4", "2", "0")
    for path in (*masks[:2], *masks[4:]):
        path.unlink()
    capsys.readouterr()
    with pytest.raises(UserError, match="nothing was scored"):
        evaluate.main([*trial.flags, "--allow_missing"])
    assert "6 of 6 masks are missing" in capsys.readouterr().out


def test_sets_of_a_trial_without_masks_and_misspelt_ones(
    trial: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trial.root / "images/SAMPLE-TE", trial.root / "images/BARE")
    evaluate.main([*trial.flags, "--testsets", "SAMPLE-TE+BARE"])
    assert "gts/BARE: no masks: the set is not scored" in capsys.readouterr().out
    assert len(read_rows(trial.folder / "scores.csv", METRICS)) == 1
    with pytest.raises(UserError, match=r"no set 'SAMPEL-TE' .*did you mean 'SAMPLE-TE'"):
        evaluate.main([*trial.flags, "--testsets", "SAMPLE-TE+SAMPEL-TE"])
    with pytest.raises(UserError, match="'validation' is the held-out split: rename that set"):
        evaluate.main([*trial.flags, "--testsets", "validation"])
    with pytest.raises(UserError, match="none has masks in"):
        evaluate.main([*trial.flags, "--testsets", "BARE"])
