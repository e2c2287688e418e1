"""Labels made a little less sure of themselves."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_labels(labels: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Smooth the labels of densely labelled images; leave all others as they are.

    Of the answers at each pixel the share ``epsilon`` is dealt out evenly to the two classes, so a
    mask m becomes ``(1 - epsilon) m + epsilon / 2``: the label smoothing of GCoNet+ (Zheng et al.,
    TPAMI 2023), which averages the saliency loss under the hard and under the smoothed mask. It is
    the same all over the image, not a soft border of the object.

    An image is smoothed if every pixel is labelled and both classes occur. So points stay
    untouched: single answers, a few to an image, are what the annotator said, and a smoothed one
    would count as an answer for both classes. Masks of one class stay hard, since the losses that
    look at the classes apart (``iou``, ``balanced_bce``) would take the traces of the other class
    for answers.

    Args:
        labels: (B, 2, H, W), float weights >= 0, background and foreground, as in `Supervision`.
        epsilon: in [0, 1].

    Returns:
        Labels of the same shape and dtype, with the same sum at each pixel.
    """
    answers = labels.sum(dim=1, keepdim=True)
    whole = (answers > 0).all(dim=3).all(dim=2)
    both = (labels > 0).any(dim=3).any(dim=2).all(dim=1, keepdim=True)
    smoothed = (1 - epsilon) * labels + epsilon / 2 * answers
    return torch.where((whole & both)[:, :, None, None], smoothed, labels)
