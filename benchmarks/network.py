"""How large, how costly and how fast is the network, by backbone and by each of its parts?

    python benchmarks/network.py --counts               parameters and multiply-adds alone
    python benchmarks/network.py [--out results.json]   and images a second

Speed is that of the network and of a whole training step (losses and optimiser included, the loader
not) on made-up images, two groups a training batch. There are four sections, and the networks of a
section take turns in one process: every backbone without any part; one backbone with each part (and
what the part needs); the whole of it (``--whole``) in every precision, with channels last or first
in memory; and the same compiled and not, channels last. Medians over the turns are printed; a first
turn, in which caches fill and networks are compiled, is not counted. ``--out`` gets the numbers of
each section as soon as they are known. On a CPU the images are small unless ``--size`` and
``--batch`` say otherwise, and nothing is compiled unless ``--compile`` does.

Multiply-adds are those of convolutions and matrix products in a forward pass, an image; with a
relation within a group they depend on the number of images. Shapes are counted, nothing is
computed, so that the counts are the same on every machine. Losses and the discriminator are not in
them.
"""

from __future__ import annotations

import argparse
import platform
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from active_learning.learner import Learner
from config import PRESETS, Config
from datasets.training import Batch
from models import BACKBONES, SaliencyNet, build_model
from models.stored import parts_of
from utils.cli import Parser
from utils.device import Machine, choose_machine
from utils.errors import UserError, run_script
from utils.files import write_json
from utils.registry import look_up
from utils.settings import to_dict
from utils.tables import text_table

CLASSES = 291
"""Classes told apart: as many as DUTS_class, the usual training set of groups, has."""

_GAM = {"grouped": True, "relation": "gam"}
_CLASSIFY = {"grouped": True, "classify": 0.025}


def _network_of(preset: str) -> dict[str, Any]:
    """Return a preset without its image size, which the benchmark sets."""
    return {name: value for name, value in PRESETS[preset].items() if name != "size"}


SWITCHES: dict[str, dict[str, Any]] = {
    "none": {},
    "plain decoder": {"decoder": "plain"},
    "gam": _GAM,
    "nonlocal": _GAM | {"relation": "nonlocal"},
    "mha": _GAM | {"relation": "mha"},
    "gam+contrast": _GAM | {"contrast": 2.0},
    "classify": _CLASSIFY,
    "classify+triplet": _CLASSIFY | {"triplet": 0.1},
    "classify+masked": _CLASSIFY | {"classify_masked": 0.08},
    "binarise": {"binarise": "decoder"},
    "refiner:map": {"refiner": "map"},
    "refiner:image": {"refiner": "image"},
    "refiner:map+binarise": {"refiner": "map", "binarise": "refiner"},
    "levels": {"losses_others": {"bce": 1.0}},
    "smoothing": {"label_smoothing": True},
    "adversarial": {"adversarial": 0.1},
    "gconet": _network_of("gconet"),
    "gconet_plus": _network_of("gconet_plus"),
}
"""The parts of the network and of its training, as settings of `Config`."""

LOSSES_ONLY = {"classify+triplet", "smoothing", "adversarial"}
"""Switches that make training another, not the network; they are not counted."""


class Contiguous(Machine):
    """A machine that keeps channels first in memory."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout that torch makes by itself."""
        return torch.contiguous_format


@dataclass(frozen=True)
class Variant:
    """A network and how it is run."""

    section: str
    config: Config
    switch: str
    machine: Machine
    compiled: bool = False

    @property
    def way(self) -> str:
        """Precision, memory layout and whether the network is compiled, for the table."""
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        layout = "first" if isinstance(self.machine, Contiguous) else "last"
        return f"{dtype[self.machine.dtype]} {layout}{' compiled' * self.compiled}"


