"""Adversarial training: a discriminator of maps, and how it learns."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.discriminator import Discriminator
from utils.distributed import all_reduce_sum, sum_gradients, world


class Adversary:
    """A discriminator that learns to tell labels from predictions, and its optimiser.

    It sees the labelled pixels alone; at all others labels and predictions look the same, one
    half. With masks that is the whole map, with points it is what the points say.
    """

    def __init__(
        self,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        lr: float,
        device: torch.device,
    ) -> None:
        self.loss = loss
        self.network = Discriminator().to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr, betas=(0.5, 0.99))

    def judge(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the opinion of predicted maps, (B, 1) logits, to be learnt from."""
        self.network.requires_grad_(False)
        return self.network(_where_labelled(logits.float().sigmoid(), labels))

    def learn(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step; return the loss, of several processes each its share."""
        self.network.requires_grad_(True)
        true = labels[:, 1:] / labels.sum(1, keepdim=True).clamp(min=1e-9)
        made = _where_labelled(logits.detach().float().sigmoid(), labels)
        loss = self.loss(self.network(_where_labelled(true, labels)), self.network(made))
        if world() > 1:  # the share of the mean over the images of all processes
            loss = loss * len(labels) / all_reduce_sum(loss.new_tensor(float(len(labels))))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sum_gradients(self.network)
        self.optimizer.step()
        return loss.detach()


def _where_labelled(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.where(labels.sum(1, keepdim=True) > 0, values, 0.5)
