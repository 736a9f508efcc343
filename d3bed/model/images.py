"""Photos: where they are, and from a file to the first tensor of the network.

The shipped photos are real ones that come with packages d3bed's environment installs anyway; their
packages are found, not imported.
"""

from __future__ import annotations

import io
import platform
import struct
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features

from d3bed.core.errors import ConfigError

__all__ = [
    "MAX_ENCODED_BYTES",
    "decode",
    "decode_bytes",
    "decoder",
    "encoded",
    "folder",
    "sample",
    "shipped",
    "thumbnail",
]

#: Longest file that may be a frame.
MAX_ENCODED_BYTES = 4 << 20

_SHIPPED = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
_JPEG = (".jpeg", ".jpg")
_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

#: What Pillow raises on files that are not, or no longer, images.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def shipped(*, jpeg: bool = False) -> list[Path]:
    """The photos inside installed packages, sorted by name; with `jpeg` only those that are as a camera
    gives them. Raises `ConfigError` when there are none."""
    found = []
    for package, names in _SHIPPED.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found += [path for path in (Path(place) / name for name in names) if path.is_file()]
    found = [path for path in found if not jpeg or path.suffix in _JPEG]
    if not found:
        raise ConfigError(
            "shipped photos",
            "",
            f"none of {', '.join(_SHIPPED)} is installed",
            "install scikit-image, or point `photos` at a folder of images",
        )
    return sorted(found, key=lambda path: path.name)


def folder(path: Path) -> list[Path]:
    """The images of a folder, sorted by name. Raises `ConfigError` when it has none."""
    try:
        found = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
    except OSError as error:
        raise ConfigError(
            str(path), "photos", error.strerror or "cannot be read", "name a folder of images"
        ) from error
    if not found:
        wanted = ", ".join(sorted(_SUFFIXES))
        raise ConfigError(str(path), "photos", f"holds no image ({wanted})", "name a folder of images")
    return found


def decode(path: Path, height: int, width: int) -> torch.Tensor:
    """`decode_bytes` of a file. Raises `ConfigError` naming it if it cannot be read or decoded."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return decode_bytes(encoded, height, width, str(path))


def encoded(path: Path) -> torch.Tensor:
    """uint8 `[n]`, a file as it is. Raises `ConfigError` naming it if it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            content = bytearray(file.read(MAX_ENCODED_BYTES + 1))
    except OSError as error:
        raise _unreadable(str(path), error) from error
    if not 0 < len(content) <= MAX_ENCODED_BYTES:
        problem = f"has more than {MAX_ENCODED_BYTES >> 20} MiB" if content else "is empty"
        raise ConfigError(str(path), "", f"{problem}: no frame", "make it smaller, or remove it")
    return torch.frombuffer(content, dtype=torch.uint8)


def thumbnail(path: Path, pixels: int = 192) -> bytes:
    """A small JPEG of a photo as networks see it: upright, cropped to a square. A few KB."""
    made = io.BytesIO()
    small = decode(path, pixels, pixels)[0].permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(small).save(made, "JPEG", quality=75)
    return made.getvalue()


def sample() -> torch.Tensor:
    """uint8 `[n]`, a JPEG file to time and check with: a shipped photo, else one made of smooth noise."""
    try:
        return encoded(shipped(jpeg=True)[0])
    except ConfigError:
        noise = numpy.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=numpy.uint8)
        made = io.BytesIO()
        Image.fromarray(noise).resize((640, 480)).save(made, "JPEG", quality=75)
        return torch.frombuffer(bytearray(made.getvalue()), dtype=torch.uint8)


def decoder() -> str:
    """What decides the pixels that `decode_bytes` makes: equal names promise equal ones."""
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    kind = "libjpeg-turbo" if features.check("libjpeg_turbo") else "libjpeg"
    webp = features.version("webp")
    return f"Pillow {PIL.__version__}, {kind} {jpeg}, libwebp {webp}, {platform.machine()}"


def decode_bytes(encoded: bytes, height: int, width: int, where: str) -> torch.Tensor:
    """uint8 `[1, 3, height, width]`, contiguous: upright, cropped to the aspect ratio, resized.

    `encoded` is a file's content in any format that Pillow reads. Raises `ConfigError` naming `where` if
    it is not a readable image of a sane size; the size is known before memory is taken for the pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded)) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    except _UNREADABLE as error:
        raise _unreadable(where, error) from error
    pixels = torch.from_numpy(numpy.array(fitted))
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous()


def _unreadable(where: str, error: Exception) -> ConfigError:
    if isinstance(error, UnidentifiedImageError):
        return ConfigError(
            where, "", "not a readable image: of no known format", "remove or replace the file"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(where, "", f"not a readable image: {reason}", "remove or replace the file")
