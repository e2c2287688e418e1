"""How fast is the pipeline beside what the hardware allows?

    python benchmarks/pipeline.py [--data_root D --trainset T] [--out F] [any flag of gco.sh]
    python benchmarks/pipeline.py --scaling         questions against the number of images
    python benchmarks/pipeline.py --ensembles       what snapshots and a deep ensemble cost
    python benchmarks/pipeline.py --overlap         the points that bf16 would choose

Every stage of a round stands beside its floor, the part of its work that cannot be left out: to
ask, to load every snapshot, and a pass of it (with an attack two, and one with a gradient for each
of its steps); to teach oneself, two passes of each; to train, steps on one batch that lies on the
device; to test, one pass; to read and to score, decoding the files. Stage and floor take turns in
one process; medians.
"Beside" is what other threads do while the network works, in seconds of theirs. A stage's share is
that of a round after the first, of as many images as were taken; the dense twin has none.

Images are drawn unless --data_root names some; --images and --tests say how many are taken. The
networks are made up: their maps are half black, half white, with grey between, since flat ones cost
less to cut. On a CPU seconds are those of all threads of this process (--clock cpu), so that other
programs on the machine change them little; on a GPU those on the wall.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pipeline_clock import Clock, Row, resident_peak
from benchmarks.pipeline_questions import TINY, Found, ensembles, overlap, scaling
from benchmarks.pipeline_stages import all_stages
from benchmarks.pipeline_trial import begin, prepare
from config import FIELDS, PRESETS, Config
from utils import settings
from utils.device import choose_machine
from utils.errors import UserError, run_script
from utils.files import write_json, write_text

OURS = ("trial", "runs", "testsets")
SMALL = {"backbone": "mobilenet_v2", "size": 96, "batch_size": 8, "width": 64}
"""Settings on a CPU; on a GPU those of config.py."""


def make_parser() -> Any:
    """Return the benchmark's flags, beside those of every field of `Config`."""
    parser = settings.make_parser(__doc__)
    parser.formatter_class = RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--images", type=int, help="training images (CPU: 40; else 512)")
    flag("--tests", type=int, help="test images (CPU: 16; else 256)")
    flag("--turns", type=int, default=3, help="how often each stage is timed (default: 3)")
    flag("--clock", choices=("auto", "wall", "cpu"), default="auto", help="see above")
    flag("--out", type=Path, help="a JSON file for the numbers; the table beside it (.md)")
    flag("--networks", type=Path, help="folder of snapshots to take in the place of made-up ones")
    mode = parser.add_mutually_exclusive_group()
    for name in ("scaling", "ensembles", "overlap"):
        mode.add_argument(f"--{name}", action="store_true", help="see above")
    flag("--counts", default="1000,3000,10000", help="images of --scaling, joined by commas")
    return parser


def resolve(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the benchmark's arguments, and the config fields of the trial.

    Raises:
        UserError: a number cannot be meant, or a flag is the benchmark's to choose.
    """
    found = vars(make_parser().parse(argv))
    flags = {name: found.pop(name) for name in FIELDS if name in found}
    args = argparse.Namespace(**found)
    for name in OURS[:2]:
        if name in flags:
            raise UserError(f"--{name} is chosen here: leave it out")
    if flags.get("data_root") and "trainset" not in flags:
        raise UserError("--trainset is missing: name the set of --data_root to take images from")
    machine = choose_machine(flags.get("device", "auto"), flags.get("precision", "auto"))
    small = machine.device.type == "cpu"
    args.images = args.images or (40 if small else 512)
    args.tests = args.tests or (16 if small else 256)
    if args.images < 12 or args.tests < 1 or args.turns < 1:
        raise UserError("--images must be 12 or more, --tests and --turns 1 or more: change them")
    args.given = flags
    args.cpu = small if args.clock == "auto" else args.clock == "cpu"
    start = {"backbone_weights": "none", "rounds": 2}
    preset = PRESETS.get(flags.get("preset", ""), {})
    found = {**preset, **start, **(SMALL if small else {}), **flags}
    if found["rounds"] < 2:
        raise UserError(f"--rounds {found['rounds']}: must be 2 or more: the second is timed")
    if found.get("binarise", "none") != "none":
        raise UserError("--binarise: made-up heads cannot be binarised here: give --binarise none")
    return args, found


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of stages."""
    whole = sum(row.times * row.seconds for row in rows)
    cuda = any(row.memory for row in rows)
    header = ["stage", "images/s", "floor", "images/s", "stage / floor", "share of a round"]
    header += ["GPU busy", "CUDA MiB"] if cuda else []
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        rate = f"{row.images / row.seconds:.1f}" if row.seconds > 0 else ""
        cells = [row.stage.replace("  ", "... "), rate, row.floor_of]
        cells += [f"{row.images / row.floor:.1f}", f"{row.ratio:.2f}"] if row.floor else ["", ""]
        cells.append(f"{row.times * row.seconds / whole:.0%}" if row.times else "")
        if cuda:
            cells.append("" if row.busy is None else f"{row.busy:.0f} %")
            cells.append(f"{row.memory:.0f}" if row.memory else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stages(flags: dict[str, Any], args: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Time all stages; yield the table and the numbers of those that were."""
    config = prepare(flags, args.images, args.tests, folder)
    pool, machine = begin(config, args.networks)
    rows: list[Row] = []
    for more in all_stages(config, pool, machine, Clock(machine.device, args.cpu), args.turns):
        rows += more
        yield markdown(rows), [vars(row) for row in rows]


def about(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Return what made the numbers: nothing in it names a machine or a place on one."""
    machine = choose_machine(config.device, config.precision)
    cuda = machine.device.type == "cuda"
    name = torch.cuda.get_device_name(machine.device) if cuda else platform.machine()
    names = ("backbone", "size", "batch_size", "width", "snapshots", "attack", "attack_steps")
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": str(machine.dtype).removeprefix("torch."),
        "clock": "cpu" if args.cpu else "wall",
        "images": args.images,
        "turns": args.turns,
        "drawn": not config.data_root,
        **{field: getattr(config, field) for field in names},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""
    args, flags = resolve(argv)
    modes = {"scaling": scaling, "ensembles": ensembles, "overlap": overlap}
    mode = next((name for name in modes if getattr(args, name)), "stages")
    settings.check_names(Config(**flags))
    timed = {**flags, **TINY, **args.given} if mode == "scaling" else flags
    made = about(Config(**timed), args) | {"mode": mode}
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        for text, found in modes.get(mode, stages)(flags, args, Path(folder)):
            made["peak MiB"] = round(resident_peak())
            if args.out:  # as soon as it is known: whoever has no more time has this
                write_json(args.out, {"about": made, "rows": found})
                write_text(args.out.with_suffix(".md"), text + "\n")
    print(", ".join(f"{name} {value}" for name, value in made.items()))
    print(text)
    return 0


if __name__ == "__main__":
    run_script(main)
