"""Reading pictures and fitting them to the size that suits VLM and VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import InputError
from .encoded import Encoded, Source, readable, usable
from .sizing import TARGET_AREA, UNIT, best_grid, check_source

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(source: Source) -> Tensor:
    """Read a picture file, or one in memory, as uint8 [H, W, 3] RGB, 0..255.

    The camera's orientation is applied, transparency is laid over white, 16-bit values are scaled to 8 bits, grey and
    palette pictures are widened; of an animation the first frame is taken. Raises InputError for a missing, damaged,
    floating-point or unreasonably sized picture.
    """
    path = usable(source, "picture")
    try:
        with Image.open(readable(path)) as image:
            check_source(*image.size, name=str(path))
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(image), path))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: the picture is too large ({error}). Scale it down first.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: this is not a picture file that can be read. Save it as PNG or JPEG.") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files of various formats
        raise InputError(f"{path}: the picture file is damaged ({error}). Copy or export it again.") from error
    return torch.from_numpy(pixels)


def _to_rgb(image: Image.Image, path: Path | Encoded) -> Image.Image:
    if image.mode == "F":
        raise InputError(f"{path}: floating-point pictures are not supported. Save it with 8 or 16 bits a channel.")
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.int64).clip(0, 65_535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def check_pixels(pixels: Tensor, name: str) -> None:
    """Raise InputError unless `pixels` is a usable uint8 [H, W, 3] picture; `name` is what the user calls it."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise InputError(
            f"{name}: expected uint8 pixels [height, width, 3], got {pixels.dtype} {list(pixels.shape)}. "
            "Convert it to 8-bit RGB."
        )
    check_source(pixels.shape[1], pixels.shape[0], name)


def letterbox(pixels: Tensor, area: int = TARGET_AREA, unit: int = UNIT) -> Tensor:
    """Fit a picture on white, at the size `best_grid` chooses (VINO paper, section 3.1).

    `pixels` is uint8 [H, W, 3]; the result is uint8 [H', W', 3] with H' and W' multiples of `unit`.
    Raises InputError for other shapes, or for an empty or far too narrow picture.
    """
    check_pixels(pixels, "Picture")
    height, width = pixels.shape[:2]
    box_height, box_width = best_grid(width, height, area, unit)
    scale = min(box_width / width, box_height / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(pixels.cpu().numpy()).resize(inner, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (box_width, box_height), "white")
    canvas.paste(resized, ((box_width - inner[0]) // 2, (box_height - inner[1]) // 2))
    return torch.from_numpy(np.array(canvas))
