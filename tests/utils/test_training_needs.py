"""What is asked of a batch before a training begins."""

from __future__ import annotations

import pytest
import torch

from tests.small_trials import config_of, flag
from utils import distributed
from utils.errors import UserError
from utils.training_needs import require_images, require_shares


@pytest.mark.parametrize(("accumulate", "processes"), [(1, 5), (2, 2)])
def test_a_batch_too_small_for_the_processes_is_refused(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, accumulate: int, processes: int
) -> None:
    config = config_of(flag(tiny, "accumulate", accumulate))
    require_shares(config, 2 * accumulate)
    monkeypatch.setattr(distributed, "world", lambda: processes)
    require_shares(config, accumulate * processes)
    few = accumulate * processes - 1
    told = rf"SAMPLE-TR: batches may have no more than {few} images, .* for {processes} processes"
    with pytest.raises(UserError, match=told):
        require_shares(config, few)


def test_batch_norm_sees_no_single_image(tiny: list[str]) -> None:
    config = config_of(flag(flag(tiny, "accumulate", 4), "batch_size", 8))
    require_shares(config, 8)
    with pytest.raises(UserError, match=r"more than 7 images, too few for --accumulate 4: .* 3$"):
        require_shares(config, 7)


def test_no_more_processes_are_started_than_the_smallest_part_of_a_batch_has_images_for(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for batch_size, accumulate, expected in ((16, 1, 4), (7, 2, 1), (8, 2, 2), (9, 4, 1)):
        more = ["--device", "auto", "--batch_size", str(batch_size)]
        config = config_of([*tiny, *more, "--accumulate", str(accumulate)])
        assert config.processes == expected
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world", lambda count=expected: count)
            require_images(config)
