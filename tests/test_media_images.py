"""Picture files of every kind, and the letterbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vino_core.errors import InputError
from vino_core.media.images import letterbox, read_image

GRADIENT = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)


def colours() -> np.ndarray:
    return np.stack([GRADIENT, GRADIENT[::-1], 255 - GRADIENT], axis=-1)


def test_colour_picture_unchanged(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, torch.from_numpy(colours()))


def test_grey_is_widened(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(GRADIENT)[..., None].expand(-1, -1, 3))


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png")[..., 0], torch.from_numpy(GRADIENT))


def test_palette_is_looked_up(tmp_path: Path) -> None:
    picture = Image.fromarray(colours()).quantize(16)
    picture.save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(np.array(picture.convert("RGB"))))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.full((12, 20), 255, dtype=np.uint8)
    alpha[:, 10:] = 0
    alpha[0, 0] = 51
    Image.fromarray(np.dstack([colours(), alpha])).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert torch.equal(pixels[1:, :10], torch.from_numpy(colours())[1:, :10])
    assert (pixels[:, 10:] == 255).all()
    expected = 255 + (colours()[0, 0].astype(float) - 255) * 51 / 255
    assert np.abs(pixels[0, 0].numpy() - expected).max() <= 1


def test_transparent_palette_is_laid_over_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 1), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [200, 100, 50]


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    turned = torch.rot90(torch.from_numpy(colours()), -1, (0, 1))
    assert torch.equal(read_image(tmp_path / "a.png"), turned)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.png: there is no such picture"):
        read_image(tmp_path / "nowhere.png")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"a\.png: .*empty \(0 bytes\)"):
        read_image(tmp_path / "a.png")


def test_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match=r"a\.png: this is not a picture.*Save it as PNG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix}: the picture file is damaged"):
        read_image(path)


def test_floating_point_picture(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match=r"a\.tiff: floating-point.*8 or 16 bits"):
        read_image(tmp_path / "a.tiff")


def test_absurd_sizes(tmp_path: Path) -> None:
    Image.new("1", (65_536, 400)).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide\.png: 65536 x 400 pixels"):
        read_image(tmp_path / "wide.png")
    Image.new("1", (800, 3)).save(tmp_path / "thread.png")
    with pytest.raises(InputError, match=r"thread\.png: 800 x 3 pixels.*crop"):
        read_image(tmp_path / "thread.png")
    # Only the header claims this size; nothing may try to allocate it.
    header = bytearray((tmp_path / "thread.png").read_bytes())
    header[16:24] = (65_536).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(header)
    with pytest.raises(InputError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(61, 47), (90, 60)])
def test_letterbox_centres_on_white(size: tuple[int, int]) -> None:
    boxed = letterbox(torch.zeros(*size, 3, dtype=torch.uint8), area=64 * 64)
    height, width, _ = boxed.shape
    assert height % 16 == width % 16 == 0
    rows, columns = (boxed == 0).all(dim=2).nonzero().unbind(dim=1)
    top, bottom = rows.min().item(), height - 1 - rows.max().item()
    left, right = columns.min().item(), width - 1 - columns.max().item()
    assert max(top, left) > 0 and abs(top - bottom) <= 1 and abs(left - right) <= 1
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : height - bottom, left : width - right] = True
    assert (boxed[inside] == 0).all() and (boxed[~inside] == 255).all()


@pytest.mark.parametrize("size", [(2000, 50), (50, 2000), (200, 1), (3000, 40)])
@pytest.mark.parametrize("area", [256, 512, 1600])
def test_letterbox_leaves_something_of_a_thread(size: tuple[int, int], area: int) -> None:
    boxed = letterbox(torch.zeros(*size, 3, dtype=torch.uint8), area)
    assert (boxed == 0).any() and boxed.shape[0] % 16 == boxed.shape[1] % 16 == 0


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(0, 5, 3, dtype=torch.uint8), "5 x 0 pixels.*at least 1 pixel"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), r"uint8 pixels \[height, width, 3\].*\[4, 4, 4\]"),
        (torch.zeros(4, 4, 3), "float32"),
        (torch.zeros(2, 500, 3, dtype=torch.uint8), "500 x 2 pixels.*crop"),
    ],
)
def test_letterbox_refuses(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        letterbox(pixels)
