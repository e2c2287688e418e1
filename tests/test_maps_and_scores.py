"""test.py, evaluate.py and select_best.py: maps of any picture, honest scores, a fair choice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

import active_learning.__main__ as asking
import evaluate
import select_best
import test as testing
import train
from datasets import scoring
from datasets.images import read_mask
from datasets.maps import Pair
from utils.errors import UserError
from utils.metrics import CONVENTIONS, METRICS, SetScores, tally
from utils.pictures import draw_curve
from utils.run_folder import RunFolder
from utils.score_pictures import WorstRow
from utils.tallies import logs_in


@pytest.fixture
def trained(tiny: list[str]) -> tuple[list[str], RunFolder]:
    """Flags and folder of a trial with a dense twin and one round of points."""
    asking.main(tiny)
    train.main([*tiny, "--arm", "dense"])
    train.main(tiny)
    return tiny, RunFolder(Path(tiny[tiny.index("--runs") + 1]) / "tiny")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_trial_is_mapped_scored_and_chosen(
    trained: tuple[list[str], RunFolder], sample_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, run = trained
    testing.main(flags)
    for name in ("dense-best", "round_00-best"):
        for image in (sample_root / "images/SAMPLE-TE").iterdir():
            saliency = Image.open(run.predictions / name / "SAMPLE-TE" / f"{image.stem}.png")
            assert saliency.mode == "L"
            assert saliency.size == Image.open(image).size
    evaluate.main(flags)
    rows = rows_of(run.scores)
    assert list(rows[0])[:4] == ["trial", "checkpoint", "set", "images"]
    assert list(rows[0])[4:13] == [
        *("maxF", "meanF", "adpF", "wF", "S", "maxE", "meanE", "adpE", "MAE")
    ]
    assert {(row["checkpoint"], row["set"]) for row in rows} == {
        (name, where)
        for name in ("dense-best", "round_00-best")
        for where in ("SAMPLE-TE", "validation")
    }
    points = next(r for r in rows if r["checkpoint"] == "round_00-best" and r["set"] == "SAMPLE-TE")
    assert float(points["points"]) == 2.0
    assert 0 < float(points["labelled_percent"]) < 0.2
    assert 0 <= float(points["region_error"]) < 50
    assert points["label_mode"] == "pixel"
    assert_scores_are_those_of_the_maps(points, run, sample_root)

    capsys.readouterr()
    assert select_best.main(flags) == 0
    told = capsys.readouterr().out
    assert "points/dense" in told
    best = json.loads(run.best.read_text())
    assert best["name"] == "round_00-best"
    assert Path(best["checkpoint"]).exists()
    assert best["chosen_on"] == "validation points"
    assert set(best["compared"]) == {"points", "dense"}


def assert_scores_are_those_of_the_maps(
    row: dict[str, str], run: RunFolder, sample_root: Path
) -> None:
    convention = CONVENTIONS["pysodmetrics"]
    expected = SetScores(convention, METRICS)
    for path in sorted((sample_root / "gts/SAMPLE-TE").iterdir()):
        saliency = Image.open(run.predictions / row["checkpoint"] / "SAMPLE-TE" / path.name)
        expected.add(tally(np.asarray(saliency), read_mask(path), convention)[None])
    for name, value in expected.result().items():
        assert float(row[name]) == pytest.approx(value, abs=1e-6)


def test_new_weights_replace_old_maps_and_scores(trained: tuple[list[str], RunFolder]) -> None:
    flags, run = trained
    testing.main(flags)
    evaluate.main(flags)
    before = run.scores.read_text()
    shutil.copy(run.checkpoint("dense", 0, "best"), run.checkpoint("points", 0, "best"))
    testing.main(flags)
    evaluate.main(flags)
    rows = rows_of(run.scores)
    of_points = [row for row in rows if row["checkpoint"] == "round_00-best"]
    of_dense = [row for row in rows if row["checkpoint"] == "dense-best"]
    assert run.scores.read_text() != before
    for one, other in zip(of_points, of_dense, strict=True):
        assert [one[name] for name in METRICS] == [other[name] for name in METRICS]


def test_a_folder_of_any_pictures(
    trained: tuple[list[str], RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = trained
    pictures = tmp_path / "my pictures"
    (pictures / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (37, 90, 3), np.uint8)
    Image.fromarray(colour).save(pictures / "wide.jpg")
    Image.fromarray(colour[:, :20, 0]).save(pictures / "sub" / "grau ä.png")
    Image.fromarray(colour).convert("CMYK").save(pictures / "ink.jpg")
    Image.fromarray(colour).convert("P").save(pictures / "palette.png")
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    checkpoint = run.checkpoint("points", 0, "best")
    out = tmp_path / "maps"
    arguments = ["--checkpoint", str(checkpoint), "--input", str(pictures), "--output", str(out)]
    assert testing.main(arguments) == 2
    assert "broken.jpg" in capsys.readouterr().out
    made = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert made == {"wide.png", "sub/grau ä.png", "ink.png", "palette.png"}
    assert Image.open(out / "wide.png").size == (90, 37)
    (pictures / "broken.jpg").unlink()
    assert testing.main(arguments) == 0


def test_other_weights_make_other_maps_of_a_folder(
    trained: tuple[list[str], RunFolder], sample_root: Path, tmp_path: Path
) -> None:
    _, run = trained
    pictures = tmp_path / "pictures"
    shutil.copytree(sample_root / "images/SAMPLE-TE", pictures)
    out = pictures / "maps"
    where = ["--input", str(pictures), "--output", str(out)]
    made = []
    for arm in ("points", "dense", "dense"):
        testing.main(["--checkpoint", str(run.checkpoint(arm, 0, "best")), *where])
        made.append({path.name: path.read_bytes() for path in out.rglob("*.png")})
    assert made[0].keys() == made[1].keys()
    assert len(made[0]) == 6  # the maps themselves are no pictures
    assert all(made[0][name] != made[1][name] for name in made[0])
    assert made[1] == made[2]


def test_a_checkpoint_from_elsewhere_is_refused(
    trained: tuple[list[str], RunFolder], tmp_path: Path
) -> None:
    flags, run = trained
    shutil.copy(run.checkpoint("points", 0, "best"), tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"mine\.pth: not a checkpoint of the trial"):
        testing.main([*flags, "--checkpoint", str(tmp_path / "mine.pth")])


def with_data_of_its_own(
    trained: tuple[list[str], RunFolder], sample_root: Path, tmp_path: Path
) -> tuple[list[str], Path]:
    """Return the flags of a copy of the trial, without maps, and its own data, to be spoilt."""
    flags, run = trained
    root, runs = tmp_path / "data", tmp_path / "other"
    shutil.copytree(sample_root, root)
    shutil.copytree(run.root, runs / "tiny", ignore=shutil.ignore_patterns("preds", "config.json"))
    return [*flags, "--data_root", str(root), "--runs", str(runs)], root


def test_corrected_masks_are_scored_anew_and_stray_files_are_not(
    trained: tuple[list[str], RunFolder], sample_root: Path, tmp_path: Path
) -> None:
    flags, root = with_data_of_its_own(trained, sample_root, tmp_path)
    asking.main(flags)
    testing.main(flags)
    masks = root / "gts/SAMPLE-TE"
    (masks / "._mac.png").write_bytes(b"no picture")
    shutil.copy(next(masks.glob("[!.]*.png")), masks / "stray.png")
    evaluate.main(flags)
    scores = tmp_path / "other/tiny/scores.csv"
    before = [row["MAE"] for row in rows_of(scores) if row["set"] == "SAMPLE-TE"]
    for path in masks.glob("[!.]*.png"):
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    evaluate.main(flags)
    after = [row["MAE"] for row in rows_of(scores) if row["set"] == "SAMPLE-TE"]
    assert all(
        float(new) == pytest.approx(1 - float(old), abs=2e-6)
        for old, new in zip(before, after, strict=True)
    )


def test_validation_points_outside_their_picture_are_told(
    trained: tuple[list[str], RunFolder],
) -> None:
    flags, run = trained
    testing.main(flags)
    text = run.validation_points.read_text()
    name = text.splitlines()[1].split(",")[0]
    run.validation_points.write_text(text + f"{name},9999,0,1,0\n")
    with pytest.raises(UserError, match=r"points\.csv, line .*\(9999, 0\) lies outside"):
        evaluate.main(flags)


def test_the_curve_draws_the_best_checkpoint_of_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[float], list[float]]] = []

    plot = Axes.plot

    def note(axes: Axes, x: list[float], y: list[float], *rest: object, **more: object) -> list:
        drawn.append((x, y))
        return plot(axes, x, y, *rest, **more)

    monkeypatch.setattr(Axes, "plot", note)
    rows = [
        scored("round_00-best", "T", 0.4, "points", 0) | {"points": "2"},
        scored("round_01-best", "T", 0.3, "points", 1),
        scored("round_01-best", "U", 0.1, "points", 1),
        scored("round_01-last", "T", 0.9, "points", 1),
        scored("round_01-best", "validation", 0.7, "points", 1),
        scored("round_02-best", "T", 0.25, "points", 2),  # on as many points as the one before
        scored("round_02-best", "U", 0.05, "points", 2),
        scored("random-round_01-best", "T", 0.5, "random", 1),
    ]
    draw_curve(rows, tmp_path / "curve.png")
    mae = drawn[-2:]
    assert mae == [([2.0, 10.0], [0.4, pytest.approx(0.15)]), ([2.0, 10.0], [0.4, 0.5])]


def test_maps_never_overwrite_pictures(
    trained: tuple[list[str], RunFolder], tmp_path: Path
) -> None:
    _, run = trained
    picture = tmp_path / "in" / "a.png"
    picture.parent.mkdir()
    cv2.imwrite(str(picture), np.zeros((40, 40, 3), np.uint8))
    where = ["--input", str(picture.parent), "--output", str(picture.parent)]
    checkpoint = ["--checkpoint", str(run.checkpoint("points", 0, "best"))]
    with pytest.raises(UserError, match="holds the pictures"):
        testing.main([*checkpoint, *where])
    with pytest.raises(UserError, match="is a file: name the folder"):
        testing.main([*checkpoint, "--input", str(picture), "--output", str(tmp_path / "maps")])


@pytest.fixture
def foreign(sample_root: Path, tmp_path: Path) -> tuple[list[str], Path, Path]:
    """Flags, folder of maps and folder of results of two methods: perfect, and all grey but one."""
    masks = sample_root / "gts/SAMPLE-TE"
    maps = tmp_path / "their maps"
    shutil.copytree(masks, maps / "perfect" / "SAMPLE-TE")
    for number, path in enumerate(sorted(masks.iterdir())):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        saliency = 255 - mask if number == 3 else np.where(mask > 0, 200, 30).astype(np.uint8)
        (maps / "poor" / "SAMPLE-TE").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(maps / "poor" / "SAMPLE-TE" / path.name), saliency)
    out = tmp_path / "scores"
    flags = ["--pred_root", str(maps), "--gt_root", str(sample_root / "gts")]
    return [*flags, "--testsets", "SAMPLE-TE", "--out", str(out), "--workers", "1"], maps, out


def test_maps_of_other_methods(foreign: tuple[list[str], Path, Path]) -> None:
    flags, _, out = foreign
    assert evaluate.main(flags) == 0
    perfect, poor = rows_of(out / "scores.csv")
    assert (perfect["checkpoint"], poor["checkpoint"]) == ("perfect", "poor")
    assert float(perfect["MAE"]) == 0
    assert float(perfect["wF"]) == pytest.approx(1)
    assert float(poor["MAE"]) == pytest.approx(1 / 6, abs=1e-6)  # stretched, one is wrong
    assert (perfect["convention"], perfect["missing"], perfect["resized"]) == (
        *("pysodmetrics", "0", "0"),
    )
    with np.load(out / "curves.npz") as curves:
        assert curves["checkpoints"].tolist() == ["perfect", "poor"]
        assert curves["sets"].tolist() == ["SAMPLE-TE"]
        assert curves["f"].shape == (2, 1, 256)
        assert curves["f"][1, 0].max() == pytest.approx(float(poor["maxF"]), abs=1e-6)
        assert curves["recall"][0, 0, -1] == 1
        assert curves["thresholds"].tolist() == list(range(255, -1, -1))
    assert {path.name for path in (out / "curves").iterdir()} == {"SAMPLE-TE.png", "SAMPLE-TE.pdf"}
    assert "perfect" in (out / "scores.md").read_text()
    assert "toprule" in (out / "scores.tex").read_text()


def test_the_worst_image_comes_first(foreign: tuple[list[str], Path, Path]) -> None:
    flags, maps, out = foreign
    evaluate.main([*flags, "--per_image", "--worst", "2", "--metrics", "S", "MAE", "--no_figures"])
    rows = rows_of(out / "per_image/poor/SAMPLE-TE.csv")
    names = sorted(path.name for path in (maps / "poor/SAMPLE-TE").iterdir())
    assert list(rows[0]) == ["image", "S", "MAE"]
    assert rows[0]["image"] == names[3]
    assert float(rows[0]["MAE"]) == 1
    assert sorted(row["image"] for row in rows) == names
    assert [float(row["S"]) for row in rows] == sorted(float(row["S"]) for row in rows)
    (row, _) = rows_of(out / "scores.csv")
    assert row["maxF"] == row["wF"] == ""
    assert Image.open(out / "worst/poor/SAMPLE-TE.png").size[0] > 200
    assert not (out / "curves").exists()
    evaluate.main([*flags, "--per_image", "--sort_by", "MAE", "--no_figures"])
    rows = rows_of(out / "per_image/poor/SAMPLE-TE.csv")
    found = [float(row["MAE"]) for row in rows]
    assert found == sorted(found, reverse=True)
    with pytest.raises(UserError, match="--sort_by wF: not among --metrics"):
        evaluate.main([*flags, "--metrics", "S", "--sort_by", "wF"])


def test_missing_and_extra_maps(
    foreign: tuple[list[str], Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags, maps, out = foreign
    names = sorted((maps / "poor/SAMPLE-TE").iterdir())
    names[3].unlink()
    shutil.copy(names[0], names[0].with_name("stray.png"))
    with pytest.raises(UserError, match=rf"1 of 6 maps are missing \({names[3].name}\)"):
        evaluate.main(flags)
    assert evaluate.main([*flags, "--allow_missing", "--no_figures"]) == 0
    told = capsys.readouterr().out
    assert "1 maps have no mask and are left out (stray.png)" in told
    assert "1 of 6 maps are missing" in told
    perfect, poor = rows_of(out / "scores.csv")
    assert (poor["images"], poor["missing"], float(poor["MAE"])) == ("5", "1", 0)
    assert (poor["extra"], perfect["extra"]) == ("1", "0")
    assert (perfect["images"], perfect["missing"]) == ("6", "0")
    for path in (maps / "poor/SAMPLE-TE").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="6 of 6 maps are missing"):
        evaluate.main(flags)
    assert evaluate.main([*flags, "--allow_missing"]) == 0
    assert [row["checkpoint"] for row in rows_of(out / "scores.csv")] == ["perfect"]
    for path in (maps / "perfect/SAMPLE-TE").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="nothing was scored: all maps or masks are missing"):
        evaluate.main([*flags, "--allow_missing"])


def test_conventions_differ_and_are_named(foreign: tuple[list[str], Path, Path]) -> None:
    flags, _, out = foreign
    found = {}
    for name in CONVENTIONS:
        evaluate.main([*flags, "--convention", name, "--no_figures"])
        row = rows_of(out / "scores.csv")[1]
        assert row["convention"] == name
        found[name] = float(row["MAE"]), float(row["maxF"])
    grey = 5 / 6 * 30 / 255  # at least: background left at 30 of 255
    assert found["raw"][0] > found["pysodmetrics"][0] + grey / 2
    assert found["eval-co-sod"][0] == found["raw"][0]
    assert found["eval-co-sod"][1] == pytest.approx(found["pysodmetrics"][1], abs=2e-3)


def test_scores_of_maps_that_are_no_more_go_in_every_convention(
    foreign: tuple[list[str], Path, Path], sample_root: Path
) -> None:
    flags, maps, out = foreign
    for name in CONVENTIONS:
        evaluate.main([*flags, "--convention", name, "--no_figures"])
    mask = next((sample_root / "gts/SAMPLE-TE").iterdir())
    shutil.copy(mask, maps / "poor/SAMPLE-TE" / mask.name)
    evaluate.main([*flags, "--convention", "raw", "--no_figures"])
    assert logs_in(out / "tallies/poor") == {"SAMPLE-TE": ["raw"]}
    assert logs_in(out / "tallies/perfect") == {"SAMPLE-TE": sorted(CONVENTIONS)}


def test_scores_of_maps_that_stay_are_kept_in_every_convention(
    foreign: tuple[list[str], Path, Path],
    sample_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those of a run that was killed before its set was whole."""
    flags, maps, out = foreign
    flags = [*flags, "--no_figures", "--workers", "1"]
    evaluate.main([*flags, "--convention", "raw"])
    (out / "tallies/poor/SAMPLE-TE.raw.index").unlink()
    mask = next((sample_root / "gts/SAMPLE-TE").iterdir())
    shutil.copy(mask, maps / "perfect/SAMPLE-TE" / mask.name)
    evaluate.main(flags)
    scored, score_pair = [], scoring.score_pair

    def watched(pair: Pair, *args: object) -> tuple:
        scored.append(pair.saliency)
        return score_pair(pair, *args)

    monkeypatch.setattr(scoring, "score_pair", watched)
    evaluate.main([*flags, "--convention", "raw"])
    assert scored == [maps / "perfect/SAMPLE-TE" / mask.name]


