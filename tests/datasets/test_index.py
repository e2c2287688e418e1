"""Listing sets and splitting them, on trees of empty files (images are never opened)."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.index import Sample, list_set, list_sets, set_names, split_train_validation
from utils.errors import UserError


def tree(root, *files):
    for file in files:
        path = root / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def samples_of(names):
    return [Sample(name, None, None, "S", "") for name in names]


def test_flat_set(tmp_path):
    tree(tmp_path, "S/b 1.JPG", "S/é.png", "S/a.v2.tiff", "S/B.webp", "S/10.jpeg", "S/9.bmp")
    samples = list_set(tmp_path, "S")
    assert [s.name for s in samples] == [
        "10.jpeg",
        "9.bmp",
        "B.webp",
        "a.v2.tiff",
        "b 1.JPG",
        "é.png",
    ]
    third = samples[3]
    assert third.image == tmp_path / "images" / "S" / "a.v2.tiff"
    assert third.mask == tmp_path / "gts" / "S" / "a.v2.png"
    assert {(s.set, s.group) for s in samples} == {("S", "")}


def test_grouped_set(tmp_path):
    tree(tmp_path, "S/big cat/2.jpg", "S/big cat/1.jpg", "S/ant/1.jpg")
    samples = list_set(str(tmp_path), "S")
    assert [s.name for s in samples] == ["ant/1.jpg", "big cat/1.jpg", "big cat/2.jpg"]
    assert [s.group for s in samples] == ["ant", "big cat", "big cat"]
    assert samples[1].mask == tmp_path / "gts" / "S" / "big cat" / "1.png"


def test_other_files_are_passed_over(tmp_path):
    tree(tmp_path, "S/1.jpg", "S/.2.jpg", "S/Thumbs.db", "S/__MACOSX/3.jpg", "S/.git/4.jpg")
    tree(tmp_path, "S/notes.txt", "S/jpg", "S/g/.DS_Store", "S/g/._5.jpg")
    (tmp_path / "images" / "S" / "g" / "folder.jpg").mkdir()
    assert [s.name for s in list_set(tmp_path, "S")] == ["1.jpg"]


def test_masks_are_never_touched(tmp_path, monkeypatch):
    tree(tmp_path, "S/1.jpg", "S/g/2.jpg")
    (tmp_path / "gts").write_text("a file where the folder would be")
    touched = []
    for name in ("scandir", "listdir", "stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda path, *a, _real=real, **k: (touched.append(str(path)), _real(path, *a, **k))[1],
        )
    assert len(list_set(tmp_path, "S")) == 2
    assert touched, "the spy saw nothing"
    assert not [path for path in touched if "gts" in path]


def test_linked_set_and_group_are_followed(tmp_path):
    tree(tmp_path / "store", "S/g/1.jpg")
    (tmp_path / "data" / "images" / "T").mkdir(parents=True)
    (tmp_path / "data" / "images" / "S").symlink_to(tmp_path / "store" / "images" / "S")
    (tmp_path / "data" / "images" / "T" / "g").symlink_to(tmp_path / "store" / "images" / "S" / "g")
    assert [s.name for s in list_set(tmp_path / "data", "S")] == ["g/1.jpg"]
    assert [s.name for s in list_set(tmp_path / "data", "T")] == ["g/1.jpg"]


def test_missing_root_and_set(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder: set --data_root"):
        list_set(tmp_path / "nowhere", "S")
    with pytest.raises(UserError, match="images: no such folder"):
        list_set(tmp_path, "S")
    tree(tmp_path, "DUTS-TR/1.jpg", "SED1/1.jpg")
    with pytest.raises(UserError, match=r"'DUT-TR'.*did you mean 'DUTS-TR'.*DUTS-TR, SED1"):
        list_set(tmp_path, "DUT-TR")
    with pytest.raises(UserError, match="no set ''"):
        list_set(tmp_path, "")
    assert set_names(tmp_path) == ["DUTS-TR", "SED1"]


def test_empty_set(tmp_path):
    tree(tmp_path, "S/readme.txt", "S/g/deeper/1.jpg")
    with pytest.raises(UserError, match="S: no images"):
        list_set(tmp_path, "S")


@pytest.mark.parametrize("names", [("1.jpg", "1.png"), ("g/1.jpg", "g/1.JPG")])
def test_two_images_with_one_mask(tmp_path, names):
    tree(tmp_path, *(f"S/{name}" for name in names), "S/2.jpg")
    with pytest.raises(UserError, match=r"would share the mask 1.png"):
        list_set(tmp_path, "S")


def test_all_images_with_one_mask_are_counted(tmp_path):
    tree(
        tmp_path, *(f"S/{name}" for name in ("1.jpg", "1.png", "1.tif", "2.jpg", "2.png", "3.png"))
    )
    told = r"1\.jpg and 1\.png would share the mask 1\.png \(and so would 2 more\)"
    with pytest.raises(UserError, match=told):
        list_set(tmp_path, "S")


def test_same_stem_in_two_groups_is_fine(tmp_path):
    tree(tmp_path, "S/g/1.jpg", "S/h/1.png", "S/1.bmp")
    assert len(list_set(tmp_path, "S")) == 3


def test_name_that_is_no_utf8(tmp_path):
    tree(tmp_path, "S/1.jpg")
    try:
        open(os.fsencode(tmp_path / "images" / "S") + b"/\xff.jpg", "w").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(UserError, match="not UTF-8"):
        list_set(tmp_path, "S")


def test_joined_sets_keep_their_order(tmp_path):
    tree(tmp_path, "B/1.jpg", "A/2.jpg", "A/0.jpg")
    assert [(s.set, s.name) for s in list_sets(tmp_path, "B+A")] == [
        ("B", "1.jpg"),
        ("A", "0.jpg"),
        ("A", "2.jpg"),
    ]


def test_joined_sets_share_no_name(tmp_path):
    tree(tmp_path, "A/1.jpg", "A/2.jpg", "B/2.jpg", "C/2.png")
    with pytest.raises(UserError, match=r"2.jpg is in both sets A and B"):
        list_sets(tmp_path, "A+B")
    assert len(list_sets(tmp_path, "A+C")) == 3


@pytest.mark.parametrize("joined", ["A+A", "A+", "", "+A", "../A", "A+..", "A/B"])
def test_bad_joined_names(tmp_path, joined):
    tree(tmp_path, "A/1.jpg", "A/B/2.jpg")
    with pytest.raises(UserError, match="set"):
        list_sets(tmp_path, joined)


NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=30, unique=True)


@given(NAMES, st.floats(0.001, 0.999), st.integers(0, 2**32))
def test_split_parts_the_images(names, fraction, seed):
    samples = samples_of(names)
    train, validation = split_train_validation(samples, fraction, seed)
    assert train
    assert validation
    assert [s for s in samples if s in train] == train
    assert [s for s in samples if s in validation] == validation
    assert sorted(s.name for s in train + validation) == sorted(names)


@given(st.permutations([f"{i}.jpg" for i in range(40)]))
def test_split_does_not_depend_on_the_order(names):
    _, validation = split_train_validation(samples_of(names), 0.3, 5)
    _, expected = split_train_validation(samples_of(sorted(names)), 0.3, 5)
    assert sorted(s.name for s in validation) == sorted(s.name for s in expected)


def test_split_does_not_depend_on_other_images():
    names = [f"{i}.jpg" for i in range(400)]
    _, all_out = split_train_validation(samples_of(names), 0.25, 1)
    _, half_out = split_train_validation(samples_of(names[::2]), 0.25, 1)
    assert {s.name for s in half_out} == {s.name for s in all_out} & set(names[::2])


def test_split_share_and_seed():
    samples = samples_of([f"{i}.jpg" for i in range(4000)])
    _, first = split_train_validation(samples, 0.1, 0)
    _, second = split_train_validation(samples, 0.1, 1)
    # 400 expected; five standard deviations of a binomial are 95
    assert abs(len(first) - 400) < 95
    assert abs(len({s.name for s in first} & {s.name for s in second}) - 40) < 35


def test_split_is_the_same_on_every_machine():
    _, validation = split_train_validation(samples_of([f"{i}.jpg" for i in range(30)]), 0.2, 3)
    assert [s.name for s in validation] == [f"{i}.jpg" for i in (7, 8, 17, 20, 21, 22)]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8), st.floats(0.05, 0.95), st.integers(0, 99)
)
def test_split_leaves_each_group_two_images_to_train_on(sizes, fraction, seed):
    samples = [
        Sample(f"{number}/{i}.jpg", None, None, "S", str(number))
        for number, size in enumerate(sizes)
        for i in range(size)
    ]
    flat = [Sample(s.name, None, None, "S", "") for s in samples]
    train, held_out = split_train_validation(samples, fraction, seed, grouped=True)
    assert [s for s in samples if s in train] == train
    assert sorted(s.name for s in train + held_out) == sorted(s.name for s in samples)
    left = [sum(s.group == str(number) for s in train) for number in range(len(sizes))]
    if len(samples) > 1:
        assert held_out
        short = [n for n, size in zip(left, sizes, strict=True) if n < min(2, size)]
        assert not short or (len(held_out) == 1 and short in ([0], [1]))
    # Folders mean nothing to a training that looks at no groups.
    names = [[s.name for s in part] for part in split_train_validation(samples, fraction, seed)]
    assert names == [
        [s.name for s in part] for part in split_train_validation(flat, fraction, seed)
    ]
    # Nothing is held out that would not be without groups, but for the one that must be.
    _, plain = split_train_validation(flat, fraction, seed)
    extra = {s.name for s in held_out} - {s.name for s in plain}
    assert len(extra) == 0 or (len(held_out) == 1 and max(sizes) <= 2)


def test_split_ends():
    one, many = samples_of(["a"]), samples_of("abcd")
    assert split_train_validation(one, 0.5, 0) == (one, [])
    assert split_train_validation([], 0.5, 0) == ([], [])
    assert split_train_validation(many, 0, 0) == (many, [])
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(UserError, match="fraction"):
            split_train_validation(many, fraction, 0)
