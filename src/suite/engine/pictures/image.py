"""Reads the file of a picture, under limits: whatever is wrong with it, llama.cpp never sees it.

Pillow reads the header first, which says how many pixels there will be, and then no more than these: a file
that would unpack into more is refused, or cut off.
"""

from __future__ import annotations

import io
from typing import Final, NamedTuple

from suite.errors import InvalidPicture, PictureTooLarge, SuiteError
from suite.process_memory import give_back_memory

MOST_BYTES: Final = 20 << 20
"""The most that the file of a picture may have."""
MOST_PIXELS: Final = 50_000_000
"""The most pixels of a picture, as its header has them. While it is read, each takes four bytes, and eight
where it is transparent or has a palette."""
MOST_SIDE: Final = 2048
"""A picture with a longer side is made smaller: no projector sees more of it."""
MOST_RATIO: Final = 200
"""How many times longer than the other a side may be: projectors cannot lay out a line of pixels."""
FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_RESIZABLE: Final = frozenset({"L", "LA", "RGB", "RGBA"})
"""The modes of Pillow in which pixels can be averaged: palettes cannot."""
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
    if len(data) > MOST_BYTES:
        raise too_many_bytes(len(data))
    found = _found(data)
    give_back_memory()  # else the process would keep hundreds of megabytes after a large picture
    if isinstance(found, SuiteError):
        raise found
    return found


def _found(data: bytes) -> Image | SuiteError:
    """The picture, or why there is none: an error that is raised would keep all pixels with its frames."""
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        pillow.MAX_IMAGE_PIXELS = None  # its own limit only warns, and twice of it is an error
        with pillow.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_size(*opened.size)
            return _image(opened)
    except (PictureTooLarge, InvalidPicture) as error:
        return error.with_traceback(None)
    except MemoryError:
        return _too_many_pixels()
    except UnidentifiedImageError:
        return InvalidPicture(
            f"the picture has no pixels, or no format that is known here: send one of {', '.join(FORMATS)}"
        )
    except Exception as error:  # Pillow raises whatever its many readers stumble over
        return InvalidPicture(f"the picture is damaged ({error or type(error).__name__})")


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
    """The pixels as a person sees them: turned as the camera was held, on white where it is transparent.

    It is made smaller before all else: of the largest picture each copy would take 200 MB.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    assert isinstance(opened, pillow.Image)
    picture: pillow.Image = opened
    picture.draft("RGB", (MOST_SIDE, MOST_SIDE))  # a large JPEG is read smaller at once
    if picture.mode not in _RESIZABLE or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        picture = pillow.new("RGB", drawn.size, _WHITE)
        picture.paste(drawn, mask=drawn)
    picture = picture.convert("RGB")
    return Image(*picture.size, picture.tobytes())


def _too_many_pixels(size: str = "") -> PictureTooLarge:
    return PictureTooLarge(
        f"the picture has too many pixels ({size}at most {MOST_PIXELS // 1_000_000} million): make it smaller"
    )