class DatalessTrainer(Learner):
    """A learner of a made-up batch: its network, optimiser and `step` are those of `train.py`."""

    def __init__(self, variant: Variant) -> None:
        config = variant.config
        super().__init__(config, "dense", variant.machine)
        parts = parts_of(to_dict(config), CLASSES)
        self.take(build_model(config.backbone, config.width, config.backbone_weights, parts)[0])
        if variant.compiled:
            self.model = torch.compile(self.model)
        self.batch = made_up_batch(variant.config.batch_size, variant.config.size)
        self.images = self.machine.images(self.batch.images)

    @torch.no_grad()
    def forward(self, repeats: int) -> None:
        """Make the maps of one group."""
        self.model.eval()
        for _ in range(repeats):
            with self.machine.autocast():
                self.model(self.images)

    def train_steps(self, repeats: int) -> None:
        """Train on the batch."""
        self.model.train()
        for _ in range(repeats):
            self.step(self.batch)


def made_up_batch(images: int, size: int) -> Batch:
    """Return noise with a disc as mask, the first half of it one group and the rest another."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    axis = torch.linspace(-1, 1, size)
    mask = (axis[:, None] ** 2 + axis**2 < 0.25).to(torch.uint8).expand(images, 1, -1, -1)
    classes = (torch.arange(images) >= images // 2).to(torch.int64)
    labels = torch.cat((1 - mask, mask), dim=1)
    return Batch(pixels, labels, torch.arange(images), classes)


def count(config: Config) -> dict[str, float]:
    """Return parameters, and multiply-adds an image in eval and in training mode.

    A batch has ``config.batch_size`` images: one group in eval mode, two in training.
    """
    images = config.batch_size
    with torch.device("meta"):  # some weights' initial values cannot be drawn without data
        model = SaliencyNet(config.backbone, config.width, parts_of(to_dict(config), CLASSES))
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_alone:
        model = model.to_empty(device="cpu")
        batch = torch.empty(images, 3, config.size, config.size)
    found: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters())}
    groups = {"eval": (images,), "training": (images // 2, images - images // 2)}
    for mode, sizes in groups.items():
        model.train(mode == "training")
        # Fused attention has another name on every device; in pieces it is two products.
        counter = FlopCounterMode(display=False)
        with shapes_alone, counter, sdpa_kernel(SDPBackend.MATH):
            model(batch, sizes)
        found[mode] = counter.get_total_flops() / 2 / images
    return found


def seconds(work: Callable[[int], None], repeats: int, device: torch.device) -> float:
    """Return how long one repeat takes."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begun = perf_counter()
    work(repeats)
    wait()
    return (perf_counter() - begun) / repeats


def race(variants: Sequence[Variant], turns: int, repeats: int) -> list[dict[str, float]]:
    """Let networks take turns; return images a second of each, in a forward pass and a step."""
    trainers = [DatalessTrainer(variant) for variant in variants]
    times = [
        [
            [seconds(work, repeats, trainer.machine.device) for work in works]
            for trainer in trainers
            for works in [(trainer.forward, trainer.train_steps)]
        ]
        for _ in range(turns + 1)
    ][1:]
    return [
        {
            name: variant.config.batch_size / median(turn[index][column] for turn in times)
            for column, name in enumerate(("forward", "step"))
        }
        for index, variant in enumerate(variants)
    ]


def list_variants(args: argparse.Namespace, base: Config, machine: Machine) -> list[Variant]:
    """Return what is compared, section by section."""
    make = partial(Variant, machine=machine)
    found = [make("backbone", replace(base, backbone=name), "none") for name in args.backbones]
    found += [make("part", replace(base, **SWITCHES[name]), name) for name in args.switches]
    whole = replace(base, **SWITCHES[args.whole])
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    ways = [("way", Machine, False), ("way", Contiguous, False)]
    if args.compile:
        ways += [("compiled", Machine, False), ("compiled", Machine, True)]
    found += [
        Variant(section, whole, args.whole, kind(machine.device, dtypes[precision]), compiled)
        for (section, kind, compiled), precision in product(ways, args.precisions)
    ]
    return found


