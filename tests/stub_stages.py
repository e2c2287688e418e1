"""Stands for the interpreter in tests of gco.sh and sub_by_id.sh: stages without any learning.

Called as ``<this file> <script or -m module> <arguments>``. The stages leave files as the real
ones do, in a trial of one round (STUB_ROUNDS=4 STUB_TRAINED="0 3" plan more, of which some are
trained); training takes EPOCHS epochs of STUB_SECONDS, is stopped by SIGTERM with status 75 (or
STUB_STOPPED), and goes on after its last whole epoch. STUB_FAIL=13 makes the training of t13 fail;
with STUB_ORACLE=human people answer, and with STUB_WAITING they have not yet. What choosing and
status need runs in earnest. A line a stage goes to ``<runs>/ran``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 10
EARNEST = ("utils.trial_status", "utils.local_trials", "select_best.py --trials")
PLAN = {"data_root": "D", "trainset": "TR", "testsets": "TE", "with_dense": 0}
PLAN |= {"random_arm": 0, "sample": 0}


def flags_of(words: list[str]) -> dict[str, str]:
    parts = [part for w in words for part in (w.split("=", 1) if w.startswith("--") else [w])]
    return {w[2:]: v for w, v in zip(parts, [*parts[1:], ""], strict=True) if w.startswith("--")}


def make_config(words: list[str], flags: dict[str, str]) -> None:
    if "--save" not in words:
        return
    runs, trial = flags.get("runs", "runs"), flags["trial"]
    folder = Path(runs) / trial
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"trial": trial, "runs": runs, "seed": int(flags["seed"]), "epochs": EPOCHS}
    settings |= {"rounds": 1, "with_dense": False, "with_random": False}
    (folder / "config.json").write_text(json.dumps(settings))
    devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    plan = PLAN | {"trial": trial, "runs": runs, "run_folder": folder}
    plan["oracle"] = os.environ.get("STUB_ORACLE", "mask")
    plan["processes"] = max(1, len(devices))
    plan["round_count"] = os.environ.get("STUB_ROUNDS", "1")
    plan["trained_rounds"] = os.environ.get("STUB_TRAINED", "0")
    for name in words[words.index("--print") + 1 :]:
        print(plan[name])


def train(folder: Path, trial: str) -> int:
    """Train epoch by epoch; ``log.csv`` counts them, whole at any moment as the real one is."""
    from utils.files import write_text

    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    folder.mkdir(exist_ok=True)
    log = folder / "log.csv"
    told = log.read_text() if log.exists() else "epoch,val_MAE\n"
    write_text(log, told)
    if os.environ.get("STUB_FAIL") == trial[1:]:
        print("error: made to fail", file=sys.stderr)
        return 2
    done = len(told.splitlines()) - 1
    for epoch in range(done + 1, EPOCHS + 1):
        end = time.monotonic() + float(os.environ.get("STUB_SECONDS", "0"))
        while time.monotonic() < end and not stopped:
            time.sleep(0.02)
        if stopped:
            print("stopped, saved")
            return int(os.environ.get("STUB_STOPPED", "75"))
        told += f"{epoch},{1 / epoch}\n"
        write_text(log, told)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "best.pth").write_text("weights")
    (folder / "trained.json").write_text("{}")
    return 0


def evaluate(folder: Path, seed: int) -> None:
    """Write scores by which t12 is the best."""
    from utils.scores import write_scores

    row = {"trial": folder.name, "checkpoint": "round_00-best", "images": 4, "arm": "points"}
    row |= {"round": 0, "points": 2.0, "MAE": 0.01 + abs(seed - 12) / 100, "label_mode": "pixel"}
    row |= {"labelled_percent": 0.1, "convention": "pysodmetrics", "maxF": 0.5}
    write_scores(folder / "scores.csv", [{**row, "set": name} for name in ("TE", "validation")])
    note = folder / "preds" / "round_00-best" / "made_from.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"checkpoint": "round_00/checkpoints/best.pth"}))


def main(words: list[str]) -> int:
    if words[:2] == ["-m", "torch.distributed.run"]:
        gone = [*words[2:5], f"grants={os.environ.get('TORCH_ELASTIC_SHUTDOWN_TIMEOUT')}"]
        words = words[5:]
    else:
        gone = []
    script = words[1] if words[0] == "-m" else Path(words[0]).name
    if script in EARNEST or f"{script} {'--trials' * ('--trials' in words)}" in EARNEST:
        os.execv(sys.executable, [sys.executable, *words])
    flags = flags_of(words)
    if script == "config.py":
        make_config(words, flags)
        return 0
    if script == "datasets.check":
        return 0 if Path(flags["run_folder"]).is_dir() else 2
    folder = Path(flags["runs"]) / flags["trial"]
    with open(folder.parent / "ran", "a") as file:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        file.write(" ".join([folder.name, script, f"devices={devices}", *gone]) + "\n")
    if script == "train.py":
        return train(folder / "round_00", folder.name)
    if script == "active_learning":
        if "STUB_WAITING" in os.environ:
            return 3
        (folder / "round_00").mkdir(exist_ok=True)
        (folder / "round_00" / "points.csv").write_text("")
    elif script == "evaluate.py":
        evaluate(folder, int(folder.name[1:]))
    elif script == "select_best.py":
        scores = {"TE": {"maxF": 0.5, "MAE": 0.25}}
        (folder / "best.json").write_text(json.dumps({"scores": scores}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
