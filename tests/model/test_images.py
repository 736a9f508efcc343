"""Photos: real ones are shipped, and a bad file is told by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

from d3bed.core.errors import ConfigError
from d3bed.model.images import decode, decode_bytes, folder, shipped


def test_shipped_photos_are_real_and_decode() -> None:
    photos = shipped()
    assert len(photos) >= 4
    assert [p.name for p in photos] == sorted(p.name for p in photos)
    for path in photos:
        image = decode(path, 48, 64)
        assert image.shape == (1, 3, 48, 64)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert image.float().std() > 20  # a photo, not a plain area


def test_without_those_packages_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d3bed.model.images.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="install scikit-image"):
        shipped()
    assert importlib.util.find_spec("PIL") is not None


def test_every_mode_becomes_three_channels_of_the_wanted_size(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        file = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (31, 57), 1 if mode in ("1", "P", "L") else None).save(file)
        assert decode(file, 20, 30).shape == (1, 3, 20, 30)


def test_channels_are_red_green_blue_and_rows_come_first(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (10, 20, 30))
    image.putpixel((3, 0), (200, 0, 0))
    image.save(tmp_path / "a.png")
    tensor = decode(tmp_path / "a.png", 2, 4)
    assert tensor[0, :, 1, 0].tolist() == [10, 20, 30]
    assert tensor[0, :, 0, 3].tolist() == [200, 0, 0]


def test_a_corrupt_photo_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(p for p in shipped() if p.suffix == ".jpg").read_bytes()
    png = next(p for p in shipped() if p.suffix == ".png").read_bytes()
    for name, content in (
        ("half.jpg", whole[: len(whole) // 2]),
        ("half.png", png[: len(png) // 2]),
        ("text.jpg", b"hello"),
        ("empty.png", b""),
        ("none.jpg", None),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: not a readable image") as caught:
            decode(tmp_path / name, 32, 32)
        assert "\n" not in str(caught.value)
    (tmp_path / "bomb.png").write_bytes(png)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ConfigError, match=r"bomb.png: not a readable image"):
        decode(tmp_path / "bomb.png", 32, 32)


def test_a_folder_lists_its_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no image"):
        folder(tmp_path)
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in folder(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(ConfigError, match="gone"):
        folder(tmp_path / "gone")


def test_the_bytes_of_a_file_decode_as_the_file_does() -> None:
    for path in shipped():
        assert torch.equal(decode_bytes(path.read_bytes(), 40, 56, "frame 1"), decode(path, 40, 56))


def test_bad_bytes_are_told_by_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(p for p in shipped() if p.suffix == ".jpg").read_bytes()
    for encoded in (b"", b"hello", whole[:300], whole[: len(whole) // 2]):
        with pytest.raises(ConfigError, match=r"frame 7: not a readable image"):
            decode_bytes(encoded, 32, 32, "frame 7")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ConfigError, match=r"frame 7: not a readable image: .*exceeds limit"):
        decode_bytes(whole, 32, 32, "frame 7")
