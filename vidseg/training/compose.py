"""Composition: what a sample shows, before light and camera: a photograph, people before another room, or nobody."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vidseg.training.augment import Light, Matrix, Policy, choose_window, placed, warp, window_matrix
from vidseg.training.bank import Bank
from vidseg.training.motion import Matrices, bends, camera_path, person_path, there_and_back
from vidseg.training.pictures import Array, Clip, Floats, Rng, Size


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The frames of one sample.

    Attributes:
        rgb: ``(frames, h, w, 3)`` uint8.
        alpha: ``(frames, h, w)`` uint8, 255 = person, or class numbers.
        ignore: ``(frames, h, w)`` uint8, 255 where the truth is not known.
        composed: Whether it was put together, so that its parts have been lit already.
    """

    rgb: Array
    alpha: Array
    ignore: Array
    composed: bool = False


def draw_scene(rng: Rng, bank: Bank, size: Size, frames: int = 1, policy: Policy = Policy()) -> Scene:  # noqa: B008
    """Draw what one sample shows.

    Args:
        rng: Random numbers.
        bank: Pictures to draw from.
        size: ``(h, w)``.
        frames: How many consecutive frames; their motion is that of real clips, or made (see ``motion``).
        policy: What is done how often.
    """
    kind = rng.random()
    if bank.classes or not bank.backdrops:
        return _photograph(rng, bank, size, frames, policy)
    if kind < policy.empty:
        rgb = _backdrop(rng, bank, size, frames, policy, camera_path(rng, frames, size, policy.motion))
        nobody = np.zeros(rgb.shape[:3], np.uint8)
        return Scene(rgb, nobody, nobody)
    if kind < 1 - policy.composites and bank.photographs:
        return _photograph(rng, bank, size, frames, policy)
    return _composite(rng, bank, size, frames, policy)


def _steps(base: Matrix, *paths: Matrices) -> list[Matrix]:
    """Return ``base`` after the motions of ``paths``, the last of which is applied first, for each frame."""
    return [np.asarray(np.linalg.multi_dot([base, *step]) if len(step) > 1 else base @ step[0]) for step in zip(*paths)]  # noqa: B905


def _backdrop(rng: Rng, bank: Bank, size: Size, frames: int, policy: Policy, camera: Matrices) -> Array:
    room = bank.draw_backdrop(rng)
    if bank.objects and rng.random() < policy.objects:
        thing = bank.objects[rng.integers(len(bank.objects))]
        object_ = placed(rng, thing, room.shape[:2], rng.uniform(0.2, 0.7))
        room = lay(room[None], object_.rgb[None], (object_.alpha[None] / 255).astype(np.float32))[0]
    window = choose_window(rng, np.zeros(room.shape[:2], np.uint8), size, confine=True, webcam=policy.webcam)
    base = window_matrix(rng, window, size, policy.rotation)
    return np.stack([warp(room, matrix, size) for matrix in _steps(base, camera)])


def lay(below: Array, above: Array, alpha: Floats) -> Array:
    """Return ``above`` laid over ``below``, both ``(frames, h, w, 3)``, by ``alpha`` ``(frames, h, w)`` in [0, 1]."""
    flat, weight = (-1, below.shape[2], 3), alpha.reshape(-1, below.shape[2])
    out = cv2.blendLinear(above.reshape(flat), below.reshape(flat), weight, 1 - weight)
    return np.asarray(out, np.uint8).reshape(below.shape)


def _photograph(rng: Rng, bank: Bank, size: Size, frames: int, policy: Policy) -> Scene:
    clip = bank.draw(rng, own_background=True, frames=frames)
    shown = [clip.frames[index] for index in there_and_back(rng, len(clip.frames), frames)]
    classes = bool(bank.classes)
    alpha = shown[0].alpha
    if classes:
        alpha = np.where((alpha > 0) & (alpha < 255), 255, 0).astype(np.uint8)
    base = window_matrix(rng, choose_window(rng, alpha, size, True, policy.webcam), size, policy.rotation)
    # Real clips move by themselves.
    camera = camera_path(rng, frames, size, policy.motion * (0.3 if len(clip.frames) > 1 else 1.0))
    border = cv2.BORDER_CONSTANT if rng.random() < 0.2 else cv2.BORDER_REFLECT_101
    if not policy.webcam:
        border = cv2.BORDER_REFLECT_101
    matrices = _steps(base, camera)
    rgb = [warp(one.rgb, matrix, size, border) for one, matrix in zip(shown, matrices, strict=True)]
    fill = 255 if classes else 0
    truth = [
        warp(one.alpha, matrix, size, border, nearest=classes, fill=fill)
        for one, matrix in zip(shown, matrices, strict=True)
    ]
    nothing = np.zeros(size, np.uint8)
    ignore = [
        nothing if one.ignore is None else warp(one.ignore, matrix, size, border)
        for one, matrix in zip(shown, matrices, strict=True)
    ]
    return Scene(np.stack(rgb), np.stack(truth), np.stack(ignore))


