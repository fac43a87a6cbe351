"""Names of the tensors in files of weights, brought to those of a library's model where a rule for it exists."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.")  # of wrappers: DataParallel, a trainer, torch.compile
# efficientnet_pytorch (Melas-Kyriazi) to timm; a block that does not expand has no first product.
STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def renamed(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """Return a state dict under the `names` of a model's tensors where a rule leads to them, else as it is."""
    for rule in (without_prefix, from_efficientnet_pytorch):
        if set(names) <= state.keys():
            return state
        state = rule(state, names)
    return state


def without_prefix(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """Return a state dict without the prefix that a wrapper has put before every name."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in names):
            return without_prefix({key.removeprefix(prefix): tensor for key, tensor in state.items()}, names)
    return state


def from_efficientnet_pytorch(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """Return a state dict of efficientnet_pytorch under timm's names; its blocks are counted through all groups."""
    if "_conv_stem.weight" not in state:
        return state
    blocks = list(dict.fromkeys(match[0] for key in names if (match := re.match(r"blocks\.\d+\.\d+", key))))
    result = {}
    for key, tensor in state.items():
        owner, _, last = key.rpartition(".")
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", owner):
            number, layer = int(match[1]), match[2]
            expands = f"_blocks.{number}._expand_conv.weight" in state
            layers = SQUEEZE | (EXPANDING if expands else PLAIN)
            place = blocks[number] if number < len(blocks) else f"blocks.{number}"
            owner = f"{place}.{layers.get(layer, layer)}"
        result[f"{STEM.get(owner, owner)}.{last}"] = tensor
    return result
