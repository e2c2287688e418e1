"""select_best.py on made-up scores: the choice within a trial and among many, and comparisons."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import select_best
from config import Config
from utils import settings
from utils.errors import UserError, run_script
from utils.metrics import CONVENTIONS, METRICS, PARTS, tally
from utils.published import published_lines
from utils.score_tables import plain_markdown
from utils.scores import write_scores
from utils.tallies import TallyLog, log_path, make_record


def score(checkpoint, set_name, mae, arm="points", images=4, **others):
    """Make one row of scores.csv; what is not given is known of no set but the test sets."""
    index = 0 if arm == "dense" else int(checkpoint[-7:-5])
    about = {"checkpoint": checkpoint, "set": set_name, "images": images, "arm": arm}
    budget = {"round": index, "labelled_percent": 0.1, "convention": "pysodmetrics"}
    points = {} if arm == "dense" else {"points": 5.0 * (index + 1), "label_mode": "pixel"}
    known = ("maxF",) if set_name == "validation" else METRICS
    return {**about, **budget, **points, **dict.fromkeys(known, 0.5), "MAE": mae, **others}


def make_trial(runs, name, rows, seed=0, **changed):
    """Write what select_best.py reads of a trial; weights hold their own name."""
    root = runs / name
    sets = {"trainset": "TR", "data_root": "D", "backbone": "resnet18", "epochs": 8}
    sets |= {"rounds": 2, "retrain": 0}
    settings.save(Config(trial=name, runs=str(runs), seed=seed, **{**sets, **changed}))
    write_scores(root / "scores.csv", [{"trial": name, **row} for row in rows])
    for checkpoint in {row["checkpoint"] for row in rows}:
        folder, _, kind = checkpoint.rpartition("-")
        weights = root / folder.replace("-", "/") / "checkpoints" / f"{kind}.pth"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_text(f"{name}/{checkpoint}")
        note = root / "preds" / checkpoint / "made_from.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"checkpoint": str(weights.relative_to(root))}))
    return root


def trial_rows(validation, points, dense):
    """Rows of a trial with MAE on the held-out split, and of both arms on the test set X."""
    return [
        score("round_00-best", "validation", 0.001),
        score("round_00-best", "X", 0.001),
        score("round_01-best", "validation", validation),
        score("round_01-best", "X", points),
        score("dense-best", "validation", 0.01, "dense"),
        score("dense-best", "X", dense, "dense"),
    ]


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one setting, and one seed of another."""
    folder = tmp_path / "runs"
    make_trial(folder, "s0", trial_rows(0.3, 0.10, 0.05), seed=0)
    make_trial(folder, "s1", trial_rows(0.2, 0.12, 0.08), seed=1)
    make_trial(folder, "s2", trial_rows(0.4, 0.14, 0.07), seed=2, device="cpu")
    make_trial(folder, "slow", trial_rows(0.5, 0.2, 0.1), seed=0, epochs=30)
    return folder


def choose(runs, *flags):
    assert select_best.main(["--runs", str(runs), *flags]) == 0


def best_in(folder):
    return json.loads((folder / "best.json").read_text())


def table_line(told, start):
    (line,) = [line for line in told.splitlines() if line.startswith(start)]
    return " ".join(line.split())


def test_within_a_trial(runs, capsys):
    choose(runs, "--trial", "s1")
    told = capsys.readouterr().out
    best = best_in(runs / "s1")
    assert list(best) == [
        *("checkpoint", "name", "chosen_on", "metric", "points", "scores", "compared"),
    ]
    assert best["name"] == "round_01-best"  # the last round, though round 0 is better
    assert best["points"] == 10
    assert best["scores"]["X"]["MAE"] == 0.12
    assert {arm: one["name"] for arm, one in best["compared"].items()} == {
        "points": "round_01-best",
        "dense": "dense-best",
    }
    assert table_line(told, "MAE ") == "MAE 0.1200 0.0800 1.500"
    assert told == (runs / "s1/summary.txt").read_text()
    assert (runs / "s1/best.pth").read_text() == "s1/round_01-best"
    assert not (runs / "best.json").exists()
    choose(runs, "--trial", "s1", "--any_round")
    assert (runs / "s1/best.pth").read_text() == "s1/round_00-best"