def _composite(rng: Rng, bank: Bank, size: Size, frames: int, policy: Policy) -> Scene:
    company = bank.photographs and rng.random() < policy.pasted
    if company:
        scene = _photograph(rng, bank, size, frames, policy)
        rgb, total, ignore = scene.rgb, scene.alpha / np.float32(255), scene.ignore
        camera = np.tile(np.eye(3), (frames, 1, 1))
    else:
        camera = camera_path(rng, frames, size, policy.motion)
        rgb = _backdrop(rng, bank, size, frames, policy, camera)
        total, ignore = np.zeros(rgb.shape[:3], np.float32), np.zeros(rgb.shape[:3], np.uint8)
        if rng.random() < 0.3 * bool(policy.blur):
            rgb = _blurred(rgb, rng.uniform(0.5, 4))
    light = Light(0.8 * policy.light, generator=rng)
    rgb = light.apply(rgb, light.draw(rng, size), rng)
    for _ in range(2 if rng.random() < 0.15 else 1):
        clip = bank.draw(rng, own_background=False, frames=frames)
        person, soft = _person(rng, clip, size, frames, policy, camera, company)
        person = light.apply(person, light.draw(rng, size), rng)
        if rng.random() < policy.matched:
            person = match_light(person, soft, rgb, rng.uniform(0.2, 0.8))
            if not company:
                person, soft, rgb = match_sharpness(person, soft, rgb)
        rgb = lay(rgb, person, soft)
        total = total + soft * (1 - total)
        if company:
            ignore = np.asarray(ignore * (1 - soft), np.uint8)
    return Scene(rgb, (total * 255 + 0.5).astype(np.uint8), ignore, True)


def _person(
    rng: Rng, clip: Clip, size: Size, frames: int, policy: Policy, camera: Matrices, far_off: bool
) -> tuple[Array, Floats]:
    """Return a person to paste: RGB ``(frames, h, w, 3)`` uint8 and alpha ``(frames, h, w)`` float in [0, 1]."""
    shown = [clip.frames[index] for index in there_and_back(rng, len(clip.frames), frames)]
    wholes = [one.alpha if one.ignore is None else np.maximum(one.alpha, one.ignore) for one in shown]
    whole = wholes[0]
    # What is cut off at the picture's edge may not float in the room: stay inside the picture then.
    touches = max(int(whole[-1].max()), int(whole[:, 0].max()), int(whole[:, -1].max())) > 127
    confined = touches and rng.random() < 0.9
    cx, cy, w, h = choose_window(rng, whole, size, confined, policy.webcam)
    if confined:  # a window that is larger is in the middle, and would show the edge drawn out
        shrink = min(1.0, whole.shape[1] / w, whole.shape[0] / h)
        w, h = w * shrink, h * shrink
    if far_off and not touches:  # farther off, anywhere
        far = rng.uniform(1, 3)
        cx, cy = cx + rng.uniform(-0.3, 0.3) * far * w, cy + rng.uniform(-0.3, 0.1) * far * h
        w, h = w * far, h * far
    base = window_matrix(rng, (cx, cy, w, h), size, policy.rotation)
    still = len(clip.frames) == 1
    matrices = _steps(base, person_path(rng, frames, size, policy.motion * still), camera)
    swaying = bends(rng, frames, size, policy.motion * still)
    beyond = cv2.BORDER_REPLICATE if touches else cv2.BORDER_CONSTANT
    rgb, soft = [], []
    for one, alpha, matrix, bend in zip(shown, wholes, matrices, swaying, strict=True):
        colours = warp(one.rgb, matrix, size, cv2.BORDER_REPLICATE, bend=bend)
        share = warp(alpha, matrix, size, beyond, bend=bend).astype(np.float32) * np.float32(1 / 255)
        rgb.append(clean_rim(colours, share))
        # What is left of the old background in the rim stays out of the picture with a slightly smaller alpha.
        soft.append(np.asarray(np.clip(cv2.GaussianBlur(share, (3, 3), 0) * 1.25 - 0.25, 0, 1), np.float32))
    return np.stack(rgb), np.stack(soft)


