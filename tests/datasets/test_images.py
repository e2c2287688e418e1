"""Each file format by a real file, against values known beforehand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from datasets.images import half_of, image_size, read_grey, read_image, read_mask, write_png
from utils.errors import UserError

# Distinct values at every place, so that any turn or flip shows.
PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 13

# Where the stored pixel (row, column) of an H x W file is seen, by the EXIF standard's table
# "the 0th row is at the visual ..., the 0th column at the visual ...".
SEEN_AT = {
    1: lambda r, c, h, w: (r, c),
    2: lambda r, c, h, w: (r, w - 1 - c),
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),
    4: lambda r, c, h, w: (h - 1 - r, c),
    5: lambda r, c, h, w: (c, r),
    6: lambda r, c, h, w: (c, h - 1 - r),
    7: lambda r, c, h, w: (w - 1 - c, h - 1 - r),
    8: lambda r, c, h, w: (w - 1 - c, r),
}


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def png_chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def test_rgb_is_returned_as_it_is(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, PICTURE)


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp", "PNG"])
def test_lossless_formats(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"Bär und Käfer 熊.{suffix}"
    Image.fromarray(PICTURE).save(path, **options)
    np.testing.assert_array_equal(read_image(path), PICTURE)
    assert image_size(path) == (3, 2)


@pytest.mark.parametrize("orientation", SEEN_AT)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PICTURE).save(path, exif=exif(orientation))
    image, grey = read_image(path), read_grey(path)[0]
    luminance = np.asarray(Image.fromarray(PICTURE).convert("L"))
    for row in range(2):
        for column in range(3):
            seen = SEEN_AT[orientation](row, column, 2, 3)
            np.testing.assert_array_equal(image[seen], PICTURE[row, column])
            assert grey[seen] == luminance[row, column]
    assert image_size(path) == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_of_a_jpeg(tmp_path, orientation):
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:, :32] = 255  # bright on the left
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif(orientation), quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (64, 32, 3)
    assert image_size(tmp_path / "a.jpg") == (32, 64)
    bright = image[:24] if orientation == 6 else image[-24:]
    dark = image[-24:] if orientation == 6 else image[:24]
    assert bright.min() > 240
    assert dark.max() < 15


def test_exif_that_follows_the_pixels_of_a_png(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format="PNG")
    data = buffer.getvalue()
    end = data.index(b"IEND") - 4
    tiff = exif(6).tobytes().removeprefix(b"Exif\0\0")
    (tmp_path / "a.png").write_bytes(data[:end] + png_chunk(b"eXIf", tiff) + data[end:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(PICTURE, -1))
    assert image_size(tmp_path / "a.png") == (2, 3)


RAW_EXIF = ("\nexif\n  26\n" + exif(6).tobytes().hex()).encode()
XMP = b'<x tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Raw profile type exif\0" + RAW_EXIF),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    ],
)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_an_orientation_that_a_text_of_a_png_tells(tmp_path, chunk, before):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(before) - 4
    others = png_chunk(b"tEXt", b"a\0b") + png_chunk(b"tEXt", b"")
    (tmp_path / "a.png").write_bytes(data[:at] + others + png_chunk(*chunk) + data[at:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(PICTURE, -1))
    assert image_size(tmp_path / "a.png") == (2, 3)


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"\0\0\0\4eX",  # cut off within a chunk's header
        b"\xff\xff\xff\xffeXIg" + b"eXIf" * 9,
        b"\xff\xff\xff\xfftEXt" + b"a\0eXIf",
        b"\xff\xff\xff\xffeXIf" + exif(6).tobytes(),
        png_chunk(b"IEND", b"") + png_chunk(b"eXIf", exif(6).tobytes()[6:]),
    ],
)
def test_a_png_whose_last_chunks_are_damaged_has_a_size(tmp_path, end):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: data.index(b"IEND") - 4] + end)
    assert image_size(tmp_path / "a.png") == (3, 2)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="asks /proc for bytes read")
def test_of_a_large_png_little_is_read_for_its_size(tmp_path):
    """Though it is in chunks as small as a reader's buffer, as most are."""

    def bytes_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    noise = np.random.default_rng(0).bytes(900 * 1001)
    packed = zlib.compress(noise, 0)
    chunks = (png_chunk(b"IDAT", packed[at : at + 8192]) for at in range(0, len(packed), 8192))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1000, 900, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    image_size(tmp_path / "a.png")  # Pillow loads its formats at the first file
    before = bytes_read()
    assert image_size(tmp_path / "a.png") == (1000, 900)
    assert bytes_read() - before < len(data) / 4


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientation_out_of_range_is_ignored(tmp_path, orientation):
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif(orientation))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PICTURE)


def test_damaged_exif_leaves_the_picture_usable(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.webp", lossless=True, exif=b"Exif\0\0garbage")
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), PICTURE)


def test_size_is_told_without_the_pixels(tmp_path):
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: data.index(b"IDAT") + 8])
    assert image_size(tmp_path / "a.png") == (70, 50)
    with pytest.raises(UserError, match="unreadable"):
        read_image(tmp_path / "a.png")