def test_the_link_survives_a_move_and_is_never_written_through(runs, tmp_path, monkeypatch):
    choose(runs, "--trial", "s1")
    link = runs / "s1/best.pth"
    assert link.is_symlink()
    shutil.move(runs, tmp_path / "moved")
    moved = tmp_path / "moved/s1"
    assert (moved / "best.pth").read_text() == "s1/round_01-best"

    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    choose(tmp_path / "moved", "--trial", "s1", "--any_round")
    assert not (moved / "best.pth").is_symlink()
    assert (moved / "best.pth").read_text() == "s1/round_00-best"
    assert (moved / "round_01/checkpoints/best.pth").read_text() == "s1/round_01-best"
    assert not list(moved.glob(".*"))


def test_without_weights_no_link_is_left(runs, capsys):
    choose(runs, "--trial", "s1")
    shutil.rmtree(runs / "s1/round_01/checkpoints")
    choose(runs, "--trial", "s1")
    assert not (runs / "s1/best.pth").is_symlink()
    assert "the weights are not there" in capsys.readouterr().out
    assert best_in(runs / "s1")["name"] == "round_01-best"
    choose(runs, "--trial", "s1")  # nor is there anything to take away


def test_a_tie_in_a_trial_is_decided_by_the_second_metric(tmp_path):
    rows = [
        score("round_01-best", "validation", 0.2, maxF=0.5),
        score("round_01-last", "validation", 0.2, maxF=0.6),
    ]
    make_trial(tmp_path, "t", rows)
    choose(tmp_path, "--trial", "t")
    assert best_in(tmp_path / "t")["name"] == "round_01-last"
    summary = (tmp_path / "t" / "summary.txt").read_text()
    assert "(arm points, last round: by MAE on the validation points)" in summary


def test_a_trial_that_is_still_to_train_again_is_not_called_done(tmp_path):
    make_trial(tmp_path, "t", trial_rows(0.5, 0.2, 0.1), retrain=1)
    choose(tmp_path, "--trial", "t")
    assert "rounds 0 to 1 of 0 to 2 are scored" in (tmp_path / "t/summary.txt").read_text()


def test_without_test_masks_the_held_out_points_tell_how_good_it_is(tmp_path):
    make_trial(tmp_path, "t", [r for r in trial_rows(0.25, 0.1, 0.05) if r["set"] == "validation"])
    make_trial(tmp_path, "tested", trial_rows(0.25, 0.1, 0.05))
    for trial in ("t", "tested"):
        choose(tmp_path, "--trial", trial)
    told = (tmp_path / "t/summary.txt").read_text()
    assert "at the points of the 4 held-out images: maxF 0.500, MAE 0.250\n" in told
    assert "held-out" not in (tmp_path / "tested/summary.txt").read_text()


def test_among_trials(runs, capsys):
    choose(runs, "--trials", "s?", "slow")
    told = capsys.readouterr().out
    best = best_in(runs)
    assert best["trial"] == "s1"
    assert best["name"] == "round_01-best"
    assert best["checkpoint"] == str(runs / "s1/round_01/checkpoints/best.pth")
    assert best["chosen_on"] == "validation points"
    # Nor is it the first of the ranking, nor need it have the best score: so it is told why.
    assert f"{best['checkpoint']} (arm points, last round: by MAE on the validation points)" in told
    assert best["scores"]["X"]["MAE"] == 0.12
    assert best["compared"]["dense"]["scores"]["X"]["MAE"] == 0.08
    assert set(best) == {
        *("checkpoint", "name", "chosen_on", "metric", "points", "scores", "compared"),
        *("trial", "ranking"),
    }
    ranking = [(one["rank"], one["trial"], one["name"]) for one in best["ranking"]]
    assert ranking == [
        *((rank, trial, "dense-best") for rank, trial in enumerate(("s0", "s1", "s2", "slow"), 1)),
        *(
            (rank, trial, "round_01-best")
            for rank, trial in enumerate(("s1", "s0", "s2", "slow"), 5)
        ),
    ]
    assert best["ranking"][4] == {
        **{"rank": 5, "trial": "s1", "name": "round_01-best", "arm": "points"},
        **{"round": 1, "points": 10, "MAE": 0.2, "maxF": 0.5},
    }
    assert (runs / "best.pth").read_text() == "s1/round_01-best"
    assert not (runs / "s1/best.json").exists()
    assert table_line(told, "5 ").startswith("5 s1/round_01-best points 10 0.200000")
    assert "tie in MAE: s0/dense-best before s1/dense-best by the name" in told


def test_spread_is_over_seeds_of_one_setting(runs, capsys):
    choose(runs, "--trials", "s*")
    seeds, slow = capsys.readouterr().out.split("\ns0 (seed 0)")[1].split("\nslow (seed 0)")
    assert seeds.startswith(", s1 (seed 1), s2 (seed 2): epochs = 8")
    assert slow.startswith(": epochs = 30")
    # Ratios 2, 1.5 and 2: mean 1.8333, deviations 1/6, -1/3, 1/6, variance (1/6) / 2.
    mae = "MAE 0.1200 ± 0.0200 (3) 0.0667 ± 0.0153 (3) 1.833 ± 0.289 (3)"
    assert table_line(seeds, "MAE ") == mae
    assert table_line(slow, "MAE ") == "MAE 0.2000 (1) 0.1000 (1) 2.000 (1)"
    assert "a ratio to dense is taken within each trial first" in slow
    assert "hold out different images" in slow


def test_among_trials_on_the_test_sets(tmp_path, capsys):
    for name, x, y in (("t", 0.1, 0.4), ("u", 0.2, 0.2)):
        rows = [score("round_01-best", where, mae) for where, mae in (("X", x), ("Y", y))]
        make_trial(tmp_path, name, rows)
    choose(tmp_path, "--trials", "t", "u", "--on_test")
    told = capsys.readouterr().out
    assert "WARNING: choosing on the test sets" in told
    assert "t, u repeat a seed" in told
    assert "\nmean of X+Y " in told
    assert best_in(tmp_path)["trial"] == "u"
    assert best_in(tmp_path)["chosen_on"] == "test sets"
    assert "(arm points, last round: by MAE on the test sets)" in told
    choose(tmp_path, "--trials", "t", "u", "--on_test", "--sets", "X")
    assert best_in(tmp_path)["trial"] == "t"
    assert set(best_in(tmp_path)["scores"]) == {"X"}
    choose(tmp_path, "--trials", "t", "u", "--on_test", "--sets", "Y", "--out", str(tmp_path / "o"))
    assert best_in(tmp_path / "o")["trial"] == "u"
    assert (tmp_path / "o/best.pth").read_text() == "u/round_01-best"
    assert best_in(tmp_path)["trial"] == "t"


def test_a_set_that_a_trial_lacks_is_left_out_with_a_warning_and_chosen_on_by_none(runs, capsys):
    rows = trial_rows(0.1, 0.3, 0.1)
    rows += [score(name, "Y", 0.9) for name in ("round_00-best", "round_01-best")]
    rows += [score("dense-best", "Y", 0.9, "dense")]
    make_trial(runs, "s1", rows, seed=1)
    choose(runs, "--trials", "s0", "s1")
    told = capsys.readouterr().out
    assert "WARNING: Y is scored on 4 images by s1/" in told
    assert table_line(told, "MAE ").startswith("MAE 0.2000 ± 0.1414 (2)")
    assert set(best_in(runs)["scores"]) == {"X"}
    fails(runs, ["--trials", "s0", "s1", "--on_test"], capsys, "Y is scored on 4 images by s1/")
    choose(runs, "--trials", "s0", "s1", "--on_test", "--sets", "X")
    assert best_in(runs)["trial"] == "s0"


def test_trials_that_share_no_set_are_ranked_without_a_table(runs, capsys):
    make_trial(runs, "s1", [score("round_01-best", "validation", 0.1)])
    choose(runs, "--trials", "s0", "s1")
    told = capsys.readouterr().out
    assert best_in(runs)["trial"] == "s1"
    assert "told of no set alone" in told
    assert "±" not in told


def test_tables_in_markdown(runs, capsys):
    choose(runs, "--trial", "s1", "--markdown")
    told = capsys.readouterr().out
    assert "| X | points | dense | points/dense |\n| --- | --- | --- | --- |\n" in told
    assert "| MAE | 0.1200 | 0.0800 | 1.500 |\n" in told
    assert "|" not in (runs / "s1/summary.txt").read_text()
    choose(runs, "--trials", "s?", "--markdown")
    assert "| MAE | 0.1200 ± 0.0200 (3) | 0.0667 ±" in capsys.readouterr().out


def keep_tallies(folder, flip, names):
    """Keep the tallies of maps equal to their masks, of which the first ``flip`` are inverted."""
    marks = np.arange(len(names), dtype=np.uint64)
    log = TallyLog(log_path(folder, "X", "pysodmetrics"), "pysodmetrics", PARTS, marks)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:6] = True
    for index in marks:
        saliency = np.where(mask ^ (index < flip), 255, 0).astype(np.uint8)
        kept = tally(saliency, mask, CONVENTIONS["pysodmetrics"])
        log.append(make_record(int(index), kept, False))
    log.close(names, marks)


def test_two_checkpoints_are_compared(runs, capsys):
    names = [f"{index}.png" for index in range(20)]
    keep_tallies(runs / "s0/tallies/round_01-best", 1, names)
    keep_tallies(runs / "s1/tallies/dense-best", 16, names)
    choose(runs, "--trial", "s0", "--compare", "round_01-best", "s1/dense-best", "--metric", "MAE")
    told = capsys.readouterr().out
    assert told.split("\n")[0].split()[2:4] == ["round_01-best", "s1/dense-best"]
    line = table_line(told, "X MAE ").split()
    assert line[2:5] == ["0.0500", "0.8000", "-0.7500"]
    assert line[8:] == ["0.0010", "0.0010"]  # 2 / 2001, of one comparison
    assert "in MAE the lower is the better" in told
    choose(runs, "--trial", "s0", "--compare", "round_01-best", "s1/dense-best")
    told = capsys.readouterr().out
    assert table_line(told, "X MAE ").split()[8:] == ["0.0010", "0.0050"]
    assert table_line(told, "X maxF ").split()[4].startswith("+")


def fails(runs, flags, capsys, *told):
    """Run as the script does: exit code 2 and one line that holds ``told``."""
    with pytest.raises(SystemExit) as left:
        run_script(lambda: select_best.main(["--runs", str(runs), *flags]))
    error = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert len(error) == 1
    for part in told:
        assert part in error[0]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--trials s0 slwo", ("no trial 'slwo'", "did you mean 'slow'?")),
        ("--trials z*", ("no trial matches 'z*'", "s0, s1, s2, slow")),
        ("--trials s0 bare", ("bare/scores.csv", "no such file")),
        (
            "--trials s0 --metric wF",
            (
                "trial s0: no checkpoint has wF on the validation points",
                "give maxF, meanF, adpF, MAE",
            ),
        ),
        ("--trial s0 --metric wF", ("no checkpoint has wF on the validation points",)),
        ("--trials s0 --metric F1", ("invalid choice: 'F1'",)),
        ("--trials s0 --sets X+Z --on_test", ("s0/scores.csv: no scores on a test set 'Z'",)),
        ("--trials s0 --compare a b", ("give one of them",)),
        ("--trial s0 --compare a b --on_test", ("--on_test has no meaning with --compare",)),
        ("--trial s0 --compare a b --any_round", ("--any_round has no meaning with --compare",)),
        ("--trial s0 --compare a b --out x", ("--out has no meaning with --compare",)),
        ("--trial s0 --out x", ("--out goes with --trials",)),
        ("--trials damaged", ("damaged/scores.csv, line 3: MAE = 'nan'",)),
        ("--trial damaged", ("damaged/scores.csv, line 3: MAE = 'nan'",)),
        ("--trials foreign", ("scores name no checkpoint of these trials",)),
        ("--compare s0/a s0/b", ("s0/tallies: no such folder", "evaluate.py --trial s0")),
        ("--compare s1/round_01-bets s1/x", ("did you mean 'round_01-best'?",)),
        ("--compare s1/round_01-best s8/x", ("no trial 's8'",)),
        ("--compare s1/round_01-best s1/dense-best", ("alone has b.png", "alone has c.png")),
    ],
)
def test_what_the_user_can_mend_is_told_in_one_line(runs, capsys, flags, told):
    make_trial(runs, "bare", [])
    (runs / "bare/scores.csv").unlink()
    make_trial(runs, "damaged", [score("round_01-best", s, float("nan")) for s in "XY"])
    lines = (runs / "damaged/scores.csv").read_text().replace(",nan,", ",0.1,", 1)
    (runs / "damaged/scores.csv").write_text(lines)
    make_trial(runs, "foreign", [score("dense-best", "X", 0.1, "dense") | {"arm": ""}])
    keep_tallies(runs / "s1/tallies/round_01-best", 0, ["a.png", "b.png"])
    keep_tallies(runs / "s1/tallies/dense-best", 0, ["a.png", "c.png"])
    before = sorted(runs.rglob("*"))
    fails(runs, flags.split(), capsys, *told)
    assert sorted(runs.rglob("*")) == before


def test_scores_in_other_conventions_do_not_compare(runs, capsys):
    rows = [row | {"convention": "raw"} for row in trial_rows(0.1, 0.1, 0.1)]
    make_trial(runs, "s1", rows, seed=1)
    fails(runs, ["--trials", "s0", "s1"], capsys, "different conventions", "raw (s1)")


