"""Smoother: steadies the alpha in time where the picture stands still, and lets go of it where the picture moves."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vidseg import kernels
from vidseg.exposure import match_exposure
from vidseg.frame import Alpha

NOISE_CAP = 2.5
"""Most grey levels of change that count as a camera's noise; more is a picture that moves everywhere."""
CUT_SHARE = 0.5
"""When more than this share of the pixels has changed, it is another shot."""
HASTE = 1.0
"""How much faster a large change of the alpha is followed than a small one: a whole one (0 to 1), 1 + this times."""


class Smoother:
    """Exponential smoothing of the alpha in seconds, given up where the picture moves. For one stream; not thread-safe.

    The state is an alpha and the *reference picture* it belongs to. Where the new picture equals the reference, a new
    alpha is only another opinion on the same thing, and is averaged with the old ones over ``time_constant``: flicker
    goes. Where the new picture differs from the reference by more than noise, the old opinion is about something that
    is gone, and the new alpha is taken as it is: no ghost follows a moving hand. Both change by the same factor in
    each pixel, so slow movements add up until they are seen. A change of the exposure of the whole picture is no
    movement, see ``match_exposure``.

    Where the picture stands still the distance ``e`` to the new alpha shrinks by ``de/dt = -e (1 + |e|) / T``, which is
    solved exactly for each step, so 15, 30 and 60 frames a second (and any mixture) follow one curve.

    Starts anew at a scene cut, when the size changes, when time goes backwards, and after ``reset``.

    Args:
        time_constant: T in seconds; 0 switches smoothing off. The variance of white flicker at 30 fps falls to
            ``k / (2 - k)`` with ``k = 1 - exp(-1 / (30 T))``: 14 % for 0.12 s.
        threshold: Grey levels (of 255) of change between two pictures above which a pixel starts to count as moved.
        patience: For a pixel that has stood still for longer than T, T grows to that time, up to this one in seconds.
            A mask that breathes with the light of a camera's automatics becomes calm by that; one that was wrong
            stays so for longer.
    """

    def __init__(self, time_constant: float = 0.12, threshold: float = 3.0, patience: float = 0.0) -> None:
        if not 0 <= time_constant < math.inf:
            raise ValueError(f"the time constant must be 0 or more seconds, not {time_constant = }")
        if not 0 < threshold < math.inf:
            raise ValueError(f"the threshold must be more than 0 grey levels, not {threshold = }")
        if not 0 <= patience < math.inf:
            raise ValueError(f"the patience must be 0 or more seconds, not {patience = }")
        self._time_constant, self._threshold, self._patience = time_constant, threshold, patience
        self._alpha: Alpha | None = None
        self._reference = self._ages = np.zeros((0, 0), np.float32)
        self._time = -math.inf

    def reset(self) -> None:
        """Forget everything: the next alpha is taken as it is."""
        self._alpha = None

    def __call__(self, alpha: Alpha, guide: npt.NDArray[np.uint8], time: float) -> Alpha:
        """Return the steadied alpha, a new array; not-a-number counts as 0, and no input is changed.

        Args:
            alpha: As the network gave it, float32 ``(h, w)``.
            guide: Luma of the same picture, uint8 ``(h, w)``.
            time: Of the picture, in seconds.

        Raises:
            ValueError: ``alpha`` and ``guide`` differ in size.
        """
        if alpha.shape != guide.shape:
            raise ValueError(f"alpha and guide must be of one size, not {alpha.shape = } and {guide.shape = }")
        step, self._time = time - self._time, time
        before = self._alpha
        if before is None or before.shape != alpha.shape or step < 0 or self._time_constant == 0:
            return self._restart(alpha, guide)
        exposure = [np.float32(number) for number in match_exposure(guide, self._reference)]
        moved = kernels.movement(guide, self._reference, *exposure)
        # That is the noise as long as less than half of the picture moves, 1.5 of it is about sigma. One pixel in 64
        # is enough for the median.
        noise = min(1.5 * float(np.median(moved[::8, ::8])), NOISE_CAP)
        decay = math.exp(-step / self._time_constant)
        # The solution of the equation above after one step: e -> e decay / (1 + |e| (1 - decay)). The reference
        # follows without haste: it is a picture, and its noise is to be averaged.
        numbers = (np.float32(x) for x in (self._threshold + 2 * noise, step, decay, self._patience, HASTE))
        state = before, self._reference, self._ages
        alpha_now, reference, ages, still = kernels.steady(alpha, guide, *state, moved, *exposure, *numbers)
        if still < 1 - CUT_SHARE:
            return self._restart(alpha, guide)
        self._alpha, self._reference, self._ages = alpha_now, reference, ages
        return alpha_now.copy()

    def _restart(self, alpha: Alpha, guide: npt.NDArray[np.uint8]) -> Alpha:
        # fmax drops a NaN: what is not known to be foreground is background, and in the state it would stay for ever.
        self._alpha = np.fmin(np.fmax(alpha, np.float32(0)), np.float32(1))
        self._reference, self._ages = guide.astype(np.float32), np.zeros(guide.shape, np.float32)
        return self._alpha.copy()