def measure(
    variants: Sequence[Variant], turns: int, repeats: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield counts and, where ``turns`` is above 0, speeds of the variants, section by section.

    Each time all rows that are known are given.
    """
    rows: list[dict[str, Any]] = []
    for section in dict.fromkeys(variant.section for variant in variants):
        mine = [variant for variant in variants if variant.section == section]
        speeds = race(mine, turns, repeats) if turns else [{}] * len(mine)
        rows += [
            {
                "section": variant.section,
                "backbone": variant.config.backbone,
                "parts": variant.switch,
                "way": variant.way,
                **count(variant.config),
                **speed,
            }
            for variant, speed in zip(mine, speeds, strict=True)
        ]
        yield rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table; speeds stand beside what they are of the section's first row."""
    timed = "step" in rows[0]
    header = ["network", "parts", "parameters", "GMACs", "in training"]
    header += ["way", "images/s", "ratio", "trained/s", "ratio"] if timed else []
    firsts: dict[str, dict[str, Any]] = {}
    lines = []
    for row in rows:
        first = firsts.setdefault(row["section"], row)
        line = [row["backbone"], row["parts"], f"{row['parameters']:,}"]
        line += [f"{row[mode] / 1e9:.2f}" for mode in ("eval", "training")]
        if timed:
            line.append(row["way"])
            for name in ("forward", "step"):
                line += [f"{row[name]:.1f}", f"{row[name] / first[name]:.2f}"]
        lines.append(line)
    print(text_table(header, lines))


def make_parser() -> Parser:
    """Return the benchmark's flags."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--counts", action="store_true", help="print only what is counted")
    parser.add_argument("--backbones", nargs="*", default=list(BACKBONES), metavar="NAME")
    parser.add_argument("--backbone", default="vgg16_bn", help="backbone that gets the parts")
    parser.add_argument("--switches", nargs="*", default=list(SWITCHES), metavar="NAME")
    parser.add_argument("--whole", default="gconet_plus", help="switch run in every precision")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], metavar="NAME")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile, too")
    parser.add_argument("--size", type=int, help="side of the images (CPU: 64; else 256)")
    parser.add_argument("--batch", type=int, help="images a batch (CPU: 4; else 16)")
    parser.add_argument("--width", type=int, default=64, help="channels of the decoder")
    parser.add_argument("--turns", type=int, default=5, help="how often each network is timed")
    parser.add_argument("--repeats", type=int, help="passes and steps a turn (CPU: 1; else 10)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    return parser


def resolve(args: argparse.Namespace, machine: Machine) -> Config:
    """Fill in what depends on the device, check all flags, and return the plain network.

    Raises:
        UserError: a name is unknown, or a number cannot be meant.
    """
    small = machine.device.type == "cpu" and not args.counts
    for name, on_cpu, default in (("size", 64, 256), ("batch", 4, 16), ("repeats", 1, 10)):
        if getattr(args, name) is None:
            setattr(args, name, on_cpu if small else default)
    if args.compile is None:
        args.compile = machine.device.type == "cuda"
    for name in (*args.backbones, args.backbone):
        look_up(BACKBONES, name, "backbone")
    for name in (*args.switches, args.whole):
        look_up(SWITCHES, name, "switch")
    for name in args.precisions:
        look_up(dict.fromkeys(("fp32", "bf16")), name, "precision")
    if args.batch < 4 or args.turns < 1 or args.repeats < 1:
        raise UserError("--batch must be 4 or more, --turns and --repeats 1 or more: change them")
    if args.counts:
        args.precisions = []
        args.switches = [name for name in args.switches if name not in LOSSES_ONLY]
    return Config(
        backbone=args.backbone,
        backbone_weights="none",
        width=args.width,
        size=args.size,
        batch_size=args.batch,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""
    args = make_parser().parse(argv)
    machine = choose_machine("cpu" if args.counts else args.device, "auto")
    base = resolve(args, machine)
    variants = list_variants(args, base, machine)
    if not variants:
        raise UserError("nothing to compare: give --backbones, --switches or --precisions a name")
    cuda = machine.device.type == "cuda"
    about = {
        "size": args.size,
        "batch": args.batch,
        "width": args.width,
        "torch": torch.__version__,
    }
    if not args.counts:
        device = torch.cuda.get_device_name(machine.device) if cuda else platform.processor()
        about |= {"device": device or platform.machine(), "threads": torch.get_num_threads()}
        about |= {"turns": args.turns, "repeats": args.repeats}
    for rows in measure(variants, 0 if args.counts else args.turns, args.repeats):
        if args.out:
            write_json(args.out, {"about": about, "rows": rows})
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    show(rows)
    return 0


if __name__ == "__main__":
    run_script(main)
