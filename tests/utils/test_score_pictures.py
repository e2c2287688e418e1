"""Pictures of scores: what is drawn where, odd names, and the same bytes every time."""

import os
import subprocess
import sys
import unicodedata
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from utils import score_pictures
from utils.errors import UserError
from utils.pictures import save_figure
from utils.score_pictures import (
    CELL_HEIGHT,
    CELL_WIDTH,
    GAP,
    GROUND,
    TILE_WIDTH,
    WorstRow,
    cut_middle,
    draw_threshold_curves,
    draw_worst,
    drawable,
)

ROOT = Path(__file__).resolve().parents[2]
ODD = ["_hidden", "$x^2$ 50%", "é 東京 \n\t\ud800 \N{BRAIN}\N{GRINNING FACE}", "long_" * 40]


def made_curves(names, thresholds=256):
    """Return curves whose heights tell the methods apart."""
    falling = np.linspace(0.9, 0.3, thresholds)
    return {
        name: {
            "precision": falling + 0.01 * index,
            "recall": 1 - falling,
            "f": np.sin(np.linspace(0.1, 3, thresholds)) * 0.8 - 0.01 * index,
            "e": np.sin(np.linspace(0.2, 3, thresholds)) * 0.9,
        }
        for index, name in enumerate(names)
    }


@pytest.fixture
def figures(monkeypatch):
    """Catch the figures instead of writing them."""
    caught = []
    monkeypatch.setattr(
        score_pictures, "save_figure", lambda figure, path, dpi: caught.append(figure)
    )
    return caught


@pytest.mark.parametrize("thresholds", [256, 255])
def test_each_panel_shows_its_curves(figures, tmp_path, thresholds):
    curves = made_curves(["one", "two"], thresholds)
    draw_threshold_curves(curves, "SED1", tmp_path / "c")
    recall, f, e = figures[0].axes
    for number, values in enumerate(curves.values()):
        lines = [axis.get_lines()[number] for axis in (recall, f, e)]
        np.testing.assert_array_equal(lines[0].get_xdata(), values["recall"])
        np.testing.assert_array_equal(lines[0].get_ydata(), values["precision"])
        for line, key in zip(lines[1:], ("f", "e"), strict=True):
            np.testing.assert_array_equal(line.get_xdata()[[0, -1]], (255, 0))
            np.testing.assert_array_equal(line.get_ydata(), values[key])
            assert line.get_color() == lines[0].get_color()
    assert [axis.get_ylabel() for axis in (recall, f, e)] == ["precision", "F-measure", "E-measure"]
    assert [axis.get_xlabel() for axis in (recall, f, e)] == ["recall", "threshold", "threshold"]
    assert [axis.get_xlim() for axis in (recall, f, e)] == [(0, 1), (0, 255), (0, 255)]
    assert f.get_title() == "SED1"
    told = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert told == ["one (.800, .900)", "two (.790, .900)"]


def test_the_whole_upper_part_of_every_curve_is_in_sight(figures, tmp_path):
    curves = made_curves(["low", "high"])
    curves["low"]["f"] = curves["low"]["f"] * 0.2 - 0.1
    curves["high"]["precision"][0] = 1.5
    draw_threshold_curves(curves, "SED1", tmp_path / "c")
    recall, f, _ = figures[0].axes
    assert recall.get_ylim()[1] > 1.5
    low, high = f.get_ylim()
    assert low < curves["low"]["f"][16:-16].min() < 0.1
    assert high > curves["high"]["f"].max()


def test_lines_differ_in_colour_or_style_and_neighbours_in_both(figures, tmp_path):
    draw_threshold_curves(made_curves(map(str, range(28))), "SED1", tmp_path / "c")
    looks = [(line.get_color(), line.get_linestyle()) for line in figures[0].axes[0].get_lines()]
    assert len(set(looks)) == 28
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks))


