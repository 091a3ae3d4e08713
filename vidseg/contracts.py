"""Contracts of well-known networks: what their authors say that a graph does not, and how a graph shows to be one.

A contract is what somebody would write into a manifest, see ``vidseg.foreign``. Names and shapes are those of the
public exports; no code and no weights of theirs are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vidseg.onnx_graph import Graph, Tensor

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
"""From -1 to 1."""
SHORT_SIDE_512 = [[512, 896], [896, 512], [512, 672], [672, 512], [512, 512]]
"""Height and width: 16:9, 4:3 and square, whose shorter side is 512, all multiples of 32."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One kind of network.

    Attributes:
        name: As its authors write it.
        source: Where they say so.
        told: What a manifest would say.
        fits: Whether a graph is one.
    """

    name: str
    source: str
    told: dict[str, object]
    fits: Callable[[Graph], bool]


def recognised(graph: Graph) -> Contract | None:
    """Return the contract that a graph's inputs and outputs show; None if they could be anybody's."""
    return next((contract for contract in CONTRACTS if contract.fits(graph)), None)


def _rvm(graph: Graph) -> bool:
    return {"src", "r1i", "downsample_ratio"} <= graph.inputs.keys() and {"pha", "r1o"} <= graph.outputs.keys()


def _modnet(graph: Graph) -> bool:
    # Anybody's network has an "input" and an "output": it is the names of the axes that tell.
    return (
        [*graph.inputs] == ["input"]
        and [*graph.outputs] == ["output"]
        and graph.inputs["input"].shape == ("batch_size", 3, "height", "width")
        and _channels(graph.outputs["output"]) not in (2, 3)
    )


def _pp_humanseg(graph: Graph) -> bool:
    if [*graph.inputs] != ["x"] or len(graph.outputs) != 1 or len(graph.inputs["x"].shape) != 4:
        return False
    (answer,) = graph.outputs.values()
    return graph.inputs["x"].shape[1] == 3 and len(answer.shape) == 4 and 2 in answer.shape[1::2]


def _selfie(graph: Graph) -> bool:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return False
    ((name, answer),) = graph.outputs.items()
    (picture,) = graph.inputs.values()
    sizes = ((256, 256), (144, 256))
    known = picture.shape[1:] in [(*size, 3) for size in sizes] or picture.shape[1:] in [(3, *size) for size in sizes]
    return known and name in ("activation_10", "alphas") and len(answer.shape) == 4 and 1 in answer.shape[1::2]


def _u2net(graph: Graph) -> bool:
    return len(graph.outputs) == 7 and _begins_with_masks(graph, 7)


def _isnet(graph: Graph) -> bool:
    return len(graph.outputs) == 12 and _begins_with_masks(graph, 6)


def _begins_with_masks(graph: Graph, count: int) -> bool:
    """Whether one picture goes in, and so many masks come out first: one from each depth of the network."""
    if len(graph.inputs) != 1 or any(
        len(tensor.shape) != 4 for tensor in (*graph.inputs.values(), *graph.outputs.values())
    ):
        return False
    (picture,) = graph.inputs.values()
    masks = [answer.shape for answer in graph.outputs.values()][:count]
    # The older exporter leaves the axes of an answer unnamed, so that nothing is known of them.
    wanted = ((1,), picture.shape[2:3], picture.shape[3:4])
    return all(
        isinstance(extent, str) or (extent,) == want
        for mask in masks
        for extent, want in zip(mask[1:], wanted, strict=True)
    )


def _birefnet(graph: Graph) -> bool:
    return (
        [*graph.inputs] == ["input_image"]
        and [*graph.outputs] == ["output_image"]
        and _channels(graph.outputs["output_image"]) not in (2, 3)
    )


def _channels(answer: Tensor) -> int | str:
    return answer.shape[1] if len(answer.shape) == 4 else 1


CONTRACTS: tuple[Contract, ...] = (
    Contract(
        "RobustVideoMatting",
        "https://github.com/PeterL1n/RobustVideoMatting/blob/master/documentation/inference.md",
        {
            "output": "pha",
            "activation": "none",
            # It looks for people at this share of the input's size: 307 pixels of a width of 512; 256 to 512 are good.
            "scalars": {"downsample_ratio": 0.6},
            "licence": "GPL-3.0",
        },
        _rvm,
    ),
    Contract(
        "MODNet",
        "https://github.com/ZHKKKe/MODNet/blob/master/onnx (export_onnx.py, inference_onnx.py)",
        HALVES | {"activation": "none", "multiple": 32, "sizes": SHORT_SIDE_512, "licence": "Apache-2.0"},
        _modnet,
    ),
    Contract(
        "PP-HumanSeg",
        "https://github.com/opencv/opencv_zoo/blob/main/models/human_segmentation_pphumanseg/pphumanseg.py",
        HALVES | {"classes": ["background", "person"], "sizes": [[192, 192]], "licence": "Apache-2.0"},
        _pp_humanseg,
    ),
    Contract(
        "MediaPipe Selfie Segmentation",
        "https://github.com/google-ai-edge/mediapipe/blob/master/docs/solutions/selfie_segmentation.md; "
        "https://huggingface.co/onnx-community/mediapipe_selfie_segmentation",
        {"activation": "none", "licence": "Apache-2.0"},
        _selfie,
    ),
    Contract(
        "U²-Net",
        "https://github.com/danielgatis/rembg/blob/main/rembg/sessions/u2net_human_seg.py",
        IMAGENET | {"activation": "none", "sizes": [[320, 320]], "licence": "Apache-2.0"},
        _u2net,
    ),
    Contract(
        "IS-Net",
        "https://github.com/xuebinqin/DIS/blob/main/IS-Net/Inference.py",
        {"mean": [0.5] * 3, "std": [1.0] * 3, "activation": "none", "sizes": [[1024, 1024]], "licence": "Apache-2.0"},
        _isnet,
    ),
    Contract(
        "BiRefNet",
        "https://github.com/ZhengPeng7/BiRefNet/blob/main/tutorials/BiRefNet_pth2onnx.ipynb",
        IMAGENET | {"activation": "sigmoid", "sizes": [[1024, 1024]], "licence": "MIT"},
        _birefnet,
    ),
)
"""U²-Net's and IS-Net's authors stretch each answer from 0 to 1 afterwards. That is left out: of the noise in an empty
room it would make a person."""
