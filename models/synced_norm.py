"""Batch norm over the images of all processes, so that a split batch is normalised as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.distributed import summed, world


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm of feature maps (B, C, H, W) that the processes hold parts of.

    For CPUs, where PyTorch has none; mean and variance are each summed up by a message of their
    own, and so are their gradients. The variance is that around the common mean, not the mean of
    the parts' variances. Outside of training, or alone, it is plain batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); parts may differ in B."""
        if not self.training or world() == 1:
            return super().forward(x)
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = summed(torch.cat((values.sum((0, 2, 3)), count)))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance = summed(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * count / (count - 1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise_norms(network: nn.Module, leave: str = "consensus") -> nn.Module:
    """Make the batch norms of a network look at the images of all processes.

    Args:
        network: on its device; changed in place, its parameters stay the same objects.
        leave: name of a child that is left as it is: it is shown the whole batch by itself.

    Returns:
        The network.
    """
    for name, child in network.named_children():
        if name == leave:
            continue
        if not isinstance(child, nn.BatchNorm2d):
            synchronise_norms(child, leave)
        elif child.weight.is_cuda:
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            setattr(network, name, _synced(child))
    return network


def _synced(norm: nn.BatchNorm2d) -> SyncedBatchNorm:
    made = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    made.weight, made.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(made, name, buffer)
    return made.train(norm.training)