def test_grey_and_one_bit_become_rgb(tmp_path):
    grey = np.array([[0, 90], [200, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, 2))
    Image.fromarray(grey > 100).save(tmp_path / "bit.png")
    expected = np.array([[0, 0], [255, 255]])
    np.testing.assert_array_equal(read_image(tmp_path / "bit.png")[..., 1], expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    deep = np.array([[0, 257, 300], [32768, 65280, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    expected = np.array([[0, 1, 1], [128, 254, 255]])
    image = read_image(tmp_path / f"a.{suffix}")
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], expected)


def test_float_grey(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1, -1, np.nan]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0, :, 0], [0, 128, 255, 0, 0])
    Image.fromarray(np.array([[0, 128.0, 255]], np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match=r"b.tif: .*beyond 1"):
        read_image(tmp_path / "b.tif")


def test_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0, 127]))
    red, clear, half = read_image(tmp_path / "a.png")[0].astype(int)
    np.testing.assert_array_equal(red, [255, 0, 0])
    np.testing.assert_array_equal(clear, [255, 255, 255])
    np.testing.assert_allclose(half, [128, 128, 255], atol=1)


def test_alpha_is_laid_on_white(tmp_path):
    Image.fromarray(np.array([[[0, 255], [0, 0], [100, 51]]], np.uint8), "LA").save(
        tmp_path / "la.png"
    )
    np.testing.assert_allclose(read_image(tmp_path / "la.png")[0, :, 0], [0, 255, 224], atol=1)
    Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)).save(
        tmp_path / "rgba.png"
    )
    np.testing.assert_array_equal(
        read_image(tmp_path / "rgba.png")[0], [[255, 255, 255], [10, 20, 30]]
    )


def test_single_transparent_colour_is_laid_on_white(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png", transparency=tuple(PICTURE[0, 1].tolist()))
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image[0, 1], [255, 255, 255])
    np.testing.assert_array_equal(image[1], PICTURE[1])


def test_cmyk_jpeg(tmp_path):
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, :16] = (0, 255, 255, 0)  # red
    inks[:, 16:32] = (0, 0, 0, 255)  # black
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg")[8]
    np.testing.assert_allclose(image[[8, 24, 40]], [[255, 0, 0], [0] * 3, [255] * 3], atol=8)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.jpg")[8, [8, 24, 40]], [0, 0, 1])


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PICTURE)


@pytest.mark.parametrize(
    ("values", "dtype", "name"),
    [
        ([0, 127, 128, 255], np.uint8, "a.png"),
        ([0, 32767, 32768, 65535], np.uint16, "a.png"),
        ([0, 32767, 32768, 65535], np.uint16, "a.tif"),
        ([0, 2**30 - 1, 2**30, 2**31 - 1], np.int32, "a.tif"),
        ([0, 0.499, 0.5, 1], np.float32, "a.tif"),
        ([-1, np.nan, 0.75, 7], np.float32, "a.tif"),
    ],
)
def test_masks_are_cut_at_half_of_their_range(tmp_path, values, dtype, name):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, [[False, False, True, True]])


def test_unsigned_32_bit_mask(tmp_path):
    image = Image.fromarray(np.array([[0, 2**31 - 1, -(2**31), -1]], np.int32))
    image.save(tmp_path / "a.tif")
    # Pillow writes signed numbers only: change the tag SampleFormat from 2 to 1.
    signed, unsigned = (struct.pack("<HHII", 339, 3, 1, form) for form in (2, 1))
    data = (tmp_path / "a.tif").read_bytes()
    assert data.count(signed) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(signed, unsigned))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), [[False, False, True, True]])
    assert read_grey(tmp_path / "a.tif")[0].max() == 2**32 - 1


def test_one_bit_mask(tmp_path):
    mask = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)


def test_palette_mask_goes_by_colour_not_by_index(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    # luminance of pure green is 150, of pure blue 29
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [[True, False, True, False]])


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_mask_transparency_is_ignored(tmp_path, mode):
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a.png", transparency=bytes([0, 0]))
    else:
        grey = np.array([[[0, 0], [255, 0]]], np.uint8)
        pixels = grey if mode == "LA" else grey[..., [0, 0, 0, 1]]
        Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [[False, True]])


def test_half_of():
    assert [value >= half_of(255) for value in (127, 128)] == [False, True]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=f"a.{suffix}: .*: get the file again") as told:
            read(path)
        assert "\n" not in str(told.value)


def test_flipped_bits_in_a_png_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_missing_empty_foreign_and_folder(tmp_path, read):
    with pytest.raises(UserError, match=r"gone.png: no such file"):
        read(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=r"empty.png: an empty file"):
        read(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"text.jpg: not an image"):
        read(tmp_path / "text.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder.png: a folder"):
        read(tmp_path / "folder.png")


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_decompression_bomb_is_refused(tmp_path, read):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    data += png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a.png: too large"):
        read(tmp_path / "a.png")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    hnp.arrays(
        np.uint8,
        st.one_of(
            st.tuples(st.integers(1, 9), st.integers(1, 9)),
            st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        ),
    )
)
def test_written_png_reads_back(tmp_path, array):
    write_png(tmp_path / "new folder" / "a.png", array)
    expected = array if array.ndim == 3 else np.stack([array] * 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "new folder" / "a.png"), expected)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["a.png"]
    if array.ndim == 2:
        np.testing.assert_array_equal(read_mask(tmp_path / "new folder" / "a.png"), array >= 128)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, path, **options):
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="disk is full"):
        write_png(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_only_bytes_of_picture_shape_are_written(tmp_path, array):
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())