def test_published_scores_stand_beside_those_of_the_same_convention(tmp_path, capsys):
    for name, convention in (("co", "eval-co-sod"), ("sod", "pysodmetrics")):
        rows = [score("round_01-best", "validation", 0.1)]
        rows += [score("round_01-best", s, 0.1, convention=convention) for s in ("CoCA", "X")]
        make_trial(tmp_path, name, rows)
    line = "CoCA, as published for GCoNet: maxE 0.760, S 0.673, maxF 0.544"
    choose(tmp_path, "--trial", "co")
    assert capsys.readouterr().out.count("as published") == 1
    assert line in (tmp_path / "co/summary.txt").read_text().splitlines()
    choose(tmp_path, "--trial", "sod")
    assert "as published" not in capsys.readouterr().out
    assert published_lines({"Cosal2015": "eval-co-sod"})[0].startswith("Cosal2015, as published")


def test_what_older_versions_left_is_to_be_made_again(runs, capsys):
    scores = runs / "s0/scores.csv"
    lines = [line.split(",") for line in scores.read_text().splitlines()]
    at = lines[0].index("convention")
    scores.write_text("".join(",".join(ln[:at] + ln[at + 1 :]) + "\n" for ln in lines))
    fails(runs, ["--trial", "s0"], capsys, "an older table, without convention: run evaluate.py")
    (runs / "s1/preds/round_01-best/made_from.json").write_text('{"sha256": "0"}')
    fails(runs, ["--trial", "s1"], capsys, "made_from.json: does not name the ch", "test.py again")


def test_names_are_escaped_in_markdown(tmp_path, capsys):
    names = ["round_01-best", "a|b"]
    scores = {"points": {names[1]: dict.fromkeys(METRICS, 0.5)}}
    assert "| a\\|b | points |\n" in select_best.comparison(scores, plain_markdown)


def test_the_convention_of_a_comparison_can_be_named(runs, capsys):
    names = [f"{index}.png" for index in range(9)]
    for folder in ("s0/tallies/round_01-best", "s1/tallies/dense-best"):
        for convention in ("pysodmetrics", "raw"):
            keep_tallies(runs / folder, 1, names)
            if convention == "raw":
                marks = np.arange(9, dtype=np.uint64)
                log = TallyLog(log_path(runs / folder, "X", "raw"), "raw", PARTS, marks)
                grey = np.full((8, 8), 51, np.uint8)
                kept = tally(grey, np.zeros((8, 8), bool), CONVENTIONS["raw"])
                for mark in marks:
                    log.append(make_record(int(mark), kept, False))
                log.close(names, marks)
    pair = ["--compare", "s0/round_01-best", "s1/dense-best", "--metric", "MAE"]
    choose(runs, *pair)
    told = capsys.readouterr().out
    assert "convention: pysodmetrics" in told
    assert table_line(told, "X MAE ").split()[2] == "0.1111"
    choose(runs, *pair, "--convention", "raw")
    told = capsys.readouterr().out
    assert "convention: raw" in told
    assert table_line(told, "X MAE ").split()[2] == "0.2000"
    fails(runs, [*pair, "--convention", "eval-co-sod"], capsys, "not both in eval-co-sod")
    fails(runs, ["--trial", "s0", "--convention", "raw"], capsys, "goes with --compare")


def test_damaged_tallies_are_never_compared(runs, capsys):
    keep_tallies(runs / "s0/tallies/round_01-best", 1, ["a.png", "b.png"])
    path = log_path(runs / "s0/tallies/round_01-best", "X", "pysodmetrics")
    data = bytearray(path.read_bytes())
    data[-40] ^= 4
    path.write_bytes(data)
    flags = ["--compare", "s0/round_01-best", "s0/round_01-best"]
    fails(runs, flags, capsys, "1 of 2 scores are damaged: run evaluate.py again")


def test_any_round_of_many_trials_may_be_chosen(runs):
    first, last = ["round_00-best"] * 2, ["round_01-best"] * 2
    for flags, names in (([], last), (["--any_round"], [*first, *last])):
        choose(runs, "--trials", "s0", "s1", *flags)
        best = best_in(runs)
        assert best["name"] == names[0]
        assert [one["name"] for one in best["ranking"] if one["arm"] == "points"] == names


def test_a_choice_of_one_trial_needs_no_other(runs):
    (runs / "slow/scores.csv").write_text("damaged")
    choose(runs, "--trials", "s0", "s1")
    with pytest.raises(UserError, match=r"slow/scores\.csv"):
        choose(runs, "--trials", "s*")
