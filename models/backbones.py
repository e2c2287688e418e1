"""ImageNet encoders from torchvision that hand out their feature maps, and their weights.

An encoder keeps the names torchvision gives its parameters (``features.0.weight``,
``layer1.0.conv1.weight``, ...), so every published weight file of these networks loads.
"""

from __future__ import annotations

import http.client
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from utils.checkpoints import check_archive
from utils.errors import UserError
from utils.registry import look_up

if TYPE_CHECKING:
    from torchvision.models import ResNet

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "backbone.", "encoder.")
_CLASSIFIERS = ("classifier.", "fc.", "head.", "norm.")


class Encoder(nn.Module):
    """Base of all encoders: an image in, feature maps from fine to coarse out.

    Attributes:
        channels: number of channels of each feature map.
        strides: input pixels per feature-map pixel of each map, ascending.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to feature maps (B, channels[i], H_i, W_i)."""
        raise NotImplementedError


class SequentialEncoder(Encoder):
    """An encoder whose body is one ``features`` sequence, tapped after some of its layers.

    Args:
        features: the body, its layers in order; whatever follows the last tap must be cut off.
        taps: index of the layers whose output is handed out, with its (channels, stride).
        channels_last: the layers hand on (B, H, W, C) tensors, as in Swin.
    """

    def __init__(
        self,
        features: nn.Sequential,
        taps: dict[int, tuple[int, int]],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.taps = tuple(taps)
        self.channels = tuple(channels for channels, _ in taps.values())
        self.strides = tuple(stride for _, stride in taps.values())
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.forward`."""
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x.permute(0, 3, 1, 2) if self.channels_last else x)
        return maps


class ResNetEncoder(Encoder):
    """A torchvision ResNet without its classifier, tapped after the stem and each stage.

    Args:
        resnet: the network whose layers are taken over.
        expansion: output channels of a stage per base channel (1: basic blocks, 4: bottlenecks).
    """

    strides = (2, 4, 8, 16, 32)

    def __init__(self, resnet: ResNet, expansion: int) -> None:
        super().__init__()
        self.channels = (64, *(width * expansion for width in (64, 128, 256, 512)))
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.forward`."""
        maps = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _torchvision() -> ModuleType:
    """Return torchvision.models, imported on demand: it takes as long as torch itself."""
    from torchvision import models

    return models


def _vgg16(batch_norm: bool) -> Encoder:
    vgg = _torchvision().vgg
    # Not vgg.vgg16(): its classifier, which we would throw away, is 120 of its 138 million weights.
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=batch_norm)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    pools = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    # The last activation before each pooling but the first one (stride 1 costs too much), and
    # the last pooling itself, for a view as wide as that of the other encoders.
    taps = {
        pools[1] - 1: (128, 2),
        pools[2] - 1: (256, 4),
        pools[3] - 1: (512, 8),
        pools[4] - 1: (512, 16),
        pools[4]: (512, 32),
    }
    return SequentialEncoder(features, taps)


def _mobilenet_v2() -> Encoder:
    taps = {1: (16, 2), 3: (24, 4), 6: (32, 8), 13: (96, 16), 18: (1280, 32)}
    return SequentialEncoder(_torchvision().mobilenet_v2(weights=None).features, taps)


def _convnext_tiny() -> Encoder:
    taps = {1: (96, 4), 3: (192, 8), 5: (384, 16), 7: (768, 32)}
    return SequentialEncoder(_torchvision().convnext_tiny(weights=None).features, taps)


def _swin_v2_t() -> Encoder:
    taps = {1: (96, 4), 3: (192, 8), 5: (384, 16), 7: (768, 32)}
    return SequentialEncoder(
        _torchvision().swin_v2_t(weights=None).features, taps, channels_last=True
    )


BACKBONES: dict[str, Callable[[], Encoder]] = {
    "vgg16": lambda: _vgg16(batch_norm=False),
    "vgg16_bn": lambda: _vgg16(batch_norm=True),
    "resnet18": lambda: ResNetEncoder(_torchvision().resnet18(weights=None), expansion=1),
    "resnet50": lambda: ResNetEncoder(_torchvision().resnet50(weights=None), expansion=4),
    "mobilenet_v2": _mobilenet_v2,
    "convnext_tiny": _convnext_tiny,
    "swin_v2_t": _swin_v2_t,
}
"""Builders of encoders with random weights; the names are torchvision's."""


def build_encoder(backbone: str) -> Encoder:
    """Build the encoder called ``backbone`` with random weights drawn from torch's generator.

    Raises:
        UserError: no backbone has this name.
    """
    return look_up(BACKBONES, backbone, "backbone")()


@dataclass(frozen=True)
class WeightReport:
    """What loading weights into an encoder did.

    Attributes:
        source: ``"none"``, ``"default"`` or the file.
        loaded: number of tensors taken over.
        missing: tensors of the encoder that the file lacks; they keep their random values.
        unexpected: tensors of the file, its classifier aside, that the encoder has no place for.
    """

    source: str
    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def load_weights(encoder: Encoder, source: str | os.PathLike[str], backbone: str) -> WeightReport:
    """Load pretrained weights into ``encoder``.

    Args:
        encoder: changed in place.
        source: ``"none"`` (keep the random weights), ``"default"`` (torchvision's ImageNet
            weights, downloaded once to torch's cache) or a file with a state dict, half precision
            and incomplete ones included.
        backbone: the encoder's name in `BACKBONES`.

    Raises:
        UserError: the download failed, or the file is unreadable, holds no state dict, or is one
            of another architecture.
    """
    source = os.fspath(source)
    if source == "none":
        return WeightReport(source)
    state = _download(backbone) if source == "default" else _read_file(source)
    return _copy_weights(encoder, state, source, backbone)


def require_weights(backbone: str, source: str | os.PathLike[str]) -> None:
    """Fetch and try pretrained weights that are wanted later; no random number is used up.

    Raises:
        UserError: as for `load_weights`.
    """
    if os.fspath(source) != "none":
        with torch.random.fork_rng(devices=[]):
            load_weights(build_encoder(backbone), source, backbone)


def _download(backbone: str) -> dict[str, Tensor]:
    weights = _torchvision().get_model_weights(backbone).DEFAULT
    remedy = (
        "fetch that file elsewhere and pass --backbone_weights FILE, "
        "or train from scratch with --backbone_weights none"
    )
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"backbone weights of '{backbone}' could not be fetched from {weights.url} "
            f"({_one_line(error)}): {remedy}"
        ) from error
    except Exception as error:  # a damaged pickle may raise nearly anything
        cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
        raise UserError(
            f"backbone weights of '{backbone}' from {weights.url} came damaged "
            f"({_one_line(error)}): delete {cached} if it is there and try again, or {remedy}"
        ) from error
    return dict(state)


