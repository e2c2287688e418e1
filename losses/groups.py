"""Losses of the group modules: of contrast, class, triplets and the adversary (GCoNet, GCoNet+).

They look at outputs other than the saliency map, so each takes its own arguments. Like the losses
on the map they return a scalar of float32 or better, finite and with a finite gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.levels import at_label_size
from losses.supervision import Supervision, full_precision, split_labels, weighted_mean


def contrast(own_logits: Tensor, cross_logits: Tensor, supervision: Supervision) -> Tensor:
    """Group collaborating loss (GCoNet, Fan et al., CVPR 2021): focal loss of two predictions.

    Features weighted by the consensus of their own group must predict the mask, features weighted
    by that of another group must predict nothing. Each pixel costs ``-(1 - q)^2 ln q`` with q the
    probability given to the right answer: the focal loss of Lin et al. (ICCV 2017) with gamma 2
    and no class weight alpha, as the published code has it. The own part is the mean over all
    answers, like `bce`; the cross part needs no labels, it is the mean over all pixels.

    For binary masks this is the published mean over both predictions; for a soft mask the cost is
    linear in the mask, where the published one mixes the probabilities.

    Args:
        own_logits: (B, 1, h, w), float of any precision; resized to the labels.
        cross_logits: (B, 1, h, w), likewise.
        supervision: its ``labels`` are used.

    Returns:
        A scalar >= 0, half of each part; the own part is zero without labels.
    """
    own = at_label_size(own_logits, supervision)
    cross = at_label_size(cross_logits, supervision)
    labels = torch.cat(split_labels(own, supervision), dim=1)
    total = supervision.total(torch.sum, labels.sum())
    own_part = weighted_mean(_focal(torch.cat((own, -own), dim=1)), labels, total)
    return (own_part + _focal(cross).mean() * supervision.share) / 2


def _focal(logits: Tensor) -> Tensor:
    """Return each pixel's focal loss if it is background; for foreground, give it -logits."""
    return logits.sigmoid().square() * -F.logsigmoid(-logits)


def triplet(pooled: Tensor, groups: Sequence[int], margin: float = 0.1) -> Tensor:
    """Group-based symmetric triplet loss (GCoNet+, Zheng et al., TPAMI 2023).

    ``max(0, |a - p| - |a - n| + margin)`` in Euclidean distance, where anchors a are the first
    half of a group, positives p its last half, and negatives n the images of the next group in
    the same order, from its start again where it is the smaller one; the middle image of an odd
    group is left out. The mean over the triplets of a group, summed over the groups, each of which
    is in turn the anchors'. The features are not normalised, so the margin is in their units.

    For two groups of one size this is the published loss; that has no other sizes.

    Args:
        pooled: (B, C), float of any precision, the images' features averaged over their pixels.
        groups: the sizes of the groups, in order; they sum to B.
        margin: above 0; how much nearer than a negative a positive must be.

    Returns:
        A scalar >= 0. A group of one image has no positive and adds zero; a single group has no
        negatives and gives zero.
    """
    pooled = full_precision(pooled)
    parts = pooled.split(list(groups))
    total = (pooled * 0).sum()
    if len(parts) == 1:
        return total
    for index, own in enumerate(parts):
        half = len(own) // 2
        if half:
            other = parts[(index + 1) % len(parts)]
            negatives = other.repeat(-(-half // len(other)), 1)[:half]
            total = total + F.triplet_margin_loss(own[:half], own[-half:], negatives, margin)
    return total


def classification(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy in nats of the images' classes, averaged over the batch.

    The auxiliary classification of GCoNet (CVPR 2021) and, of images masked by their predicted
    map, the recurrent one of GCoNet+ (TPAMI 2023). It needs the groups' names, no pixel's label.

    Args:
        logits: (B, K), float of any precision.
        classes: (B,), int64 in 0..K-1.

    Returns:
        A scalar >= 0.
    """
    return F.cross_entropy(full_precision(logits), classes)


def adversarial_generator(fake_logits: Tensor) -> Tensor:
    """Cross-entropy in nats of predicted maps being taken for masks (Goodfellow et al., 2014).

    The non-saturating form: it teaches most while the discriminator is not fooled.

    Args:
        fake_logits: (B, 1), float of any precision, the discriminator's output for the predicted
            maps; positive for "this is a mask".

    Returns:
        A scalar >= 0. The gradient reaches the discriminator too; step only the generator.
    """
    return F.softplus(-full_precision(fake_logits)).mean()


def adversarial_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy in nats of telling masks from predicted maps, half for either kind.

    What stands for masks comes from the caller (`models.adversary`: of points, filled up with one
    half where nothing is labelled).

    Args:
        real_logits: (B, 1), float of any precision, the discriminator's output for masks.
        fake_logits: (B', 1), its output for predicted maps; detach the maps to leave the
            network that made them out of it.

    Returns:
        A scalar >= 0; ln 2 where the discriminator cannot tell.
    """
    real = F.softplus(-full_precision(real_logits)).mean()
    return (real + F.softplus(full_precision(fake_logits)).mean()) / 2
