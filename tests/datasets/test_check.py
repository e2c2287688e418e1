"""Each kind of fault is put into sound data, and must be told alone."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import datasets.check
import datasets.faults
from datasets.check import check_data, main, require_usable
from utils.errors import UserError
from utils.stopping import Stopped

MASK = np.zeros((20, 30), np.uint8)
MASK[5:12, 6:20] = 255


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two sound sets: TR (flat, two images) and TE (two groups of two)."""
    names = ("TR/a b", "TR/ü", "TE/g/1", "TE/h/1", "TE/g/2", "TE/h/2")
    for number, name in enumerate(names):
        put(tmp_path / "images" / f"{name}.png", picture(number))
        put(tmp_path / "gts" / f"{name}.png", MASK)
    return tmp_path


def only_fault(root, *args, **options):
    faults = check_data(root, *args, progress=False, **options)
    assert len(faults) == 1, [str(fault) for fault in faults]
    assert "\n" not in str(faults[0])
    return faults[0]


def test_sound_data_has_no_fault(root):
    assert check_data(root, progress=False) == []
    assert check_data(root, "TR", "TE", progress=False) == []
    put(root / "gts" / "TR" / "ü.png", MASK > 0)
    put(root / "gts" / "TR" / "a b.png", MASK.astype(np.uint16) * 257)
    assert check_data(root, "TR", "TE", progress=False) == []


def test_truncated_image(root):
    path = root / "images" / "TR" / "a b.png"
    path.write_bytes(path.read_bytes()[:900])
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("error", "images/TR/a b.png")
    assert "unreadable" in fault.problem
    assert str(root) not in str(fault)


def test_truncated_mask(root):
    put(root / "gts" / "TR" / "ü.png", picture(9))
    data = (root / "gts" / "TR" / "ü.png").read_bytes()
    (root / "gts" / "TR" / "ü.png").write_bytes(data[:900])
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("error", "gts/TR/ü.png")


def test_missing_mask(root):
    (root / "gts" / "TE" / "h" / "1.png").unlink()
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("error", "gts/TE/h/1.png")


def test_mask_of_another_size(root):
    put(root / "gts" / "TR" / "ü.png", np.pad(MASK, ((0, 1), (0, 0))))
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("error", "gts/TR/ü.png")
    assert "30 x 21 pixels, its image 30 x 20" in fault.problem


