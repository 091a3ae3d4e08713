"""The networks by the dict that describes each, and their weights as files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vidseg.errors import EngineError, MissingDependencyError, ModelMismatchError
from vidseg.unet import UNET_S_CHANNELS, UNet

UNET_M_CHANNELS = (24, 48, 96, 160, 224, 320)
PRESETS: dict[str, dict[str, Any]] = {
    "unet-s": {"kind": "unet", "channels": list(UNET_S_CHANNELS), "head": 16},
    "unet-m": {"kind": "unet", "channels": list(UNET_M_CHANNELS), "head": 16},
    "fcn": {"kind": "fcn", "backbone": "mobilenet_v3_large"},
    "deeplabv3": {"kind": "deeplabv3", "backbone": "mobilenet_v3_large"},
}
"""The architectures that have a name of their own."""


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Return the network that ``architecture`` describes, with random weights.

    Every network is called as ``net(src, state=()) -> (logits, state)``: ``src`` ``(N, 3, H, W)`` normalised RGB,
    ``logits`` ``(N, outputs, H, W)``, ``state`` a tuple of tensors, empty at the start of a clip and for networks
    without recurrence. ``net.multiple`` divides H and W; ``net.states`` are (channels, stride) of each state.

    Args:
        architecture: ``kind`` (``unet``, ``fcn`` or ``deeplabv3``) and the arguments of that network.

    Raises:
        MissingDependencyError: It is made of parts of torchvision, which is not installed.
        ModelMismatchError: There is no such network, or it has no such arguments.
    """
    arguments = dict(architecture)
    kind = arguments.pop("kind", None)
    try:
        if kind == "unet":
            return UNet(**arguments)
        if kind in ("fcn", "deeplabv3"):
            try:
                from vidseg import mobilenet
            except ModuleNotFoundError as error:
                raise MissingDependencyError(f"the network {kind}", "train") from error
            return mobilenet.FCN(**arguments) if kind == "fcn" else mobilenet.DeepLabV3(**arguments)
    except (TypeError, ValueError) as error:
        raise ModelMismatchError(f"there is no {kind} like {dict(architecture)}: {error}") from error
    raise ModelMismatchError(f"{kind!r} is not an architecture that this version of vidseg knows")


def load(architecture: Mapping[str, Any], state: Mapping[str, Tensor] | bytes, name: str) -> nn.Module:
    """Return the network that ``architecture`` describes with these weights.

    Args:
        architecture: See ``build``.
        state: The weights, or the bytes of a safetensors file.
        name: What they are called in errors.

    Raises:
        ModelMismatchError: They are not the weights of such a network.
    """
    net = build(architecture)
    try:
        net.load_state_dict(safetensors.torch.load(state) if isinstance(state, bytes) else state)
    except (RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise ModelMismatchError(
            f"the weights of {name} are not the network that its manifest describes: {error}", runtime="torch"
        ) from error
    return net


# --- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Weights with what is needed to use them.

    Attributes:
        architecture: See ``build``.
        state: Tensors by name, on the CPU.
        classes: What the network tells apart; empty for an alpha.
        notes: What else the file says of itself.
    """

    architecture: dict[str, Any]
    state: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    notes: dict[str, str] | None = None

    def network(self) -> nn.Module:
        """Return the network with these weights, ready for inference."""
        return load(self.architecture, self.state, "this file").eval()

    def halved(self) -> Weights:
        """Return these with what convolutions multiply by rounded to float16, which keeps three digits."""
        state = {name: x.half() if x.ndim > 1 and x.is_floating_point() else x for name, x in self.state.items()}
        return replace(self, state=state)


def write_weights(path: Path, weights: Weights) -> None:
    """Write ``weights`` as safetensors, their architecture in its metadata; under another name until all is there."""
    metadata = {"architecture": json.dumps(weights.architecture), "classes": json.dumps(list(weights.classes))}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.state.items()}
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(safetensors.torch.save(tensors, metadata | (weights.notes or {})))
    unfinished.replace(path)


def read_weights(path: Path) -> Weights:
    """Read ``.safetensors``, ``.pt``, the averaged weights of a ``checkpoint.pt``, or the weights of a model's folder.

    What the file does not say of its architecture is read off the shapes; that works for U-Nets.

    Raises:
        EngineError: The file cannot be read.
        ModelMismatchError: It holds no weights of a network of ours.
    """
    manifest: dict[str, Any] = {}
    if path.is_dir():
        try:
            manifest = tomllib.loads((path / "manifest.toml").read_text("utf-8"))
            path = path / manifest["files"]["weights"]
        except (OSError, KeyError, ValueError) as error:
            raise EngineError(f"{path} is not a folder of a model with weights ({error!r})", path=str(path)) from error
    notes: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                notes = dict(file.metadata() or {})
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if "average" in state:  # a checkpoint
                notes = state.get("notes", {})
                state = {k.removeprefix("module."): v for k, v in state["average"].items() if k != "n_averaged"}
    except FileNotFoundError as error:
        raise EngineError(f"there is no file {path}", path=str(path)) from error
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise EngineError(
            f"{path} cannot be read as weights ({type(error).__name__}: {error})", path=str(path)
        ) from error
    architecture = (
        json.loads(notes.pop("architecture", "null")) or manifest.get("architecture") or _unet_of(state, path)
    )
    classes = json.loads(notes.pop("classes", "[]")) or manifest.get("classes", ())
    return Weights(architecture, state, tuple(classes), notes)


def _unet_of(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the architecture of the U-Net whose weights these are."""
    try:
        levels = [name for name in state if re.fullmatch(r"encoder\.\d+\.1\.0\.weight", name)]
        gates = [name for name in state if re.fullmatch(r"gates\.\d+\.gate\.weight", name)]
        architecture: dict[str, Any] = {
            "kind": "unet",
            "channels": [state["stem.0.weight"].shape[0], *(state[name].shape[0] for name in sorted(levels))],
            "head": state["head.0.weight"].shape[0],
        }
        outputs = state["out.weight"].shape[0] // 4
    except (KeyError, AttributeError) as error:
        raise ModelMismatchError(f"{path} holds no weights of a network of ours", path=str(path)) from error
    if outputs != 1:
        architecture["outputs"] = outputs
    if gates:
        architecture["gates"] = len(gates)
    return architecture
