"""Maps of several resolutions against labels of one."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from losses.supervision import Supervision, full_precision


def at_label_size(logits: Tensor, supervision: Supervision) -> Tensor:
    """Return logits (B, 1, h, w) resized bilinearly to the labels' size, (B, 1, H, W).

    The logits are brought to the labels and not the other way round: shrinking would blur a mask
    and smear or lose single points. Half-precision logits come back as float32; logits of the
    right size come back with their values untouched.
    """
    logits, size = full_precision(logits), supervision.labels.shape[-2:]
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
