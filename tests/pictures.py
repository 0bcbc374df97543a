"""What tests ask of a picture."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imread


def pixels(picture: bytes) -> np.ndarray:
    """(height, width, 3) of a PNG that is not blank."""
    image = imread(io.BytesIO(picture))[..., :3]
    assert image.std() > 0.01
    return image


def holds(picture: bytes, colour: str) -> bool:
    """True where some pixels have exactly this colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return bool((np.abs(pixels(picture) - wanted) < 0.003).all(axis=-1).sum() > 20)
