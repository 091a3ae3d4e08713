"""What a network starts from: given weights, also those of a narrower or shallower U-Net or of one without gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidseg.errors import ModelMismatchError
from vidseg.networks import Weights, build
from vidseg.unet import UNet


def start_from(net: nn.Module, weights: Weights, name: str, seed: int = 0) -> list[str]:
    """Give ``net`` these weights, as far as it has them, and return what is to be said about that.

    Gates that the weights lack, and a last layer for other outputs, keep their start values. A U-Net that is wider
    or deeper than the one of the weights is given what computes the same, see ``widened`` and ``deepened``.

    Args:
        net: Is changed.
        weights: Where to start.
        name: What they are called in errors.
        seed: Of the shares in ``widened``.

    Raises:
        ModelMismatchError: They are those of another network.
    """
    given = build(weights.architecture)
    state = weights.state
    try:
        given.load_state_dict(state)  # that they are what they say, before anything is made of them
    except RuntimeError as error:
        raise ModelMismatchError(f"{name} holds other weights than its own description says: {error}") from error
    notes = []
    if isinstance(net, UNet) and isinstance(given, UNet) and _widths(net) != _widths(given):
        state = _grown(given, net, seed)
        notes.append(f"{name} is grown from {_widths(given)} to {_widths(net)}: it computes the same")
    wanted = net.state_dict()
    kept = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    last = list(_last_layer(net))
    strange = [key for key in kept if not key.startswith("gates.") and key not in last]
    lost = [key for key in state if key not in wanted and not key.startswith("gates.")]
    if strange or lost:
        raise ModelMismatchError(f"{name} holds the weights of another network: {(strange + lost)[0]} does not fit")
    net.load_state_dict({key: value for key, value in state.items() if key in wanted and key not in kept}, strict=False)
    if any(key.startswith("gates.") for key in kept):
        notes.append(f"{name} has no weights for some gates: those keep their start values")
    if any(key.startswith("gates.") and key not in wanted for key in state):
        notes.append(f"{name} has more gates than the network: theirs are left out")
    if any(key in last for key in kept):
        notes.append(f"{name} has another number of outputs: the last layer keeps its start values")
    return notes


def _widths(net: UNet) -> tuple[int, ...]:
    """Return the width of each level, finest first, and that of the head."""
    layers = [net.stem, *(stage[1] for stage in net.encoder), net.head]  # type: ignore[index]
    return tuple(int(layer[0].out_channels) for layer in layers)  # type: ignore[index,union-attr,arg-type]


def _last_layer(net: nn.Module) -> list[str]:
    name, layer = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)][-1]
    if isinstance(net, UNet):
        name, layer = "out", net.out
    return [f"{name}.{key}" for key in layer.state_dict()]


# --- larger -----------------------------------------------------------------------------------------------------


def _grown(small: UNet, large: UNet, seed: int) -> dict[str, Tensor]:
    """Return weights for ``large`` that compute what ``small`` computes: made deeper by level, then wider."""
    *widths, head = _widths(small)
    while len(widths) < len(large.encoder) + 1:
        # As wide as in the end: a new level has nothing that is to be kept while it is widened.
        widths.append(_widths(large)[len(widths)])
        deeper = UNet(widths, head, int(small.out.out_channels) // 4)
        deeper.load_state_dict(deeper.state_dict() | deepened(small, deeper))
        small = deeper
    return widened(small, large, seed)


def deepened(shallow: UNet, deep: UNet) -> dict[str, Tensor]:
    """Return weights for ``deep``, which has one coarser level, that compute what ``shallow`` computes.

    What was the bottom is now the decoder of that level, and has yet to learn to listen to what comes from below
    (function-preserving growth, as Net2DeeperNet: Chen et al. 2016, arXiv:1511.05641).

    Returns:
        All weights of ``deep`` but those of the new level itself, and none for gates.
    """
    out = {}
    for name, value in shallow.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "decoder":
            level, _, rest = rest.partition(".")
            out[f"decoder.{int(level) + 1}.{rest}"] = value
        elif part == "bottom":
            out[f"decoder.0.{rest}"] = value
        elif part != "gates":
            out[name] = value
    own = out["decoder.0.0.weight"]
    below = deep.decoder[0][0].weight.shape[1] - own.shape[1]  # type: ignore[index,union-attr,operator]
    out["decoder.0.0.weight"] = torch.cat([own.new_zeros(len(own), below, 3, 3), own], 1)
    return out


def widened(narrow: UNet, wide: UNet, seed: int = 0) -> dict[str, Tensor]:
    """Return weights for ``wide`` that compute what ``narrow`` computes.

    As Net2WiderNet (Chen et al. 2016, arXiv:1511.05641) does: channels are replicated, and what is made of them is
    shared out among the replicas; but not evenly: by chance, so that each gets another gradient and they grow apart.
    The noise that the paper adds for that is not needed then. Replicas stay in their half of a level's channels,
    because a gate treats the halves differently.

    Returns:
        All weights of ``wide`` but those of gates that ``narrow`` lacks.

    Raises:
        ModelMismatchError: A level of ``wide`` is narrower, or it has another number of levels.
    """
    old, new = _widths(narrow), _widths(wide)
    if len(old) != len(new) or any(b < a for a, b in zip(old, new, strict=False)):
        raise ModelMismatchError(f"a U-Net of {old} cannot be widened to {new}: levels may only grow wider")
    state = narrow.state_dict()
    random = torch.Generator().manual_seed(seed)
    levels = [_replicas(a, b) for a, b in zip(old[:-1], new[:-1], strict=True)]
    head = _replicas(old[-1], new[-1])
    rgb = torch.arange(3)
    out: dict[str, Tensor] = {}

    def put(name: str, outputs: Tensor, *inputs: Tensor, bias: bool = False) -> None:
        """Widen one convolution, whose input is these maps one after another."""
        weight = state[f"{name}.weight"][outputs]
        parts, first = [], 0
        for replicas in inputs:
            count = int(replicas.max()) + 1
            shares = 0.5 + torch.rand(len(outputs), len(replicas), generator=random)
            totals = torch.zeros(len(outputs), count).index_add_(1, replicas, shares)
            shares = shares / totals[:, replicas]
            parts.append(weight[:, first : first + count][:, replicas] * shares[..., None, None])
            first += count
        out[f"{name}.weight"] = torch.cat(parts, 1)
        if bias:
            out[f"{name}.bias"] = state[f"{name}.bias"][outputs]

    def block(name: str, outputs: Tensor, *inputs: Tensor) -> None:
        put(f"{name}.0", outputs, *inputs)
        for key in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.1.{key}"] = state[f"{name}.1.{key}"][outputs]
        out[f"{name}.1.num_batches_tracked"] = state[f"{name}.1.num_batches_tracked"]

    block("stem", levels[0], rgb)
    for i in range(len(narrow.encoder)):
        block(f"encoder.{i}.0", levels[i + 1], levels[i])
        block(f"encoder.{i}.1", levels[i + 1], levels[i + 1])
        block(f"decoder.{i}", levels[-i - 2], levels[-i - 1], levels[-i - 2])
    block("bottom", levels[-1], levels[-1])
    block("head", head, levels[0])
    put("out", torch.arange(len(state["out.bias"])), head, bias=True)
    for i in range(min(len(narrow.gates), len(wide.gates))):
        half = levels[-i - 1]
        half = half[len(half) // 2 :] - (int(half.max()) + 1) // 2
        put(f"gates.{i}.gate", half, half, half, bias=True)
    return out


def _replicas(old: int, new: int) -> Tensor:
    """Return for each of ``new`` channels which of ``old`` it repeats; the second half repeats the second half."""
    if old % 2 or new % 2:
        return torch.arange(new) % old
    half = torch.arange(new // 2) % (old // 2)
    return torch.cat([half, half + old // 2])
