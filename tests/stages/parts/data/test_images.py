"""Claims about decoding: what works, and what is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from stages.parts.data.images import BadSample, image_size, read_image, read_mask, read_sbd_mask

LIMIT = 1_000_000


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A grey PNG by hand, for what Pillow won't write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path, LIMIT)
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8
    assert (image == 255).all()
    assert image_size(path, LIMIT) == (4, 6)


def test_a_palette_photo_shows_its_colours_also_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "a.png", LIMIT).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "a.jpg", LIMIT)[4, 4]
    assert red > 200
    assert max(green, blue) < 60


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", LIMIT)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 6)), (3, (4, 6)), (6, (6, 4)), (8, (6, 4))])
def test_photos_are_turned_as_their_exif_says(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", LIMIT).shape[:2] == size
    assert image_size(tmp_path / "a.jpg", LIMIT) == size


def test_orientation_six_turns_clockwise(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 50, 100], [150, 200, 250]], np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", LIMIT)[..., 0].tolist() == [[150, 0], [200, 50], [250, 100]]


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    broken = {"empty.jpg": b"", "cut.jpg": data[: len(data) // 2], "text.jpg": b"hello", "zero.jpg": bytes(1000)}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadSample, match=name) as caught:
            read_image(tmp_path / name, LIMIT)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadSample, match=r"gone\.jpg: no such file"):
        read_image(tmp_path / "gone.jpg", LIMIT)
    with pytest.raises(BadSample, match="empty file"):
        read_image(tmp_path / "empty.jpg", LIMIT)


def test_a_picture_language_that_runs_programs_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(BadSample, match=r"a\.png"):
        read_image(path, LIMIT)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    # No pixel data at all: only a reader of the header can tell the size.
    for width, says in ((2_000, "max_pixels = 1000000"), (10_000, "max_pixels = 1000000"), (50_000, "178956970")):
        path = tmp_path / f"{width}.png"
        path.write_bytes(png(width, 9_500, 8, b""))
        for read in (read_image, read_mask, image_size):
            with pytest.raises(BadSample, match=rf"{width}\.png.*{says}"):
                read(path, LIMIT)
    big = tmp_path / "big.png"
    Image.new("1", (10_000, 9_500)).save(big)  # between Pillow's warning and its error: our limit decides
    assert image_size(big, 100_000_000) == (9_500, 10_000)


def test_floating_point_and_wide_integer_photos_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BadSample, match="floating-point"):
        read_image(tmp_path / "f.tif", LIMIT)
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(BadSample, match="don't fit 16 bits"):
        read_image(tmp_path / "i.tif", LIMIT)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_give_their_stored_values(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 20], [255, 3, 4]], np.uint8)
    mask = Image.fromarray(values)
    if mode == "P":
        mask.putpalette([7] * 768)
    mask.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", LIMIT).tolist() == values.tolist()


def test_sixteen_bit_masks_keep_values_above_255(tmp_path: Path) -> None:
    values = np.array([[0, 458], [65535, 2]], np.uint16)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", LIMIT).tolist() == values.tolist()


def test_masks_of_few_bits_give_their_stored_values(tmp_path: Path) -> None:
    # Pillow spreads them over 0..255, which would turn class 1 of a 4-bit mask into class 17.
    (tmp_path / "four.png").write_bytes(png(4, 1, 4, b"\x00\x01\x2f"))
    (tmp_path / "two.png").write_bytes(png(4, 1, 2, b"\x00\x1b"))
    (tmp_path / "one.png").write_bytes(png(8, 1, 1, b"\x00\x05"))
    assert read_mask(tmp_path / "four.png", LIMIT).tolist() == [[0, 1, 2, 15]]
    assert read_mask(tmp_path / "two.png", LIMIT).tolist() == [[0, 1, 2, 3]]
    assert read_mask(tmp_path / "one.png", LIMIT).tolist() == [[0, 0, 0, 0, 0, 1, 0, 1]]


def test_colour_and_lossy_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 9, 9], [200, 0, 0]]], np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(
        BadSample, match=r"one class number per pixel, this one 2 colours \(\(9, 9, 9\), \(200, 0, 0\)\)"
    ):
        read_mask(tmp_path / "rgb.png", LIMIT)
    Image.new("L", (2, 2)).save(tmp_path / "lossy.png", format="JPEG")
    with pytest.raises(BadSample, match=r"lossy\.png"):
        read_mask(tmp_path / "lossy.png", LIMIT)


def test_context_label_maps_are_read_from_mat_files(tmp_path: Path) -> None:
    values = np.array([[0, 458], [2, 9]], np.uint16)
    savemat(tmp_path / "a.mat", {"LabelMap": values}, do_compression=True)
    assert read_mask(tmp_path / "a.mat", LIMIT).tolist() == values.tolist()
    with pytest.raises(BadSample, match="max_pixels = 3"):
        read_mask(tmp_path / "a.mat", 3)
    for name, content in {"other": {"x": values}, "float": {"LabelMap": values / 2}}.items():
        savemat(tmp_path / f"{name}.mat", content)
        with pytest.raises(BadSample, match=rf"{name}\.mat.*LabelMap"):
            read_mask(tmp_path / f"{name}.mat", LIMIT)
    (tmp_path / "text.mat").write_text("hello")
    with pytest.raises(BadSample, match=r"text\.mat: can't be decoded"):
        read_mask(tmp_path / "text.mat", LIMIT)


def test_sbd_masks_are_read_from_their_struct(tmp_path: Path) -> None:
    values = np.array([[0, 20], [5, 0]], np.uint8)
    savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": values, "CategoriesPresent": [5, 20]}})
    assert read_sbd_mask(tmp_path / "a.mat", LIMIT).tolist() == values.tolist()
    savemat(tmp_path / "b.mat", {"GTinst": 1})
    with pytest.raises(BadSample, match=r"b\.mat"):
        read_sbd_mask(tmp_path / "b.mat", LIMIT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_end_in_pixels_or_a_named_refusal(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    path = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 12)).save(path, kind)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    for read in (read_image, read_mask, image_size):
        try:
            read(path, LIMIT)
        except BadSample as error:
            assert path.name in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("least", "wanted"),
    [((48, 64), (48, 64)), ((24, 32), (24, 32)), ((23, 31), (24, 32)), ((12, 33), (48, 64)), ((1, 1), (6, 8))],
)
def test_a_jpeg_is_decoded_at_a_fraction_where_that_is_enough(
    tmp_path: Path, least: tuple[int, int], wanted: tuple[int, int]
) -> None:
    smooth = np.asarray(Image.fromarray(np.uint8([[0, 90], [160, 250]])).resize((64, 48), Image.Resampling.BILINEAR))
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    found = read_image(tmp_path / "a.jpg", LIMIT, least)
    assert found.shape == (*wanted, 3)
    factor = 48 // wanted[0]
    means = read_image(tmp_path / "a.jpg", LIMIT).reshape(wanted[0], factor, wanted[1], factor, 3).mean((1, 3))
    assert np.abs(found - means).max() < 6


def test_what_is_enough_is_asked_of_the_photo_as_it_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", LIMIT, (32, 24)).shape == (32, 24, 3)
    assert read_image(tmp_path / "a.jpg", LIMIT, (24, 32)).shape == (64, 48, 3)  # 24 x 32 would be too flat


def test_other_formats_come_whole(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", LIMIT, (6, 8)).shape == (48, 64, 3)