def test_a_test_picture_that_was_replaced_gets_a_map_of_its_own(
    trained: tuple[list[str], RunFolder], sample_root: Path, tmp_path: Path
) -> None:
    flags, root = with_data_of_its_own(trained, sample_root, tmp_path)
    asking.main(flags)
    testing.main(flags)
    folder = RunFolder(tmp_path / "other" / "tiny").predictions / "dense-best"
    first, second = sorted((folder / "SAMPLE-TE").iterdir())[:2]
    note = folder / "made_from.json"
    of_before = json.loads(note.read_text())
    times = {path: path.stat().st_mtime_ns for path in (first, second)}

    def remade() -> set[Path]:
        testing.main(flags)
        return {path for path, time in times.items() if path.stat().st_mtime_ns != time}

    # A note of earlier versions does not tell of pictures: its maps stay.
    older = {key: of_before[key] for key in of_before.keys() - {"pictures", "relation"}}
    note.write_text(json.dumps(older))
    assert remade() == set()
    assert json.loads(note.read_text()) == of_before
    picture = next((root / "images/SAMPLE-TE").glob(f"{first.stem}.*"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert remade() == {first}


def test_a_plain_folder_of_maps_beside_a_plain_folder_of_masks(
    foreign: tuple[list[str], Path, Path],
    sample_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[WorstRow] = []
    monkeypatch.setattr(evaluate, "draw_worst", lambda rows, path: drawn.extend(rows))
    _, maps, _ = foreign
    flags = ["--pred_root", str(maps / "poor/SAMPLE-TE")]
    flags += ["--gt_root", str(sample_root / "gts/SAMPLE-TE"), "--workers", "1", "--no_figures"]
    with pytest.raises(UserError, match="--out is missing"):
        evaluate.main(flags)
    assert evaluate.main([*flags, "--out", str(tmp_path / "plain"), "--worst", "1"]) == 0
    (row,) = rows_of(tmp_path / "plain/scores.csv")
    assert (row["checkpoint"], row["images"]) == ("poor", "6")
    assert drawn
    assert all(one.image is not None for one in drawn)
    assert float(row["MAE"]) == pytest.approx(1 / 6, abs=1e-6)
    with pytest.raises(UserError, match="belong together"):
        evaluate.main(flags[:2])


def test_an_empty_set_is_told(foreign: tuple[list[str], Path, Path], tmp_path: Path) -> None:
    flags, maps, _ = foreign
    (tmp_path / "gts" / "EMPTY").mkdir(parents=True)
    (maps / "poor" / "EMPTY").mkdir()
    where = flags.index("--gt_root") + 1
    for name, told in (("EMPTY", "no masks there"), ("EMTPY", "mean 'EMPTY'")):
        flags[where] = str(tmp_path / "gts")
        flags[flags.index("--testsets") + 1] = name
        with pytest.raises(UserError, match=told):
            evaluate.main(flags)


def scored(checkpoint: str, where: str, mae: float, arm: str, index: int) -> dict[str, str]:
    metrics = dict.fromkeys(METRICS, "0.5") | {"MAE": str(mae)}
    about = {"checkpoint": checkpoint, "set": where, "arm": arm, "round": str(index)}
    budget = {"points": "10", "labelled_percent": "0.1", "label_mode": "pixel"}
    return {**about, **metrics, **budget}


def test_choice_is_made_on_the_validation_split_with_the_whole_budget() -> None:
    rows = [
        scored("round_01-best", "validation", 0.3, "points", 1),
        scored("round_01-last", "validation", 0.2, "points", 1),
        scored("round_01-best", "T", 0.01, "points", 1),
        scored("round_01-last", "T", 0.9, "points", 1),
        scored("round_00-best", "validation", 0.0, "points", 0),
    ]
    assert select_best.choose_arms(rows, "MAE", on_test=False) == {"points": "round_01-last"}
    assert select_best.choose_arms(rows, "MAE", on_test=True) == {"points": "round_01-best"}
    chosen = select_best.choose_arms(rows, "MAE", on_test=False, any_round=True)
    assert chosen == {"points": "round_00-best"}


def test_choosing_on_test_sets_warns(
    trained: tuple[list[str], RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    flags, _ = trained
    testing.main(flags)
    evaluate.main(flags)
    select_best.main(flags)
    told = capsys.readouterr().out
    assert "WARNING" not in told
    assert "(arm points, rounds 0 to 0 of 0 to 1 are scored: by MAE" in told
    select_best.main([*flags[:4], "--trials", "tiny"])
    told = capsys.readouterr().out
    assert "WARNING: trial tiny, arm points: rounds 0 to 0 of 0 to 1 are scored" in told
    select_best.main([*flags, "--on_test"])
    assert "WARNING: choosing on the test sets" in capsys.readouterr().out


def test_comparison_gives_ratios_to_dense() -> None:
    values = dict.fromkeys(METRICS, 0.8)
    dense = dict.fromkeys(METRICS, 0.4) | {"MAE": 0.0}
    table = select_best.comparison({"points": {"T": values}, "dense": {"T": dense}})
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}
    assert lines["maxF"] == ["0.8000", "0.4000", "2.000"]
    assert lines["MAE"] == ["0.8000", "0.0000", "-"]
