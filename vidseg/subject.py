"""Subject: which of the people in the picture are kept, and that it stays the same ones."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from vidseg.frame import Alpha
from vidseg.motion import Flow, Luma, change

Kept = Literal["all", "largest", "center"]
Mask = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.uint8]
"""Whose each pixel is: NOBODY's, the SUBJECT's or another's."""

NOBODY, SUBJECT, OTHER = np.uint8(0), np.uint8(1), np.uint8(2)

_SPECK = 0.0008
"""Patches smaller than this share of the picture are nobody, and go with whom they are closest to."""
_PART = 0.25
"""A patch of up to this share of the subject's area may be a hand of it whose arm is out of sight."""
_NEAR, _NEAR_BELOW = 0.1, 0.3
"""Shares of the picture's width within which such a hand is; the second where it comes up from the lower edge."""
_REACH = 0.06
"""Share of the picture's width by which people move from frame to frame at most."""
_SLIVER = 0.06
"""Share of a patch below which what is another's in it is left over from a touch."""
_FRINGE = 0.016
"""Share of the picture's width by which the subject may grow where others touch it."""
_CROWD = 2.0
"""Seconds after a touch in which whoever comes out from behind the subject is another."""
_MISSED = 1.5
"""Seconds for which nobody else is taken for a subject that is out of sight: it may come out again behind somebody."""
_BIGGER, _LONG = 1.8, 4.0
"""Somebody else becomes the subject after being so many times more of one, for so many seconds."""


