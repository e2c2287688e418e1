"""What a user sees of an error: one line and an exit code."""

import errno
import shlex
import subprocess
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError, closest, disk_error, run_script
from utils.registry import look_up


def code_of(main):
    with pytest.raises(SystemExit) as left:
        run_script(main)
    return left.value.code


def raiser(error):
    def main():
        raise error

    return main


def test_closest_names_the_nearest_or_nothing():
    assert closest("resnet05", ["vgg16", "resnet50"]) == "; did you mean 'resnet50'?"
    assert closest("xyz", ["vgg16", "resnet50"]) == ""


def test_look_up_lists_what_is_known():
    known = {"adamw": 1, "sgd": 2}
    assert look_up(known, "sgd", "optimiser") == 2
    with pytest.raises(UserError, match=r"unknown optimiser 'adam'; did you mean 'adamw'\?.*sgd"):
        look_up(known, "adam", "optimiser")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_what_main_returns(returned, code):
    assert code_of(lambda: returned) == code


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("a.csv, line 3: bad: mend it"), "error: a.csv, line 3: bad: mend it\n"),
        (OSError(errno.ENOSPC, "No space left", "a.bin"), "error: a.bin: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.bin"), "error: a.bin: no perm"),
    ],
)
def test_faults_of_the_user_are_one_line_and_exit_code_2(error, told, capsys, monkeypatch):
    monkeypatch.delenv("GCO_DEBUG", raising=False)
    assert code_of(raiser(error)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(told)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


class Faulty(Dataset):
    """Fails for want of a file, as images do."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("a.jpg: unreadable: replace it")


def test_a_fault_in_a_loader_process_is_one_line_too(capsys, monkeypatch):
    monkeypatch.delenv("GCO_DEBUG", raising=False)
    assert code_of(lambda: len(list(DataLoader(Faulty(), num_workers=1)))) == 2
    assert capsys.readouterr().err == "error: a.jpg: unreadable: replace it\n"


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("GCO_DEBUG", "1")
    with pytest.raises(UserError, match="bad"):
        run_script(raiser(UserError("bad")))


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.EIO, "broken disk")])
def test_defects_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_script(raiser(error))


def test_an_interrupt_is_exit_code_130(capsys):
    assert code_of(raiser(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_output_that_nobody_reads_ends_the_script_without_a_traceback():
    code = "from utils.errors import run_script\n"
    code += "run_script(lambda: print('x' * 10_000_000))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -c 1; "
    command += "echo ${PIPESTATUS[0]}"
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout == "x141\n"
    assert told.stderr == "stopped: the reader of the output has gone\n"


def test_disk_error_passes_other_faults_over():
    assert disk_error(OSError(errno.EIO, "broken disk", "x")) is None
    assert "x: it has gone" in str(disk_error(FileNotFoundError(errno.ENOENT, "none", "x")))
    assert "quota" in str(disk_error(OSError(errno.EDQUOT, "quota", "x")))
