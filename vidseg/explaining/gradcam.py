"""Grad-CAM: the coarsest features of a network, each weighted by its gradient."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.engine import ModelSpec
from vidseg.frame import Alpha
from vidseg.networks import load


class GradCam:
    """Grad-CAM of a segmentation (Selvaraju et al. 2017, arXiv:1610.02391; of regions: Vinogradova et al. 2020).

    Args:
        spec: A model with weights.

    Raises:
        ModelMismatchError: They are not those of the network that it describes.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._net = load(spec.architecture, spec.read("weights"), spec.name).eval().requires_grad_(False)
        # Where a U-Net is coarsest, or what the head of another network is given.
        layer = self._net.bottom if hasattr(self._net, "bottom") else self._net.backbone
        assert isinstance(layer, nn.Module)
        layer.register_forward_hook(self._keep)
        self._features = torch.empty(0)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        self._features = output.detach().requires_grad_(True)
        return self._features

    def __call__(self, src: npt.NDArray[np.float32], target: npt.NDArray[np.bool_]) -> Alpha:
        """Return how strongly each place speaks for the logits of ``target``, ``(h, w)``, the strongest 1.

        Args:
            src: The input ``(3, h, w)``.
            target: Whose logits are asked about, ``(h, w)``.
        """
        with torch.enable_grad():
            logits, _ = self._net(torch.from_numpy(src)[None])
            answer = logits[0, 0]
            if self._spec.classes:
                others = [k for k in range(logits.shape[1]) if k not in self._spec.kept]
                answer = logits[0, list(self._spec.kept)].logsumexp(0) - logits[0, others].logsumexp(0)
            (gradient,) = torch.autograd.grad(answer[torch.from_numpy(target)].mean(), self._features)
        weights = gradient.mean((2, 3), keepdim=True)
        coarse = (weights * self._features.detach()).sum(1)[0].relu().numpy()
        height, width = target.shape
        fine = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
        return np.asarray(np.clip(fine / max(float(coarse.max()), 1e-9), 0, 1), np.float32)