def test_odd_names_are_drawn_as_they_are(figures, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw_threshold_curves(made_curves(ODD), "$ _ 京", tmp_path / "c")
        save_figure(figures[0], tmp_path / "c.png")
        save_figure(figures[0], tmp_path / "c.pdf")
    texts = figures[0].legends[0].get_texts()
    assert [text.get_text().split(" (.")[0] for text in texts] == [
        "_hidden",
        "$x^2$ 50%",
        "é □□ □□□ □\N{GRINNING FACE}",
        "long_long_long_long_lo…_long_long_long_long_",
    ]
    assert figures[0].axes[1].get_title() == "$ _ □"
    assert not any(text.get_parse_math() for text in (*texts, figures[0].axes[1].title))
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figures[0].bbox.width


def test_the_same_curves_give_the_same_bytes_without_a_display(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from test_score_pictures import made_curves, made_row\n"
        "from utils.score_pictures import draw_threshold_curves, draw_worst\n"
        "told = draw_threshold_curves(made_curves('ab'), 'SED1', Path('new') / 'v1.5')\n"
        "assert [path.name for path in told] == ['v1.5.png', 'v1.5.pdf']\n"
        "draw_worst([made_row(50)], Path('worst.png'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        environment.pop("DISPLAY", None)
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)
        files = {path.name: path.read_bytes() for path in folder.rglob("*.*")}
        written.append(files)
    assert sorted(written[0]) == ["v1.5.pdf", "v1.5.png", "worst.png"]
    assert written[0] == written[1]
    assert written[0]["v1.5.pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in written[0]["v1.5.pdf"]
    assert b"/Subtype /Type0" in written[0]["v1.5.pdf"]  # text as Type 42 fonts
    assert b"/Type3" not in written[0]["v1.5.pdf"]


def made_row(grey, size=(30, 40), image=True, name="n", scores=None):
    """Return a row whose image is red, mask full and map of one grey value."""
    colour = np.full((*size, 3), (255, 0, 0), np.uint8) if image else None
    mask, saliency = np.ones(size, bool), np.full(size, grey, np.uint8)
    return WorstRow(name, colour, mask, saliency, {"MAE": 0.5} if scores is None else scores)


def tops_of(sheet, count):
    """Return left and top of each row, from the sheet's own size."""
    columns = min(2, count)
    down = -(-count // columns)
    width = sheet.shape[1] // columns
    top = next(y for y in range(len(sheet)) if tuple(sheet[y, 2 * GAP]) == (255, 0, 0))
    step = (len(sheet) - top) // down
    return [(2 * GAP + i // down * width, top + i % down * step) for i in range(count)]


def drawn(rows, path):
    draw_worst(rows, path)
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_image_mask_and_map_beside_each_other_rows_down_then_across(tmp_path, count):
    sheet = drawn([made_row(20 + 10 * index) for index in range(count)], tmp_path / "w.png")
    assert sheet.shape[1] == min(2, count) * (TILE_WIDTH + 4 * GAP)
    for index, (x, y) in enumerate(tops_of(sheet, count)):
        for part, colour in enumerate(((255, 0, 0), (255,) * 3, (20 + 10 * index,) * 3)):
            left = x + part * (CELL_WIDTH + GAP)
            cell = sheet[y : y + CELL_HEIGHT, left : left + CELL_WIDTH]
            assert (cell == colour).all(), (index, part)


def test_pictures_keep_their_shape_and_big_ones_are_shrunk(tmp_path):
    sizes = [(3000, 1000), (1, 1), (2, 4000), (4000, 2), (CELL_HEIGHT, CELL_WIDTH // 2)]
    rows = [made_row(0, size) for size in sizes]
    sheet = drawn([made_row(9), *rows], tmp_path / "w.png")
    for (height, width), (x, y) in zip(sizes, tops_of(sheet, 6)[1:], strict=True):
        cell = sheet[y : y + CELL_HEIGHT, x : x + CELL_WIDTH]
        red = (cell == (255, 0, 0)).all(-1)
        scale = min(CELL_HEIGHT / height, CELL_WIDTH / width)
        found = (int(red.any(1).sum()), int(red.any(0).sum()))
        assert found == tuple(max(1, round(side * scale)) for side in (height, width))
        assert red.sum() == found[0] * found[1]
        assert (cell[~red] == GROUND).all()
        rest = CELL_HEIGHT - found[0], CELL_WIDTH - found[1]
        assert (np.argmax(red.any(1)), np.argmax(red.any(0))) == (rest[0] // 2, rest[1] // 2)


def test_shrinking_averages(tmp_path):
    stripes = np.tile(np.array([0, 200], np.uint8), (10 * CELL_HEIGHT, 5 * CELL_WIDTH))
    row = made_row(0)
    sheet = drawn([WorstRow("s", row.image, row.mask, stripes, {})], tmp_path / "w.png")
    ((x, y),) = tops_of(sheet, 1)
    x += 2 * (CELL_WIDTH + GAP)
    assert (sheet[y : y + CELL_HEIGHT, x : x + CELL_WIDTH] == 100).all()


@pytest.fixture
def texts(monkeypatch):
    """Record what is written on a sheet, as (text, left, right, y)."""
    told = []
    write = ImageDraw.ImageDraw.text

    def record(self, place, text, fill, font, anchor=None):
        left, _, right, _ = self.textbbox(place, text, font=font, anchor=anchor)
        told.append((text, left, right, place[1]))
        write(self, place, text, fill, font, anchor=anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return told


def test_names_and_scores_stand_below_their_row(tmp_path, texts):
    many = {f"metric{index}": index / 20 for index in range(12)} | {"AP": float("nan")}
    rows = [
        made_row(0, image=False, name="a/東", scores={"maxF": 0.25, "MAE": 0.5}),
        made_row(0, name="long_" * 60, scores=many),
        made_row(0, scores={}),
    ]
    draw_worst(rows, tmp_path / "w.png")
    told = [text for text, *_ in texts]
    assert told[:6] == ["not at hand", "image", "mask", "map", "1. a/□", "maxF .250   MAE .500"]
    assert told[6].startswith("2. long_")
    assert "…" in told[6]
    assert told[6].endswith("long_")
    end = told.index("image", 6)
    assert "   ".join(told[7:end]) == "   ".join(
        f"{name} {'-' if name == 'AP' else f'{value:.3f}'[1:]}" for name, value in many.items()
    )
    assert told[end:] == ["image", "mask", "map", "3. n", ""]
    for _, left, right, _ in texts[4:end]:
        assert 0 <= left - 2 * GAP < 4
        assert right <= 2 * GAP + TILE_WIDTH
    heights = [y for *_, y in texts[4:end]]
    assert all(below - above > 12 for above, below in pairwise(heights))


def test_nothing_to_draw_is_told(tmp_path):
    with pytest.raises(UserError, match="SED1: no curves to draw"):
        draw_threshold_curves({}, "SED1", tmp_path / "c")
    with pytest.raises(UserError, match="no image to draw"):
        draw_worst([], tmp_path / "w.png")
    assert list(tmp_path.iterdir()) == []


@given(st.text(st.characters(exclude_characters="…")), st.integers(2, 12))
def test_a_cut_text_keeps_its_ends(text, room):
    cut = cut_middle(text, lambda letters: len(letters) <= room)
    if len(text) <= room:
        assert cut == text
        return
    left, right = cut.split("…")
    assert len(cut) == room
    assert text.startswith(left)
    assert text.endswith(right)
    assert len(left) - len(right) in (0, 1)


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_drawable_stays_so(text):
    once = drawable(text)
    assert drawable(once) == once
    assert not any(unicodedata.category(letter).startswith("C") for letter in once)
    assert drawable("Aé_β→…□") == "Aé_β→…□"
