"""Write metrics.json with PySODMetrics, see README.md. Run it in an environment of its own."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import py_sod_metrics as sod
from pairs import digest, golden_pairs

DECIMALS = 9


def scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Return what PySODMetrics' classes say of a set of (map, mask), unrounded."""
    mae, f, wf, s, e = (
        sod.MAE(),
        sod.Fmeasure(beta=0.3),
        sod.WeightedFmeasure(beta=1),
        sod.Smeasure(alpha=0.5),
        sod.Emeasure(),
    )
    kinds = {"iou": sod.IOUHandler, "dice": sod.DICEHandler, "ber": sod.BERHandler}
    overlap = sod.FmeasureV2(
        {name: kind(True, False, with_binary=True) for name, kind in kinds.items()}
    )
    for pred, mask in pairs:
        for measure in (mae, f, wf, s, e, overlap):
            measure.step(pred, mask)
    f, e = f.get_results(), e.get_results()["em"]
    overlaps = overlap.get_results()
    return {
        "mae": mae.get_results()["mae"],
        "adp_f": f["fm"]["adp"],
        "wf": wf.get_results()["wfm"],
        "s": s.get_results()["sm"],
        "adp_e": e["adp"],
        "f_curve": f["fm"]["curve"],
        "e_curve": e["curve"],
        "precision": f["pr"]["p"],
        "recall": f["pr"]["r"],
        **{f"{name}_curve": overlaps[name]["dynamic"] for name in kinds},
        **{name: overlaps[name]["binary"] for name in kinds},
    }


def plain(value: float | np.ndarray) -> float | list | None:
    """Return JSON values: NaN is null, a curve is a list of [value, how often in a row]."""
    if np.ndim(value) == 0:
        return None if np.isnan(value) else round(float(value), DECIMALS)
    runs: list[list] = []
    for number in np.asarray(value, np.float64).round(DECIMALS).tolist():
        if runs and runs[-1][0] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def main() -> None:
    """Score every pair alone, and all of those with finite scores together."""
    warnings.simplefilter("ignore")
    pairs = golden_pairs()
    single = {name: scores([pair]) for name, pair in pairs.items()}
    together = [
        name
        for name, found in single.items()
        if np.isfinite(found["s"]) and pairs[name][0].size > 1
    ]
    lines = [
        f"{json.dumps(name)}: "
        + json.dumps({"pair": digest(*pairs[name])} | {k: plain(v) for k, v in found.items()})
        for name, found in single.items()
    ]
    whole = {k: plain(v) for k, v in scores([pairs[name] for name in together]).items()}
    text = "{\n" + f'"made with": "pysodmetrics {version("pysodmetrics")}, '
    text += f'numpy {version("numpy")}, scipy {version("scipy")}",\n"images": {{\n'
    text += ",\n".join(lines) + "\n},\n"
    text += f'"set": {json.dumps({"names": together} | whole)}\n}}\n'
    path = Path(__file__).with_name("metrics.json")
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(pairs)} pairs, {len(together)} of them in the set")


if __name__ == "__main__":
    main()
