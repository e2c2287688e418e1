"""Command lines: what is read, and how faults are told."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from utils.cli import Parser, parse_weights
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def parser():
    parser = Parser(prog="tool", description="About.")
    parser.add_argument("--data_root")
    parser.add_argument("--epochs", type=int, default=3)
    return parser


def test_arguments_are_read(parser):
    assert vars(parser.parse(["--data_root", "d"])) == {"data_root": "d", "epochs": 3}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data_rot", "x"], r"^unknown flag --data_rot; did you mean '--data_root'\?"),
        (["--epoch=3"], r"^unknown flag --epoch; did you mean '--epochs'\?"),
        (["word"], "^unknown flag word "),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--epochs"], "argument --epochs: expected one argument"),
    ],
)
def test_faults_are_one_line_and_no_usage(parser, argv, told, capsys):
    with pytest.raises(UserError, match=told) as raised:
        parser.parse(argv)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("(--help lists every flag)")
    assert capsys.readouterr() == ("", "")


def test_weights_are_read():
    assert parse_weights("bce=2+iou+ssim=0.5") == {"bce": 2.0, "iou": 1.0, "ssim": 0.5}
    assert parse_weights("") == {}


@pytest.mark.parametrize("text", ["bce=much", "bce=1=2", "bce=1+bce=2"])
def test_bad_weights_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="bce"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (["-m", "active_learning.exchange"], "python -m active_learning.exchange"),
        (["-m", "datasets.check"], "python -m datasets.check"),
        (["config.py"], "config.py"),
    ],
)
def test_help_names_the_command_as_it_is_typed(command, usage):
    told = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"usage: {usage} [-h]")