def _read_file(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise UserError(f"backbone weights {path}: no such file: give 'default', 'none' or a file")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise UserError(
            f"backbone weights {path}: cannot be read as a state dict "
            f"({_one_line(error)}): fetch the file again"
        ) from error
    return _find_state(state, path)


def _find_state(loaded: Any, path: str) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    state = {_strip(key): v for key, v in items if isinstance(key, str) and torch.is_tensor(v)}
    if not state:
        raise UserError(
            f"backbone weights {path}: holds no state dict (names to tensors): "
            "save one with torch.save(model.state_dict(), FILE)"
        )
    return state


def _strip(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _copy_weights(
    encoder: Encoder, state: dict[str, Tensor], source: str, backbone: str
) -> WeightReport:
    own = encoder.state_dict()
    fitting = {key: value for key, value in state.items() if key in own}
    if not fitting:
        raise UserError(
            f"backbone weights {source}: no tensor fits backbone '{backbone}' (the first is "
            f"'{next(iter(state))}', wanted '{next(iter(own))}'): give a file of this backbone"
        )
    for key, value in fitting.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"backbone weights {source}: '{key}' has shape {tuple(value.shape)}, backbone "
                f"'{backbone}' wants {tuple(own[key].shape)}: give a file of this backbone"
            )
    encoder.load_state_dict(fitting, strict=False)  # copies into float32, whatever the file's type
    missing = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own and not k.startswith(_CLASSIFIERS)]
    return WeightReport(source, len(fitting), tuple(missing), tuple(unexpected))


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