class Subject:
    """Keeps one of several people in the alphas of one stream. Keeps state; not thread-safe.

    Who is the subject is decided once: ``largest`` by area, ``center`` by area close to the middle. From then on it is
    whoever stands where the subject stood a moment ago, so that it does not change when somebody walks past behind.
    Where two touch, their pixels are told apart by whose they were before, moved along with the picture, so each keeps
    its part. A small patch close to the subject, or coming up from the lower edge, is taken for its hand.

    With one person in the picture, 0.1 ms at a network's size; with several, three times that.

    Args:
        kept: ``all`` returns every alpha as it is.

    Raises:
        ValueError: ``kept`` is none of these.
    """

    def __init__(self, kept: Kept = "all") -> None:
        if kept not in ("all", "largest", "center"):
            raise ValueError(f"the subject is all, largest or center, not {kept = }")
        self._kept = kept
        self._flow = Flow(1)
        self.reset()

    def reset(self) -> None:
        """Forget who is the subject."""
        self._owners: Owners | None = None
        self._guide: Luma = np.zeros((0, 0), np.uint8)
        self._seen = self._time = 0.0
        self._place: Mask | None = None  # where the subject was last
        self._home = np.zeros((0, 0), bool)  # where it was before others touched it,
        self._look: Luma = np.zeros((0, 0), np.uint8)  # and what the picture was then
        self._crowded = -math.inf  # until when others may touch or hide it
        self._solo: Mask = np.zeros((0, 0), bool)  # what is surely it, among others
        self._rivalry = 0.0

    def __call__(self, alpha: Alpha, guide: Luma, time: float) -> Alpha:
        """Return ``alpha`` (the same array if nobody has to go) without those who are not kept.

        Args:
            alpha: float32 ``(h, w)``, settled; not changed.
            guide: Luma of the same picture, uint8 ``(h, w)``.
            time: Of the picture, in seconds.
        """
        if self._kept == "all":
            return alpha
        # At half of a network's size: who is who needs no sharp edges.
        size = max(alpha.shape[0] // 2, 1), max(alpha.shape[1] // 2, 1)
        small = np.asarray(cv2.resize(alpha, size[::-1], interpolation=cv2.INTER_AREA), np.float32)
        luma = np.asarray(cv2.resize(guide, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        if self._owners is not None and (self._owners.shape != size or not 0 <= time - self._time <= _MISSED):
            self.reset()
        step, self._time = time - self._time if self._owners is not None else 0.0, time
        owners = self._assign(small, luma, step)
        self._owners, self._guide = owners, luma
        if (owners == SUBJECT).any():
            self._seen, self._place = time, owners == SUBJECT
            if time > self._crowded:
                self._home, self._look, self._solo = self._place, luma, self._place
        if not (owners == OTHER).any():
            return alpha
        if not (owners == SUBJECT).any():
            return np.zeros_like(alpha)
        keep = (_nearest(owners)[0] == SUBJECT).astype(np.float32)
        full = cv2.resize(keep, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(alpha * full, np.float32)

    def _assign(self, alpha: Alpha, luma: Luma, step: float) -> Owners:
        """Return whose each pixel of the people is now."""
        count, found, stats, _ = cv2.connectedComponentsWithStats((alpha > 0.5).view(np.uint8), connectivity=8)
        labels, areas = np.asarray(found, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)
        patches = [label for label in range(1, count) if areas[label] >= max(_SPECK * alpha.size, 2)]
        before = self._owners
        if before is None or (self._place is not None and self._time - self._seen > _MISSED):
            before, self._place = np.zeros(alpha.shape, np.uint8), None
        if len(patches) <= 1 and not (before == OTHER).any():
            known = self._place is None or not patches or before[labels == patches[0]].any()
            if known:  # somebody alone
                return np.asarray(labels > 0, np.uint8) * SUBJECT
        owners = np.zeros(alpha.shape, np.uint8)
        closest, distance = _nearest(before)
        closest[distance > _REACH * alpha.shape[1]] = NOBODY
        if self._place is not None:  # and nobody has taken that place
            closest[self._place & (closest == NOBODY)] = SUBJECT
        told: Owners | None = None
        counts = np.array([np.bincount(closest[labels == label], minlength=3) for label in patches], np.int64)
        totals = counts.sum(0) if patches else np.zeros(3, np.int64)
        for label, (_, mine, theirs) in zip(patches, counts, strict=True):
            patch = labels == label
            # Who has most of himself elsewhere has only left some pixels here: the two have parted. Slivers are no one.
            gone, alone = 2 * mine < totals[SUBJECT], 2 * theirs < totals[OTHER]
            parted = bool(gone or alone)
            if alone and not gone:
                self._crowded = -math.inf
            if min(mine, theirs) > _SLIVER * (mine + theirs) and not parted:
                self._crowded = self._time + _CROWD
            if self._time <= self._crowded and (mine or self._home[patch].any()) and not parted:
                told = self._told_apart(before, luma, labels > 0) if told is None else told
                owners[patch] = told[patch]
            elif mine or theirs:
                owners[patch] = SUBJECT if mine > theirs else OTHER
        self._part(owners, labels, patches, areas)
        self._choose(owners, labels, patches, alpha, step)
        self._adopt(
            owners, labels, [label for label, known in zip(patches, counts, strict=True) if not known[1:].any()]
        )
        return owners

    def _told_apart(self, before: Owners, luma: Luma, people: Mask) -> Owners:
        """Return whose the pixels of touching people are: whose they were where the picture has them from.

        What looks as it did before they touched is the subject, and what is new is only if it is close to it. The
        subject does not grow by that, else it would follow whoever comes out from behind it.
        """
        known = np.where(before == OTHER, OTHER, self._solo.astype(np.uint8) * SUBJECT)
        owners = self._flow.carry(known, self._guide, luma)
        same = self._home & people & ~change(luma, self._look.astype(np.float32)).where
        owners[same] = SUBJECT
        owners[~people] = NOBODY
        self._solo = owners == SUBJECT
        closest, distance = _nearest(owners)
        new = people & (owners == NOBODY)
        owners[new] = OTHER
        owners[new & (closest == SUBJECT) & (distance <= _FRINGE * people.shape[1])] = SUBJECT
        return owners

    def _part(
        self, owners: Owners, labels: npt.NDArray[np.int32], patches: list[int], areas: npt.NDArray[np.int32]
    ) -> None:
        """Leave the subject one body: of several patches that are wholly its own, the largest and its hands."""
        own = [label for label in patches if (owners[labels == label] == SUBJECT).all()]
        if len(own) < 2:
            return
        body = max(own, key=lambda label: int(areas[label]))
        gaps = _distance(labels == body)
        for label in own:
            patch = labels == label
            if label != body and not _is_hand(patch, gaps, int(areas[body]), _NEAR_BELOW):
                owners[patch] = OTHER

    def _choose(
        self, owners: Owners, labels: npt.NDArray[np.int32], patches: list[int], alpha: Alpha, step: float
    ) -> None:
        """Choose a subject if there is none, or if somebody else has been more of one for long."""
        if not patches:
            return
        weights = alpha
        if self._kept == "center":
            off = (np.arange(alpha.shape[1]) + 0.5) / alpha.shape[1] - 0.5
            weights = alpha * np.exp(-0.5 * (off / 0.15) ** 2).astype(np.float32)
        scores = {label: float(weights[labels == label].sum()) for label in patches}
        best = max(patches, key=lambda label: scores[label])
        mine = owners == SUBJECT
        if self._place is None:
            if not mine.any():
                owners[labels > 0] = OTHER
                owners[labels == best] = SUBJECT
            return
        theirs = max((scores[label] for label in patches if not mine[labels == label].any()), default=0.0)
        rival = mine.any() and theirs > _BIGGER * float(weights[mine].sum())
        self._rivalry = self._rivalry + step if rival else 0.0
        if self._rivalry > _LONG:
            self._rivalry = 0.0
            owners[labels > 0] = OTHER
            owners[labels == best] = SUBJECT

    def _adopt(self, owners: Owners, labels: npt.NDArray[np.int32], unknown: list[int]) -> None:
        """Say whose the patches are that were nobody's before."""
        mine = owners == SUBJECT
        gaps, area = _distance(mine), int(np.count_nonzero(mine))
        for label in unknown:
            patch = labels == label
            if not mine[patch].any():
                near = _NEAR_BELOW if patch[-1].any() else _NEAR
                owners[patch] = SUBJECT if _is_hand(patch, gaps, area, near) else OTHER


def _is_hand(patch: Mask, gaps: npt.NDArray[np.float32], area: int, near: float) -> bool:
    """Return whether a patch may be a hand of the body at ``gaps`` from it, of ``area`` pixels."""
    return bool(np.count_nonzero(patch) <= _PART * area and gaps[patch].min() <= near * patch.shape[1])


def _distance(mask: Mask) -> npt.NDArray[np.float32]:
    """Return how far each pixel is from ``mask``; very far if that is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3))


def _nearest(owners: Owners) -> tuple[Owners, npt.NDArray[np.float32]]:
    """Return whose the nearest pixel is that is somebody's, and how far it is."""
    known = owners > 0
    if not known.any():
        return owners.copy(), np.full(owners.shape, np.inf, np.float32)
    distance, labels = cv2.distanceTransformWithLabels(
        (~known).view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    whose = np.zeros(int(labels.max()) + 1, np.uint8)
    whose[labels[known]] = owners[known]
    return whose[labels], np.asarray(distance)
