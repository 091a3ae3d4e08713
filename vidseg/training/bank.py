"""All training pictures in memory, drawn evenly over persons and by a fixed share over sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from vidseg.errors import SourceError
from vidseg.training.pictures import Array, Clip, Rng
from vidseg.training.readers import Dataset, open_datasets


class Bank:
    """The pictures of some data sets, to draw from.

    Attributes:
        rooms: ``(h, w, 3)`` uint8, rooms without people.
        things: ``(h, w, 3)``, other pictures without people.
        hard: ``(h, w, 3)``, pictures without people in which a network saw somebody.
        objects: ``(h, w, 4)``, things cut out.
        classes: Names of the classes, or () where the truth is an alpha.

    Args:
        datasets: What ``open_datasets`` returns.
        split: ``train``, ``val``, ``test``, or "" for everything.
        shares: How often a set is drawn, by its name; the others count by the square root of their persons, times
            0.35.
        progress: Called after each picture that was read.
        problems: Takes a sentence for each picture that cannot be read; without it the first is raised.

    Raises:
        SourceError: A picture cannot be read (see ``problems``), nobody is in any, or there is no background.
        ValueError: Data sets of classes are mixed with others.
    """

    def __init__(
        self,
        datasets: Iterable[Dataset],
        split: str = "train",
        shares: Mapping[str, float] = MappingProxyType({}),
        progress: Callable[[], object] = lambda: None,
        problems: list[str] | None = None,
    ) -> None:
        datasets = list(datasets)
        self.rooms: list[Array] = []
        self.things: list[Array] = []
        self.hard: list[Array] = []
        self.objects: list[Array] = []
        people = [one for one in datasets if any(e.kind in ("person", "cutout") for e in one.entries)]
        if len({one.classes for one in people}) > 1:
            raise ValueError("data sets of classes must all name the same classes, and none of them be of alphas")
        self.classes = people[0].classes if people else ()
        sets: dict[tuple[str, bool], dict[str, list[Clip]]] = {}
        for dataset in datasets:
            for entry, clips in dataset.read(split, problems, progress=progress):
                if entry.kind in ("person", "cutout"):
                    persons = sets.setdefault((entry.set, entry.kind == "person"), {})
                    persons.setdefault(entry.person, []).extend(clips)
                else:
                    self._add_empty(entry.kind, clips)
        if not sets:
            where = ", ".join(str(one.path) for one in datasets)
            raise SourceError(f"nobody is in the pictures of split {split or 'all'} in {where}: add people with masks")
        self._persons = [list(persons.values()) for persons in sets.values()]
        weights = [shares.get(name, 0.35 * len(persons) ** 0.5) for (name, _), persons in sets.items()]
        own = np.asarray([own_background for _, own_background in sets])
        moving = np.asarray([any(len(c.frames) > 1 for clips in p.values() for c in clips) for p in sets.values()])
        self._shares = np.asarray(weights, np.float64)
        self._own, self._moving = own.astype(np.float64), moving.astype(np.float64)
        if not own.any() and not self.backdrops:
            raise SourceError("there are only people cut out: add a folder of rooms to put them before")

    def _add_empty(self, kind: str, clips: Sequence[Clip]) -> None:
        for picture in (frame for clip in clips for frame in clip.frames):
            if picture.alpha.any():
                self.objects.append(np.dstack([picture.rgb, picture.alpha]))
            else:
                {"room": self.rooms, "thing": self.things, "hard": self.hard}[kind].append(picture.rgb)

    @classmethod
    def open(cls, *paths: Path | str, split: str = "train", shares: Mapping[str, float] = MappingProxyType({})) -> Bank:
        """Read the data sets at ``paths``; see ``open_datasets``."""
        return cls(open_datasets(paths), split, shares)

    @property
    def photographs(self) -> bool:
        """Whether there are people before their own background."""
        return bool(self._own.any())

    @property
    def backdrops(self) -> bool:
        """Whether there are pictures with nobody in them."""
        return bool(self.rooms or self.things or self.hard)

    def draw(self, rng: Rng, own_background: bool, frames: int = 1) -> Clip:
        """Draw a clip: a set, a person of it, a clip of that person.

        Args:
            rng: Random numbers.
            own_background: What is behind the person must be of use.
            frames: If more than one is wanted, two draws of five are real clips rather than photographs.
        """
        shares = self._shares * self._own if own_background else self._shares
        if frames > 1 and rng.random() < 0.4 and (shares * self._moving).any():
            shares = shares * self._moving
        persons = self._persons[rng.choice(len(shares), p=shares / shares.sum())]
        clips = persons[rng.integers(len(persons))]
        return clips[rng.integers(len(clips))]

    def draw_backdrop(self, rng: Rng) -> Array:
        """Draw a picture with nobody in it: 6 of 10 rooms, 3 things, 1 hard one, as far as there are any."""
        pools = [(0.6, self.rooms), (0.3, self.things), (0.1, self.hard)]
        pools = [(share, pool) for share, pool in pools if pool]
        total = sum(share for share, _ in pools)
        pool = pools[int(rng.choice(len(pools), p=[share / total for share, _ in pools]))][1]
        return pool[rng.integers(len(pool))]
