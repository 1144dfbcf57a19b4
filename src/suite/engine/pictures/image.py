"""Reads the file of a picture, under limits: whatever is wrong with it, llama.cpp never sees it.

Pillow reads the header first, which says how many pixels there will be, and then no more than these: a file
that would unpack into more is refused, or cut off.
"""

from __future__ import annotations

import io
from typing import Final, NamedTuple

from suite.errors import InvalidPicture, PictureTooLarge

MOST_BYTES: Final = 20 << 20
"""The most that the file of a picture may have."""
MOST_PIXELS: Final = 50_000_000
"""The most pixels of a picture, as its header has them; in memory each takes three bytes."""
MOST_SIDE: Final = 2048
"""A picture with a longer side is made smaller: no projector sees more of it."""
MOST_RATIO: Final = 200
"""How many times longer than the other a side may be: projectors cannot lay out a line of pixels."""
FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_WHITE: Final = (255, 255, 255)


class Image(NamedTuple):
    """A picture as pixels."""

    width: int
    height: int
    rgb: bytes
    """Three bytes a pixel, row by row from the top."""


def read(data: bytes) -> Image:
    """Read the file of a picture; of an animation, its first frame. Blocks for up to a second.

    Raises PictureTooLarge and InvalidPicture.
    """
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    if len(data) > MOST_BYTES:
        raise too_many_bytes(len(data))
    try:
        pillow.MAX_IMAGE_PIXELS = None  # its own limit only warns, and twice of it is an error
        with pillow.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_size(*opened.size)
            return _image(opened)
    except (PictureTooLarge, InvalidPicture):
        raise
    except MemoryError:
        raise _too_many_pixels() from None
    except UnidentifiedImageError:
        raise InvalidPicture(
            f"the picture has no pixels, or no format that is known here: send one of {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # Pillow raises whatever its many readers stumble over
        raise InvalidPicture(f"the picture is damaged ({error or type(error).__name__})") from None


def too_many_bytes(size: int) -> PictureTooLarge:
    """The error for a file of this size."""
    return PictureTooLarge(
        f"the picture has {size} bytes and may have {MOST_BYTES}: make it smaller, or save it as JPEG"
    )


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise InvalidPicture("the picture has no pixels")
    if width * height > MOST_PIXELS:
        raise _too_many_pixels(f"{width} x {height}, ")
    if max(width, height) > MOST_RATIO * min(width, height):
        raise InvalidPicture(
            f"the picture is {width} x {height} pixels, and no side may be over {MOST_RATIO} times as long "
            "as the other: cut it into pieces"
        )


def _image(opened: object) -> Image:
    """The pixels as a person sees them: turned as the camera was held, on white where it is transparent."""
    from PIL import Image as pillow
    from PIL import ImageOps

    assert isinstance(opened, pillow.Image)
    opened.draft("RGB", (MOST_SIDE, MOST_SIDE))  # a large JPEG is read smaller at once
    picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        picture = pillow.new("RGB", drawn.size, _WHITE)
        picture.paste(drawn, mask=drawn)
    picture = picture.convert("RGB")
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    return Image(*picture.size, picture.tobytes())


def _too_many_pixels(size: str = "") -> PictureTooLarge:
    return PictureTooLarge(
        f"the picture has too many pixels ({size}at most {MOST_PIXELS // 1_000_000} million): make it smaller"
    )
