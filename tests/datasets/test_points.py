"""Points files, and points counted on the network's grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import datasets.points
from datasets.augment import move, resize_map
from datasets.index import Sample, list_set
from datasets.points import (
    Point,
    by_image,
    check_points,
    count_labels,
    named_sizes,
    read_answers,
    read_points,
    write_points,
)
from utils.errors import UserError

HEADER = "image,x,y,label,round\n"
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
coordinates = st.integers(0, 5000)


@given(
    st.dictionaries(
        st.tuples(names, coordinates, coordinates),
        st.tuples(st.integers(0, 1), st.integers(0, 9)),
        max_size=8,
    )
)
def test_round_trip(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("points") / "points.csv"
    points = [Point(*pixel, *answer) for pixel, answer in answers.items()]
    write_points(path, points)
    assert read_points(path) == points


@pytest.mark.parametrize(
    "name", ["a,b.jpg", 'the "cat".png', " lead and trail .jpg", "grüße/東京.jpg", "'x'.jpg", "#1"]
)
def test_names_that_need_care(tmp_path, name):
    path = tmp_path / "points.csv"
    points = [Point(name, 0, 1, 0, 0), Point(name, 1, 0, 1, 2)]
    write_points(path, points)
    assert read_points(path) == points


def test_the_file_is_plain_and_complete(tmp_path):
    path = tmp_path / "points.csv"
    write_points(path, [Point("g/a.jpg", 3, 4, 1, 0)])
    assert path.read_text() == HEADER + "g/a.jpg,3,4,1,0\n"
    write_points(path, [])
    assert path.read_text() == HEADER
    assert read_points(path) == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("a.jpg,1,1,1,0\na.jpg,2,2,2,0\n", "line 3: label 2: must be 1 or 0"),
        ("a.jpg,1,1,-1,0\n", "line 2: label -1"),
        ("a.jpg,1,1,255,0\n", "line 2: label 255"),
        ("a.jpg,1,1,yes,0\n", "line 2: .*must be integers"),
        ("a.jpg,1.5,1,1,0\n", "line 2: .*must be integers"),
        ("a.jpg,1,,1,0\n", "line 2: .*must be integers"),
        ("a.jpg,1,1,1,0\nb.jpg,1,1,1,0\na.jpg,1,1,0,1\n", r"line 4: pixel \(1, 1\) .*twice"),
        ("a.jpg,1,1,1,0\na.jpg,1,1", "line 3: 5 values are needed"),
        ("a.jpg,1,1,1,0\n\na.jpg,2,2,2,0\n", "line 3: 5 values are needed"),
        ("a,b.jpg,1,1,1,0\n", "line 2: 5 values are needed"),
        ('"a.jpg,1,1,1,0\n', "not readable as CSV"),
    ],
)
def test_faults_name_the_file_and_the_line(tmp_path, lines, told):
    path = tmp_path / "points.csv"
    path.write_text(HEADER + lines)
    with pytest.raises(UserError, match=told) as raised:
        read_points(path)
    assert str(raised.value).startswith(f"{path}, line ")
    assert "\n" not in str(raised.value)


def test_missing_column_and_missing_file(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,label\na.jpg,1,1,1\n")
    with pytest.raises(UserError, match=r"points\.csv: the first line lacks round"):
        read_points(path)
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_points(tmp_path / "none.csv")


@pytest.fixture
def samples(tmp_path):
    found = []
    for name, size in (("wide.png", (7, 3)), ("tall.png", (2, 9))):
        Image.new("RGB", size).save(tmp_path / name)
        found.append(Sample(name, tmp_path / name, tmp_path / "no mask", "S", ""))
    return found


def test_points_in_the_corners_are_inside(samples, tmp_path):
    corners = [("wide.png", x, y) for x in (0, 6) for y in (0, 2)]
    corners += [("tall.png", x, y) for x in (0, 1) for y in (0, 8)]
    points = [Point(*corner, 1, 0) for corner in corners]
    # It raises where it objects.
    assert check_points(points, named_sizes(samples), tmp_path / "p.csv") is None


@pytest.mark.parametrize("pixel", [(7, 0), (0, 3), (-1, 0), (0, -1), (2, 8)])
def test_points_outside_are_refused(samples, tmp_path, pixel):
    points = [Point("tall.png", 0, 0, 1, 0), Point("wide.png", *pixel, 1, 0)]
    path = tmp_path / "p.csv"
    with pytest.raises(UserError, match=r"lies outside wide\.png \(7 x 3 pixels\)") as raised:
        check_points(points, named_sizes(samples), path)
    assert str(raised.value).startswith(f"{path}, line 3: point ({pixel[0]}, {pixel[1]})")


def test_unknown_images_are_refused_with_the_closest(samples, tmp_path):
    path = tmp_path / "p.csv"
    points = [Point("wide.png", 0, 0, 1, 0), Point("wide.jpg", 0, 0, 1, 0)]
    with pytest.raises(UserError, match=r"'wide\.jpg' .*; did you mean 'wide\.png'\?") as raised:
        check_points(points, named_sizes(samples), path)
    assert str(raised.value).startswith(f"{path}, line 3: ")


def test_pictures_that_came_or_went_since_the_trial_began_are_told_as_such(samples, tmp_path):
    path = tmp_path / "points.csv"
    write_points(path, [Point("wide.png", 0, 0, 1, 0)])
    with pytest.raises(UserError, match=r"1 of 2 images \(tall\.png\): take away pictures"):
        read_answers([path], samples)
    write_points(path, [Point(sample.name, 0, 0, 1, 0) for sample in samples])
    with pytest.raises(UserError, match=r"'tall\.png' .*: put back pictures that were renamed"):
        read_answers([path], samples[:1])


def test_by_image_follows_the_names():
    points = [Point("b", 1, 2, 1, 0), Point("a", 3, 4, 0, 0), Point("b", 5, 6, 0, 1)]
    found = by_image([*points, Point("else", 0, 0, 0, 0)], ["a", "none", "b"])
    assert [rows.tolist() for rows in found] == [[[3, 4, 0]], [], [[1, 2, 1], [5, 6, 0]]]
    assert all(rows.dtype == np.int64 and rows.shape[1:] == (3,) for rows in found)


def test_count_labels_by_hand():
    points = np.array([[9, 9, 1], [9, 9, 1], [9, 9, 0], [9, 9, 0], [9, 9, 1], [9, 9, 1]])
    pixels = np.array([[1.4, 0], [0.6, 0.49], [1, 0], [2.5, 3], [3.5, 0], [0, -0.51]])
    labels = count_labels(points, pixels, 4)
    assert labels.dtype == np.uint8
    expected = np.zeros((2, 4, 4))
    expected[1, 0, 1] = 2  # two agree on one pixel
    expected[0, 0, 1] = 1  # and a third does not
    expected[0, 3, 3] = 1  # halves go up
    assert np.array_equal(labels, expected)  # the last two lie outside


@st.composite
def image_and_points(draw):
    width, height = draw(st.integers(1, 900)), draw(st.integers(1, 900))
    pixel = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    pixels = draw(st.lists(pixel, min_size=1, max_size=12))
    corners = [(x, y) for x in (0, width - 1) for y in (0, height - 1)]
    return width, height, [(*pixel, index % 2) for index, pixel in enumerate(pixels + corners)]


@given(image_and_points(), st.integers(1, 400), st.booleans())
def test_no_point_is_lost_to_resizing(made, size, flip):
    width, height, rows = made
    points = np.array(rows)
    mirror = np.diag([-1.0, 1.0, 1.0]) if flip else np.eye(3)
    mirror[0, 2] = size - 1 if flip else 0
    pixels = move(points[:, :2], mirror @ resize_map(width, height, size))
    labels = count_labels(points, pixels, size)
    assert labels[0].sum() == (points[:, 2] == 0).sum()
    assert labels[1].sum() == (points[:, 2] == 1).sum()


@given(image_and_points(), st.integers(1, 400))
def test_a_point_falls_into_the_cell_that_covers_its_centre(made, size):
    width, height, rows = made
    for x, y, label in rows:
        point = np.array([[x, y, label]])
        labels = count_labels(point, move(point[:, :2], resize_map(width, height, size)), size)
        # In whole numbers: cell c covers (c * width .. (c + 1) * width) / size of the image.
        column, row = (2 * x + 1) * size // (2 * width), (2 * y + 1) * size // (2 * height)
        ((found_label, found_row, found_column),) = np.argwhere(labels)
        assert found_label == label
        # A centre right on the border of two cells may go to either.
        assert found_column == column or (2 * x + 1) * size == column * 2 * width
        assert found_row == row or (2 * y + 1) * size == row * 2 * height


@pytest.fixture
def later_round(sample_root, tmp_path):
    """Two answers an image of a first and a later round; the later one was asked by a file."""
    samples = list_set(sample_root, "SAMPLE-TE")
    files = [tmp_path / f"round_0{index}" / "points.csv" for index in range(2)]
    for index, path in enumerate(files):
        write_points(
            path, [Point(s.name, 2 * index + k, 5, k, index) for s in samples for k in (0, 1)]
        )
    return samples, files


def put_questions(points, reserve=()):
    asked = [(*point[:3], point.round, 0) for point in read_points(points)]
    rows = sorted([*asked, *reserve], key=lambda row: (row[0], row[4]))
    lines = [",".join(map(str, row)) + "\n" for row in rows]
    points.with_name("questions.csv").write_text("".join(["image,x,y,round,reserve\n", *lines]))


@pytest.mark.parametrize("line", [1, 4, -1])
def test_a_later_round_that_lacks_an_answer_is_told(later_round, line):
    samples, files = later_round
    put_questions(files[1])
    assert [len(own) for own in read_answers(files, samples)] == [4] * len(samples)
    lines = files[1].read_text().splitlines(keepends=True)
    del lines[line]
    files[1].write_text("".join(lines))
    with pytest.raises(UserError, match=r"round_01/points\.csv: lacks answers .* delete it"):
        read_answers(files, samples)


def test_where_some_pixels_cannot_be_told_a_cut_is_known_by_the_ledger(later_round, tmp_path):
    samples, files = later_round
    first, last = samples[0].name, samples[-1].name
    put_questions(files[1], [(sample.name, 7, k, 1, 1) for sample in samples for k in (0, 1)])
    ledger, told = tmp_path / "ledger.csv", read_points(files[1])
    # Of the first image a pixel was not told, and one of the reserve has its place; of the last
    # image nothing was told.
    told = [Point(first, 7, 0, 1, 1), *(p for p in told[1:] if p.image != last)]
    write_points(files[1], sorted(told))
    write_points(ledger, [*told, Point(first, 7, 1, 0, 1)])  # asked by another arm, too
    found = read_answers(files, samples, ledger)
    assert [len(own) for own in found] == [4] * (len(samples) - 1) + [2]
    # Taken back since, and said to be untold in another arm.
    write_points(ledger, [*told, Point(first, 2, 5, 0, 1)])
    read_answers(files, samples, ledger)
    for kept in (len(told) - 1, len(told) // 2, 1):
        write_points(files[1], sorted(told)[:kept])
        with pytest.raises(UserError, match="lacks answers"):
            read_answers(files, samples, ledger)


def test_pictures_and_ledger_are_read_once_for_all_rounds(
    later_round, tmp_path, monkeypatch, measured
):
    samples, files = later_round
    for path in files:
        put_questions(path, [(sample.name, 7, 0, 1, 1) for sample in samples])
    ledger, read = tmp_path / "ledger.csv", []
    write_points(ledger, [point for path in files for point in read_points(path)])

    def watched(path):
        read.append(path)
        return read_points(path)

    monkeypatch.setattr(datasets.points, "read_points", watched)
    assert [len(own) for own in read_answers(files, samples, ledger)] == [4] * len(samples)
    assert sorted(read) == sorted([*files, ledger])
    assert sorted(measured) == sorted(sample.name for sample in samples)
    read_answers(files, samples, ledger, [(64, 64)] * len(samples))
    assert len(measured) == len(samples)
