"""Saliency maps of any format, and their pairing with masks."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.maps import list_masks, pair_up, read_map, read_true_mask
from utils.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (7, 11), np.uint8)


def saved(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grey.png", GREY),
        ("grey.bmp", GREY),
        ("deep.png", GREY.astype(np.uint16) * 257),
        ("deep.tif", GREY.astype(np.uint16) * 257),
        ("float.tif", GREY.astype(np.float32) / 255),
        ("float.npy", GREY / 255),
        ("single.npy", (GREY / 255).astype(np.float32)),
        ("grey.npy", GREY),
        ("deep.npy", GREY.astype(np.uint32) * np.uint32(0x01010101)),
        ("colour.png", np.repeat(GREY[..., None], 3, axis=2)),
    ],
)
def test_every_format_gives_the_same_256_levels(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    found = read_map(saved(tmp_path / name, values))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, GREY)


def test_palette_and_boolean_maps(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY // 128, mode="P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.png")
    np.save(tmp_path / "bool.npy", GREY >= 128)
    Image.fromarray(GREY >= 128).save(tmp_path / "one bit.png")
    expected = np.where(GREY >= 128, 255, 0)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_map(path), expected)


def test_deeper_values_are_rounded_to_the_nearest_level(tmp_path: Path) -> None:
    values = np.array([[0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 254.6 / 255, 1]])
    assert read_map(saved(tmp_path / "a.npy", values)).tolist() == [[0, 0, 1, 254, 255, 255]]
    values = np.array([[0, 128, 129, 65535 - 129, 65535 - 128]], np.uint16)
    assert read_map(saved(tmp_path / "a.png", values)).tolist() == [[0, 0, 1, 254, 255]]


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_nan_is_named(tmp_path: Path, name: str) -> None:
    values = np.full((4, 5), 0.5, np.float32)
    values[2, 3] = np.nan
    values[3, 3] = np.inf
    with pytest.raises(UserError, match=rf"{name}: nan at x 3, y 2 \(2 of 20 values are not fin"):
        read_map(saved(tmp_path / name, values))


@pytest.mark.parametrize("values", [[[0.0, 255.0]], [[-0.1, 1.0]]])
def test_floats_that_are_no_saliency_are_refused(tmp_path: Path, values: list) -> None:
    with pytest.raises(UserError, match="saliency must lie in 0 to 1"):
        read_map(saved(tmp_path / "a.npy", np.array(values)))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((2, 3, 1)), "2 x 3 x 1: a map has two dimensions"),
        (np.zeros((0, 3)), "0 x 3"),
        (np.zeros((2, 3), np.int64), "int64: save bool"),
        (np.zeros((2, 3), complex), "complex128: save bool"),
    ],
)
def test_arrays_that_are_no_map_are_refused(tmp_path: Path, values: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_map(saved(tmp_path / "a.npy", values))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "whole.png", np.repeat(GREY, 50, axis=0))
    saved(tmp_path / "whole.npy", GREY)
    for kind in ("png", "npy"):
        data = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(UserError, match=rf"cut\.{kind}: (unreadable|not readable)"):
            read_map(tmp_path / f"cut.{kind}")
        with pytest.raises(UserError, match=rf"none\.{kind}: no such"):
            read_map(tmp_path / f"none.{kind}")
    np.save(tmp_path / "object.npy", np.array([["a", None]], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"object\.npy: not readable as an array"):
        read_map(tmp_path / "object.npy")


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        (
            "a.png",
            GREY.astype(np.uint16),
            "largest value is 248, and white is 65535 .* 8-bit values",
        ),
        (
            "a.npy",
            GREY.astype(np.uint32),
            "largest value is 248, and white is 4294967295 .* 8-bit values",
        ),
        ("a.npy", GREY.astype(np.uint32) * 257, "and white is 4294967295 .* 16-bit values"),
        ("a.tif", GREY.astype(np.int32), "and white is 2147483647 .* 8-bit values"),
        (
            "a.tif",
            (GREY.astype(np.int32) - 100) * 2**23,
            "values from -830472192 to 1241513984: save",
        ),
    ],
)
def test_integers_that_are_not_of_their_depth_are_refused(
    tmp_path: Path, name: str, values: np.ndarray, told: str
) -> None:
    for read in (read_map, read_true_mask) if name != "a.npy" else (read_map,):
        with pytest.raises(UserError, match=rf"{name}: .*{told}"):
            read(saved(tmp_path / name, values))


@pytest.mark.parametrize("values", [[0, 0], [0, 1], [256, 0], [0, 65535]])
def test_dark_and_bright_deep_maps_are_maps(tmp_path: Path, values: list[int]) -> None:
    found = read_map(saved(tmp_path / "a.png", np.array([values], np.uint16)))
    assert found.tolist() == [[round(value / 257) for value in values]]


def test_array_files_of_any_spelling(tmp_path: Path) -> None:
    with open(tmp_path / "a.NPY", "wb") as file:
        np.save(file, GREY)
    np.testing.assert_array_equal(read_map(tmp_path / "a.NPY"), GREY)
    with open(tmp_path / "b.npy", "wb") as file:
        np.savez(file, GREY)
    with pytest.raises(UserError, match=r"b\.npy: an archive of arrays"):
        read_map(tmp_path / "b.npy")


def test_true_masks_are_cut_where_the_tools_cut_them(tmp_path: Path) -> None:
    grey = np.array([[0, 127, 128, 129, 255]], np.uint8)
    path = saved(tmp_path / "a.png", grey)
    assert read_true_mask(path).tolist() == [[False, False, False, True, True]]
    path = saved(tmp_path / "a.tif", np.array([[0, 0.49, 0.5, 1]], np.float32))
    assert read_true_mask(path).tolist() == [[False, False, True, True]]
    path = saved(tmp_path / "b.png", np.array([[False, True]]))
    assert read_true_mask(path).tolist() == [[False, True]]
    with pytest.raises(UserError, match=r"c\.png: its values are 0 and 1"):
        read_true_mask(saved(tmp_path / "c.png", grey // 255))
    assert not read_true_mask(saved(tmp_path / "d.png", grey * 0)).any()


def test_names_that_no_table_can_hold_are_refused(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"\xff.png"))
    for listed in (lambda: list_masks(tmp_path), lambda: pair_up([], tmp_path)):
        with pytest.raises(UserError, match=r"the name '.udcff\.png' is not UTF-8: rename it"):
            listed()


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_maps_find_their_masks_by_name(tmp_path: Path) -> None:
    masks = put(tmp_path / "gts", "b.png", "ä ö.png", "group/b.png", "a.v2.png", "lost.png")
    maps = put(
        tmp_path / "maps", "b.npy", "ä ö.TIF", "group/b.png", "a.v2.png", "more.png", "notes.txt"
    )
    found = pair_up(list_masks(masks), maps)
    named = [(pair.name, pair.saliency, pair.mask) for pair in found.pairs]
    assert named == [
        ("a.v2.png", maps / "a.v2.png", masks / "a.v2.png"),
        ("b.png", maps / "b.npy", masks / "b.png"),
        ("group/b.png", maps / "group/b.png", masks / "group/b.png"),
        ("ä ö.png", maps / "ä ö.TIF", masks / "ä ö.png"),
    ]
    assert found.missing == ["lost.png"]
    assert found.extra == ["more.png"]
    assert pair_up(list_masks(masks), tmp_path / "nowhere").pairs == []


def test_two_maps_of_one_image_are_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.npy")
    with pytest.raises(UserError, match=r"a\.npy and a\.png are maps of one image"):
        pair_up([], tmp_path)
    put(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg and a\.png are masks of one image"):
        list_masks(tmp_path)


def test_no_masks_are_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no masks there: check --gt_root and --testsets"):
            list_masks(folder)


def test_plain_png_files_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    """The fast way for plain grey PNG files, and what must not go it."""
    rng = np.random.default_rng(1)
    for number, shape in enumerate([(1, 1), (1, 9), (33, 40), (200, 301)]):
        values = rng.integers(0, 256, shape, np.uint8)
        path = saved(tmp_path / f"{number}.png", values)
        np.testing.assert_array_equal(read_map(path), values)
        cv2.imwrite(str(path), values, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        np.testing.assert_array_equal(read_map(path), values)
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif_of_orientation(6))
    np.testing.assert_array_equal(read_map(tmp_path / "turned.png"), np.rot90(values, -1))
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=int(values[0, 0]))
    np.testing.assert_array_equal(read_map(tmp_path / "clear.png"), values)
    data = bytearray((tmp_path / "3.png").read_bytes())
    for at in range(33, len(data) - 12, 997):
        damaged = data.copy()
        damaged[at] ^= 1
        (tmp_path / "damaged.png").write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged\.png"):
            read_map(tmp_path / "damaged.png")


def exif_of_orientation(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif
