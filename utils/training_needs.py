"""What a training needs before it begins: enough images in every part of a batch, and memory."""

from __future__ import annotations

import contextlib

from config import Config
from utils import distributed
from utils.device import LEAST_IMAGES, memory_advice
from utils.errors import UserError
from utils.run_folder import RunFolder


def require_images(config: Config) -> None:
    """Raise `UserError` where a part of a process's batch would be a single image."""
    count = distributed.world()
    least = LEAST_IMAGES * count * config.accumulate
    if count > 1 and config.batch_size < least:
        raise UserError(
            f"--batch_size {config.batch_size}: must be at least {least} for {count} processes"
            f"{f' with --accumulate {config.accumulate}' * (config.accumulate > 1)}, two images "
            "each: start fewer"
        )


def require_shares(config: Config, smallest: int) -> None:
    """Raise `UserError` where a part of a batch would have too few images.

    Of several processes each needs one in each part; batch norm, which sees those of all, two.

    Args:
        config: the settings.
        smallest: images that every batch has: few images, or small groups, make them fewer than the
            settings say.
    """
    count, parts = distributed.world(), config.accumulate
    if smallest >= max(count, LEAST_IMAGES) * parts:
        return
    told = f"{config.trainset}: batches may have no more than {smallest} images, too few for "
    if count == 1:
        raise UserError(
            f"{told}--accumulate {parts}: two images to a part are needed: give {smallest // 2}"
        )
    each = f", in {parts} parts each" * (parts > 1)
    raise UserError(f"{told}{count} processes{each}: start fewer (--device cuda:0 is one)")


def memory_to_train(config: Config) -> contextlib.AbstractContextManager:
    """Return a block in which a lack of memory is told with what to change."""
    more = 2 * config.accumulate
    ways = [f"--accumulate {more}"] if not config.grouped else ["a smaller --batch_size"]
    if config.batch_size < LEAST_IMAGES * more * distributed.world():
        ways = []
    smaller = max(32, config.size * 3 // 4 // 32 * 32)
    ways += [f"--size {smaller}"] if smaller < config.size else []
    if RunFolder(config.run_folder).has_weights:
        ways = [f"{way} in a new trial" for way in ways]
    pixels = f"{config.size} x {config.size} pixels"
    what = f"training on {config.at_a_time} images of {pixels} at a time"
    return memory_advice(what, ways or ["--device cpu"], config.cache_mb)
