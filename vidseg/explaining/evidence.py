"""Which pixels a decision hangs on: what happens to it when they are covered, or what its gradient says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.errors import EngineError, MissingDependencyError
from vidseg.frame import Alpha, Size

if TYPE_CHECKING:
    from vidseg.engine import ModelSpec

Method = Literal["occlusion", "gradcam"]
Planes = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Place = tuple[slice, slice]
_BATCH = 8
_LEAST = 0.002
"""Share of the picture below which a person is too small to ask about: the whole picture is asked about then."""


def target_of(alpha: Alpha, at: tuple[float, float] | None = None) -> tuple[Mask, str]:
    """Return the pixels whose alpha is asked about, ``(h, w)``, and what to call them.

    Args:
        alpha: What the model says, ``(h, w)``.
        at: A point, x and y as shares of width and height: a disc around it is meant. None is the person, or the whole
            picture if nobody is seen.
    """
    height, width = alpha.shape
    if at is not None:
        y, x = np.mgrid[:height, :width]
        reach = max(0.02 * min(height, width), 1.5)
        near = (y + 0.5 - at[1] * height) ** 2 + (x + 0.5 - at[0] * width) ** 2 <= reach**2
        return np.asarray(near), "the chosen point"
    person = alpha > 0.5
    if person.mean() > _LEAST:
        return np.asarray(person), "the person"
    return np.ones(alpha.shape, bool), "the whole picture, as nobody is seen"


def occlusion(
    alphas: Callable[[Planes], Planes], src: Planes, target: Mask, patch: int | None = None, stride: int | None = None
) -> Alpha:
    """Return by how much the alpha of ``target`` falls when a place of the picture is blurred away, ``(h, w)``.

    A patch slides over the picture (Zeiler and Fergus 2014, arXiv:1311.2901). It shows the picture out of focus rather
    than grey, because a grey square is a thing of its own. Counted are the pixels of the target beside the patch, or
    all of them where it covers nearly all: that a person vanishes where they are covered says nothing. Positive:
    the decision rests on that place; negative: it speaks against it. Each pixel has the mean of the patches over it,
    those that lie around it counting most.

    Args:
        alphas: The model: ``(N, h, w)`` for inputs ``(N, 3, h, w)``.
        src: The input ``(3, h, w)``.
        target: Whose alpha is asked about, ``(h, w)``.
        patch: Side of the square in pixels; None is a sixth of the shorter side.
        stride: From one place to the next; None is a third of ``patch``.
    """
    size = src.shape[1], src.shape[2]
    patch = patch or max(min(size) // 6, 1)
    stride = stride or max(patch // 3, 1)
    blurred = cv2.GaussianBlur(src.transpose(1, 2, 0), (0, 0), max(0.6 * patch, 1.0)).transpose(2, 0, 1)
    before = alphas(src[None])[0]
    total, weight = np.zeros(size, np.float32), np.zeros(size, np.float32)
    places = list(_places(size, patch, stride))
    tent = np.hanning(patch + 2)[1:-1].astype(np.float32)
    window = np.outer(tent, tent)
    for first in range(0, len(places), _BATCH):
        batch = places[first : first + _BATCH]
        covered = np.repeat(src[None], len(batch), 0)
        for picture, (place, _) in zip(covered, batch, strict=True):
            picture[:, *place] = blurred[:, *place]
        for alpha, (place, part) in zip(alphas(covered), batch, strict=True):
            beside = target.copy()
            beside[place] = False
            if beside.sum() < 0.2 * target.sum():
                beside = target
            total[place] += window[part] * float((before - alpha)[beside].mean())
            weight[place] += window[part]
    return total / weight


def _places(size: Size, patch: int, stride: int) -> Iterator[tuple[Place, Place]]:
    """Yield where the patch lies in the picture, and which part of it: it begins and ends half outside."""
    for top in range(stride - patch, size[0], stride):
        for left in range(stride - patch, size[1], stride):
            rows, columns = (
                slice(max(top, 0), min(top + patch, size[0])),
                slice(max(left, 0), min(left + patch, size[1])),
            )
            part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            yield (rows, columns), part


def check_method(method: Method, spec: ModelSpec) -> None:
    """Refuse a method that cannot be had.

    Raises:
        EngineError: Grad-CAM was asked for of a model without weights for PyTorch.
        MissingDependencyError: Or PyTorch is not installed.
    """
    if method != "gradcam":
        return
    if "weights" not in spec.files:
        raise EngineError(
            f"{spec.name} has no weights for PyTorch, whose gradients Grad-CAM needs: use --method occlusion",
            path=str(spec.folder),
        )
    try:
        import vidseg.explaining.gradcam  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError("Grad-CAM", "torch") from error