def clean_rim(rgb: Array, alpha: Floats) -> Array:
    """Return ``rgb`` with the foreground's own colour in the rim: blur fusion (Forte 2021, ICIP).

    Args:
        rgb: ``(h, w, 3)``.
        alpha: ``(h, w)`` in [0, 1].
    """
    front, back = (alpha > 0.95).astype(np.uint8), (alpha < 0.05).astype(np.uint8)
    # One pixel more than the rim, as alpha is smoothed afterwards.
    rim = np.nonzero((np.asarray(cv2.erode(back, np.ones((3, 3), np.uint8))) == 0) & (front == 0))
    side = round(0.14 * max(alpha.shape)) | 1

    def around(inside: Array) -> tuple[Floats, Floats]:
        """Return of what is ``inside`` the mean colour near each place of the rim, and how much there is of it."""
        total = cv2.boxFilter(cv2.copyTo(rgb, inside), cv2.CV_32F, (side, side), normalize=False)
        count = np.asarray(cv2.boxFilter(inside, cv2.CV_32F, (side, side), normalize=False), np.float32)[rim]
        return np.asarray(total[rim] / np.maximum(count, 1)[:, None], np.float32), count[:, None]

    if not len(rim[0]) or not front.any():
        return rgb
    share, colours = alpha[rim][:, None], rgb[rim].astype(np.float32)
    (own, enough), (behind, any_behind) = around(front), around(back)
    own += share * (colours - share * own - (1 - share) * behind) * (any_behind > 0)
    clean = rgb.copy()
    clean[rim] = np.where(enough > 0, np.clip(own + np.float32(0.5), 0, 255), colours).astype(np.uint8)
    return clean


def match_light(person: Array, alpha: Floats, room: Array, share: float) -> Array:
    """Bring the mean and the spread of a person's light part of the way to the room's (Reinhard et al. 2001).

    Args:
        person: ``(frames, h, w, 3)``.
        alpha: ``(frames, h, w)`` in [0, 1].
        room: As ``person``.
        share: 0 changes nothing, 1 takes the room's light.
    """
    x, y, width, height = cv2.boundingRect((alpha.max(0) > 0).astype(np.uint8))
    inside = (alpha[0, y : y + height, x : x + width] > 0.5).astype(np.uint8)
    if int(inside.sum()) < 20:
        return person
    part = person[:, y : y + height, x : x + width]
    lab = np.asarray(cv2.cvtColor(part.reshape(-1, width, 3), cv2.COLOR_RGB2LAB), np.uint8)
    mean, spread = (np.asarray(value).ravel() for value in cv2.meanStdDev(lab[:height], mask=inside))
    around = cv2.cvtColor(np.ascontiguousarray(room[0, ::2, ::2]), cv2.COLOR_RGB2LAB)
    wanted = [np.asarray(value).ravel() for value in cv2.meanStdDev(around)]
    # A bright wall does not make a face white: lightness moves less than colour, and none far.
    shift = np.clip(wanted[0] - mean, -45, 45) * share * _FOLLOWS[0]
    gain = np.clip(wanted[1] / (spread + 1e-3), 0.7, 1.35) ** (share * _FOLLOWS[1])
    curve = (np.arange(256)[:, None] - mean) * gain + mean + shift
    moved = cv2.cvtColor(cv2.LUT(lab, np.clip(curve + 0.5, 0, 255).astype(np.uint8)[None]), cv2.COLOR_LAB2RGB)
    out = person.copy()
    out[:, y : y + height, x : x + width] = np.asarray(moved, np.uint8).reshape(part.shape)
    return out


_FOLLOWS = np.array([[0.6, 0.7, 0.7], [1.0, 0.5, 0.5]])
"""How far the mean and the spread of L, a and b follow the room's."""


def match_sharpness(person: Array, alpha: Floats, room: Array) -> tuple[Array, Floats, Array]:
    """Blur a room that is much sharper than the person before it, or a person who is much sharper than the room.

    The second by half only: cameras focus on people. See ``match_light`` for the arguments.

    Returns:
        Person, alpha and room; a person that is blurred gets a softer alpha too.
    """
    inside = np.asarray(cv2.erode((alpha[0] > 0.9).astype(np.uint8), np.ones((5, 5), np.uint8)), np.uint8)
    if cv2.countNonZero(inside) < 50:
        return person, alpha, room
    ratio = max(_detail(room[0], None), 1e-3) / (_detail(person[0], inside) + 1e-3)
    if ratio > 1.6:
        return person, alpha, _blurred(room, min(0.5 * float(np.log2(ratio)), 1.5))
    if ratio < 0.35:
        sigma = min(0.25 * float(-np.log2(ratio)), 0.7)
        soft = np.stack([np.asarray(cv2.GaussianBlur(one, (0, 0), sigma), np.float32) for one in alpha])
        return _blurred(person, sigma), soft, room
    return person, alpha, room


def _detail(image: Array, inside: Array | None) -> float:
    """Return how much of the contrast is fine detail."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    fine = cv2.absdiff(grey, cv2.blur(grey, (3, 3)))
    _, spread = cv2.meanStdDev(grey, mask=inside)
    return float(cv2.mean(fine, mask=inside)[0] / (np.asarray(spread).item() + 4))


def _blurred(frames: Array, sigma: float) -> Array:
    return np.stack([np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8) for frame in frames])