def test_sizes_are_compared_upright(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(root / "images" / "TR" / "ü.png", picture(1), exif=exif)
    assert only_fault(root).severity == "error"
    put(root / "gts" / "TR" / "ü.png", np.ascontiguousarray(np.rot90(MASK)))
    assert check_data(root, progress=False) == []


BETWEEN = MASK.copy()
BETWEEN[0, :6] = 100


@pytest.mark.parametrize(
    ("mask", "severity", "told"),
    [
        (np.zeros_like(MASK), "warning", "no object"),
        (np.full_like(MASK, 255), "warning", "all object"),
        (np.full_like(MASK, 200), "warning", "all object"),
        (BETWEEN, "warning", "1 % of its values lie between"),
        (MASK // 255, "error", "label indices; multiply it by 255"),
        (MASK // 255 * 37, "error", "half of 255 .the largest is 37."),
        (MASK.astype(np.uint16), "error", "half of 65535 .the largest is 255."),
        (MASK.astype(np.uint16) // 255, "error", "multiply it by 65535"),
    ],
)
def test_mask_values(root, mask, severity, told):
    put(root / "gts" / "TR" / "ü.png", mask)
    fault = only_fault(root)
    assert (fault.severity, fault.file) == (severity, "gts/TR/ü.png")

    assert re.search(told, str(fault))


def test_masks_without_an_image(root):
    put(root / "gts" / "TR" / "more.png", MASK)
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "gts/TR/more.png")
    assert "no image" in fault.problem
    (root / "gts" / "TR" / "more.png").unlink()
    put(root / "gts" / "TE" / "g" / "1.bmp", MASK)
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "gts/TE/g/1.bmp")
    assert "PNG" in fault.remedy


def test_group_of_one_image(root):
    (root / "images" / "TE" / "g" / "2.png").unlink()
    (root / "gts" / "TE" / "g" / "2.png").unlink()
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TE/g")
    assert "one image" in fault.problem
    assert only_fault(root, None, "TE", masks=False) == fault
    # One image in a flat set is no group.
    (root / "images" / "TR" / "ü.png").unlink()
    assert check_data(root, "TR", progress=False, masks=False) == []


def test_images_beside_the_group_folders(root):
    for number, name in enumerate(("TE/y", "TE/x")):
        put(root / "images" / f"{name}.png", picture(30 + number))
        put(root / "gts" / f"{name}.png", MASK)
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TE/x.png")
    assert "beside the group folders (2 such images)" in fault.problem


def test_group_folder_of_another_name_among_the_masks(root):
    for group in ("Traffic Light", "traffic_lamp"):
        for number in range(2):
            put(root / "images" / "TE" / group / f"{number}.png", picture(40 * len(group) + number))
    for number in range(3):
        put(root / "gts" / "TE" / "traffic light" / f"{number}.png", MASK)
        put(root / "gts" / "TE" / "zebra" / f"{number}.png", MASK)
        put(root / "gts" / "TE" / "traffic_lamp" / f"{number}.png", MASK)
    told = [str(fault) for fault in check_data(root, progress=False)]
    # One error for the group, not one an image; the folder it means has no strays of its own.
    assert told[0] == (
        "error: gts/TE/Traffic Light: no such folder for the masks of 2 images; if "
        "gts/TE/traffic light is meant, give both the same name"
    )
    assert told[1:] == [
        f"warning: gts/TE/{name}: no image has this mask; add it, or remove this"
        for name in ("traffic_lamp/2.png", "zebra/0.png", "zebra/1.png", "zebra/2.png")
    ]


def test_group_without_masks(root):
    for number in (1, 2):
        (root / "gts" / "TE" / "h" / f"{number}.png").unlink()
    # An empty folder is there, and lacks its masks one by one.
    assert len(check_data(root, progress=False)) == 2
    (root / "gts" / "TE" / "h").rmdir()
    fault = only_fault(root)
    assert str(fault) == ("error: gts/TE/h: no such folder for the masks of 2 images; add it")
    assert check_data(root, masks=False, progress=False) == []


def test_test_picture_in_training_whatever_the_file_format(root):
    put(root / "images" / "TE" / "g" / "1.png", picture(0), compress_level=0)
    fault = only_fault(root, "TR", "TE")
    assert (fault.severity, fault.file) == ("warning", "images/TE/g/1.png")
    assert "images/TR/a b.png" in fault.problem
    assert check_data(root, None, "TR+TE", progress=False) == []


def test_picture_in_two_sets_where_nothing_says_what_they_are_for(root):
    put(root / "images" / "TE" / "g" / "1.png", picture(1), compress_level=0)
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TR/ü.png")
    assert "images/TE/g/1.png" in fault.problem
    assert "a leak if one set is for training and the other for test" in fault.remedy
    # Repeated within a set and in another: each is told once.
    put(root / "images" / "TR" / "a b.png", picture(1))
    faults = check_data(root, progress=False)
    assert [(fault.file, fault.problem) for fault in faults] == [
        ("images/TR/a b.png", "the same picture as images/TE/g/1.png, in another set"),
        ("images/TR/ü.png", "the same picture as images/TR/a b.png"),
    ]


def test_leak_is_found_when_the_training_set_repeats_the_picture(root):
    put(root / "images" / "TR" / "ü.png", picture(0))
    put(root / "images" / "TE" / "g" / "1.png", picture(0))
    faults = check_data(root, "TR", "TE", progress=False)
    assert [fault.file for fault in faults] == ["images/TR/ü.png", "images/TE/g/1.png"]


def test_set_trained_and_tested_on(root):
    fault = only_fault(root, "TR", "TR")
    assert (fault.severity, fault.file) == ("warning", "images/TR")


def test_picture_twice_in_a_set(root):
    put(root / "images" / "TR" / "ü.png", picture(0))
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TR/ü.png")
    assert "images/TR/a b.png" in fault.problem


def test_same_bytes_in_another_shape_are_another_picture(root):
    for name, shape in (("TR/a b", (20, 30)), ("TR/ü", (30, 20))):
        put(root / "images" / f"{name}.png", np.zeros((*shape, 3), np.uint8))
    put(root / "gts" / "TR" / "ü.png", np.ascontiguousarray(MASK.T))
    assert check_data(root, progress=False) == []


def test_tiny_image(root):
    put(root / "images" / "TR" / "ü.png", picture(1)[:7])
    put(root / "gts" / "TR" / "ü.png", MASK[:7])
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TR/ü.png")
    assert "30 x 7" in fault.problem
    put(root / "images" / "TR" / "ü.png", picture(1)[:8])
    put(root / "gts" / "TR" / "ü.png", MASK[:8])
    assert check_data(root, progress=False) == []


def test_same_name_in_two_training_sets(root):
    put(root / "images" / "MORE" / "ü.png", picture(7))
    put(root / "gts" / "MORE" / "ü.png", MASK)
    fault = only_fault(root, "TR+MORE")
    assert (fault.severity, fault.file) == ("error", "images/MORE/ü.png")
    assert check_data(root, None, "TR+MORE", progress=False) == []


def test_images_that_share_a_mask_hide_no_other_fault(root):
    for name in ("a b.jpg", "ü.JPG"):
        put(root / "images" / "TR" / name, picture(len(name)), format="JPEG")
    (root / "images" / "TR" / "cut.png").write_bytes(b"")
    put(root / "gts" / "TR" / "cut.png", MASK)
    faults = check_data(root, progress=False)
    assert [(fault.severity, fault.file) for fault in faults] == [
        ("error", "images/TR/a b.png"),
        ("error", "images/TR/ü.png"),
        ("error", "images/TR/cut.png"),
    ]
    assert faults[0].problem == "would share the mask a b.png with a b.jpg"


@pytest.mark.parametrize("train_masks", [True, False])
def test_pictures_that_are_passed_over_are_told(root, train_masks):
    for name in ("b.HEIC", "a.heic", "sub/c.gif", "notes.txt", ".DS_Store", "Thumbs.db", ".x.gif"):
        path = root / "images" / "TR" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    fault = only_fault(root, "TR", "TE", train_masks=train_masks)
    assert (fault.severity, fault.file) == ("warning", "images/TR")
    assert fault.problem == "a.heic and 2 more passed over, since .HEIC, .gif, .heic is not read"


def test_pictures_two_folders_down_are_told(root):
    for name in ("TE/g/deep/1.png", "TE/g/empty/read.me", "TE/h/deep/2.HEIC"):
        (root / "images" / name).parent.mkdir()
        (root / "images" / name).write_bytes(b"")
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("warning", "images/TE")
    assert fault.problem == "the pictures in g/deep and 1 more are passed over, two folders down"


def test_pictures_beside_the_sets_are_told(root):
    for name in ("2.jpg", "1.jpg", "list.txt"):
        (root / "images" / name).write_bytes(b"")
    fault = only_fault(root, "TR")
    assert (fault.severity, fault.file) == ("warning", "images")
    assert fault.problem == "1.jpg and 1 more passed over, in no set"


def test_set_that_cannot_be_listed(root):
    (root / "images" / "EMPTY").mkdir()
    fault = only_fault(root)
    assert (fault.severity, fault.file) == ("error", "images/EMPTY")
    assert fault.problem.startswith("no images in it")


def test_masks_folder_missing(root):
    (root / "gts" / "TE").rename(root / "gts" / "ELSEWHERE")
    fault = only_fault(root, "TR", "TE")
    assert (fault.severity, fault.file) == ("warning", "gts/TE")
    fault = only_fault(root, "TE")
    assert (fault.severity, fault.file) == ("error", "gts/TE")


@pytest.mark.parametrize(
    ("options", "opened"),
    [
        ({}, {"TR", "TE"}),
        ({"masks": False}, set()),
        ({"train_masks": False}, {"TE"}),
        ({"test_masks": False}, {"TR"}),
        ({"masks": False, "test_masks": True}, {"TE"}),
    ],
)
def test_which_masks_are_opened(root, monkeypatch, options, opened):
    seen = set()
    real = datasets.faults.read_grey

    def spy(path):
        seen.add(path.relative_to(root / "gts").parts[0])
        return real(path)

    monkeypatch.setattr(datasets.faults, "read_grey", spy)
    assert check_data(root, "TR", "TE", progress=False, **options) == []
    assert seen == opened


def test_without_masks_gts_may_be_anything(root):
    (root / "gts").rename(root / "away")
    (root / "gts").write_text("no folder")
    assert check_data(root, "TR", "TE", masks=False, progress=False) == []
    require_usable(root, "TR", "TE", train_masks=False, test_masks=False)


def test_unknown_names(root):
    with pytest.raises(UserError, match="no set 'TX'"):
        check_data(root, "TX")
    with pytest.raises(UserError, match="no such folder: set --data_root"):
        check_data(root / "nowhere")


def test_require_usable_tells_the_first_ten(root, capsys):
    for number in range(12):
        put(root / "images" / "BAD" / f"{number:02d}.png", picture(20 + number))
        put(root / "images" / "ODD" / f"{number:02d}.png", picture(40 + number))
        put(root / "gts" / "ODD" / f"{number:02d}.png", MASK * 0)
    put(root / "gts" / "BAD" / "00.png", MASK)
    with pytest.raises(UserError) as told:
        require_usable(root, "BAD", "ODD", train_masks=True, test_masks=True)
    text = str(told.value)
    assert text.startswith("11 errors")
    assert "gts/BAD/10.png (no such mask); and 1 more" in text
    assert "11.png" not in text
    assert f"python -m datasets.check --data_root {root} --trainset BAD --testsets ODD`" in text
    assert "\n" not in text
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 11
    assert shown[0].startswith("warning: gts/ODD/00.png: no object")
    assert shown[10].startswith("12 warnings in all")


@pytest.mark.parametrize(
    ("switches", "flag"),
    [((False, True), "--no-train-masks"), ((False, False), "--no-masks"), ((True, True), "TE`")],
)
def test_the_named_command_finds_the_same_faults(root, capsys, switches, flag):
    (root / "images" / "TR" / "ü.png").write_bytes(b"")
    (root / "gts" / "TR" / "a b.png").unlink()
    (root / "gts" / "TE" / "g" / "1.png").unlink()
    with pytest.raises(UserError) as told:
        require_usable(root, "TR", "TE", *switches)
    assert flag in str(told.value)
    words = str(told.value).split("`")[1].split()
    assert words[:3] == ["python", "-m", "datasets.check"]
    expected = 1 + sum(switches)
    with pytest.raises(UserError, match=rf"^{expected} errors? in the data: the lines above tell"):
        main(words[3:])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == expected + 1
    counted = "1 error" if expected == 1 else f"{expected} errors"
    assert lines[-1] == f"6 images in 2 sets checked: {counted}, 0 warnings"
    assert str(told.value).startswith(f"{expected} error")


def test_exit_codes(root, capsys):
    put(root / "gts" / "TR" / "ü.png", MASK * 0)
    assert main(["--data_root", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: gts/TR/ü.png: no object; check it against its image",
        "6 images in 2 sets checked: 0 errors, 1 warning",
    ]


def on_the_command_line(*arguments):
    """Run the check, both outputs into one file as by ``2>&1``."""
    return subprocess.run(
        [sys.executable, "-m", "datasets.check", *arguments],
        cwd=datasets.check.__file__.rsplit("datasets", 1)[0],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_errors_end_in_one_line_and_exit_code_two(root):
    (root / "images" / "TR" / "ü.png").write_bytes(b"")
    done = on_the_command_line("--data_root", str(root), "--trainset", "TR", "--no-masks")
    assert done.returncode == 2
    fault, count, end = done.stdout.splitlines()
    assert fault.startswith("error: images/TR/ü.png: ")
    assert count == "2 images in 1 set checked: 1 error, 0 warnings"
    assert end == "error: 1 error in the data: the lines above tell what to do"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data_root", "nowhere"], "error: nowhere: no such folder: "),
        (["--data_rot", "x"], "error: unknown flag --data_rot; did you mean '--data_root'?"),
        ([], "error: --data_root is missing"),
    ],
)
def test_bad_arguments_leave_with_two_and_one_line(arguments, told):
    done = on_the_command_line(*arguments)
    assert done.returncode == 2
    assert done.stdout.startswith(told)
    assert done.stdout.count("\n") == 1


def test_a_signal_does_not_wait_until_all_images_are_checked(root, monkeypatch):
    for number in range(300):
        (root / "images" / "TR" / f"{number}.png").symlink_to("a b.png")
    begun, submitted, submit = [], [], ThreadPoolExecutor.submit

    def look(*args):
        begun.append(args)
        time.sleep(0.01)
        return [], None

    def count(*args):
        submitted.append(args)
        return submit(*args)

    def bar(work, *_, **__):
        yield next(iter(work))
        raise Stopped

    monkeypatch.setattr(datasets.check, "check_sample", look)
    monkeypatch.setattr(datasets.check, "track", bar)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", count)
    monkeypatch.setenv("GCO_CORES", "2")
    with pytest.raises(Stopped):
        check_data(root, "TR", progress=False)
    assert len(begun) <= len(submitted) <= 4 * 2 + 1
