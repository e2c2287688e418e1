"""Self-training: what snapshots see of the training images becomes labels, for the next ones."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from active_learning.agreement import agree, gathered
from active_learning.cutting import by_colours, cut, overlap
from active_learning.looked import Looked
from config import Config
from datasets.augment import resize
from datasets.cache import ResizedImages
from datasets.training import Labels
from models.mean_maps import enlarged, mean_maps
from models.saliency_net import SaliencyNet
from models.stored import load_model
from utils.background import in_background
from utils.checkpoints import fingerprint
from utils.device import Machine
from utils.distributed import all_reduce_sum, shard
from utils.errors import UserError
from utils.files import state_if_there
from utils.run_folder import list_snapshots

CUT_SIZES = 256, 128
"""Largest side of the grid that is cut, and that of large sets, whose maps fill the memory."""

MOST_BYTES = 2**31
"""Most that all maps may take of the memory (32768 images at 256 pixels); else they are small."""


@dataclass(frozen=True)
class Taught:
    """Whose maps become pseudo labels, and how; see `config.Config`.

    Attributes:
        snapshots: most snapshots asked, the newest ones.
        side: of the images as the networks see them, in pixels.
        agree: whether the maps are brought into agreement with the answers.
        cut: whether they are then cut along the picture's edges, or else at one half.
        trust: least `overlap` of a map and its cut (or itself at one half, where nothing is cut)
            for that to be the label; with less, the label is the map as it was before colours. 0:
            it never is.
        colours: whether they are corrected by the picture's colours before they are cut.
        cut_by: how they are cut, smoothing or grabcut; see `active_learning.cutting.cut`.
    """

    snapshots: int
    side: int
    agree: bool = True
    cut: bool = True
    trust: float = 0.5
    colours: bool = True
    cut_by: str = "grabcut"

    @classmethod
    def of(cls, config: Config) -> Taught:
        """Return what the settings say."""
        return cls(
            snapshots=config.snapshots,
            side=enlarged(config.size, config.pseudo_scale),
            agree=config.pseudo_agree,
            cut=config.pseudo_cut,
            trust=config.pseudo_trust,
            colours=config.pseudo_colours,
            cut_by=config.pseudo_cut_by,
        )


def look_size(sizes: Iterable[tuple[int, int]], config: Config) -> int:
    """Return the side of the images that pseudo labels are made of, in pixels.

    With ``pseudo_finer`` it is as large as networks look at them, and as sets that are not large
    are cut; but no larger than the largest picture is. Else, and at least, it is that of the images
    that a training sees.

    Args:
        sizes: (width, height) of the pictures.
        config: the settings.
    """
    if not config.pseudo_finer:
        return config.size
    size = max(enlarged(config.size, config.pseudo_scale), CUT_SIZES[0])
    largest = max(map(max, sizes), default=size)
    return max(min(size, largest), config.size)


class Teacher:
    """Pseudo labels of the training images, from networks that learnt from points alone.

    They come from the snapshots of this training, the newest ones, as soon as there is one at the
    end of its first cycle (as the ensemble of one trajectory teaches in temporal ensembling, Laine
    and Aila, ICLR 2017), and until then from those of the training before, which know fewer
    answers. In the first cycle of the first round there are none. Where the training before knows
    the same answers, it teaches from beginning to end, for it is finished and this one is not (as
    in born-again networks, Furlanello et al., ICML 2018). The snapshots' mean map of an
    image and its mirror image is brought into agreement with the answers by `agree`, corrected by
    the picture's colours (`by_colours`) and cut along its edges (`cut`). Nothing but points,
    pictures and networks is looked at.

    Where corrected map and cut have little in common, the map is mostly of nothing, or of something
    else. Such an image has the map for a label as the answers left it, in its greys. (A loss may
    sharpen them: soft IoU does.)

    The images are looked at enlarged: random crops let objects look larger in training than they
    are, and a network finds them best at the size it knows (Touvron et al., NeurIPS 2019). In
    the pictures' own detail, that is, which a training does not see: what a small image blurs, the
    gap between two legs, would be labelled wrong in every image, and learnt.

    Args:
        images: the training images, of the side that `look_size` tells.
        labels: their points, on a grid of the images' size.
        pieces: places of the images in pieces of work, see `datasets.groups.images_apart`.
        batch_size: images looked at at a time.
        own: folder of this training's snapshots; None: they do not teach.
        earlier: folder of those of the training before, None in the first.
        how: what is done to the maps.

    Attributes:
        maps: uint8 (N, s, s), 255 for foreground, in memory that processes share; s is the images'
            size, one of `CUT_SIZES` at most.
        trusted: bool (N,), whose labels are cuts; the others' are grey maps.
        seen: the snapshots they were made by; empty: there are no pseudo labels yet.
    """

    def __init__(
        self,
        images: ResizedImages,
        labels: Labels,
        pieces: Sequence[Sequence[int]],
        batch_size: int,
        own: Path | None,
        earlier: Path | None,
        how: Taught,
    ) -> None:
        self.images, self.labels, self.pieces = images, labels, pieces
        self.batch_size, self.how = batch_size, how
        self.own, self.earlier = own, earlier
        large, small = CUT_SIZES
        fits = len(images) * min(images.size, large) ** 2 <= MOST_BYTES
        self.size = min(images.size, large if fits else small)
        shape = (len(images), self.size, self.size)
        self.maps = torch.zeros(shape, dtype=torch.uint8).share_memory_()
        self.trusted = torch.zeros(len(images), dtype=torch.bool)
        self.seen: list[Path] = []

    @property
    def knows_all(self) -> bool:
        """Whether the training before knows all the answers, and alone teaches throughout."""
        return self.own is None

    def look(self, epoch: int, machine: Machine, keep: Path | None = None) -> None:
        """Make the pseudo labels anew if there are snapshots that they do not know.

        Several processes share the work, and all have all the maps in the end.

        Args:
            epoch: whole epochs of this training; a later snapshot was left by an interrupted one.
            machine: where to compute.
            keep: folder where what is made is kept, image by image, and what an earlier look by the
                same snapshots has kept is not made again; None: nothing is.

        Raises:
            UserError: there are no own snapshots yet, and none of the training before; or their
                maps are not finite.
        """
        own = list_snapshots(self.own, epoch) if self.own else []
        earlier = list_snapshots(self.earlier) if self.earlier else []
        newest = (own or earlier)[-self.how.snapshots :]
        if self.earlier and not newest:
            raise UserError(
                f"{self.earlier}: no snapshots to make pseudo labels by: train the round before "
                "first"
            )
        if newest == self.seen:
            return
        self.seen = newest
        models = [load_model(path, machine)[0] for path in newest]
        self.maps.zero_()
        self.trusted.zero_()
        looked = Looked(keep, self._made_of(), self.size) if keep else None
        mine = shard(self.pieces)
        done = self._take(looked, mine) if looked else set()
        left = [piece for piece in mine if not done.issuperset(piece)]
        items = (item for item in self._agreed(models, machine, left) if item[0] not in done)
        for (index, *_), _ in in_background(self._label, items, self.batch_size):
            if looked:
                looked.add(index, bool(self.trusted[index]), self.maps[index].numpy())
        self.maps.copy_(all_reduce_sum(self.maps))
        self.trusted = all_reduce_sum(self.trusted.byte()).bool()

    def _made_of(self) -> bytes:
        """Return a hash of all that the labels depend on."""
        digest = hashlib.blake2b(self._data, digest_size=32)
        digest.update(repr((self.how, self.size, self.images.size)).encode())
        for path in self.seen:
            digest.update(fingerprint(path).encode())
        return digest.digest()

    @functools.cached_property
    def _data(self) -> bytes:
        """A hash of the pictures, as their files are, and of their answers."""
        digest = hashlib.blake2b(digest_size=32)
        for index, sample in enumerate(self.images.samples):
            # One that has gone is told when it is read.
            digest.update(repr((sample.name, state_if_there(sample.image))).encode())
            digest.update(self.labels.at(index, np.eye(3)))
        return digest.digest()

    def _take(self, looked: Looked, pieces: Sequence[Sequence[int]]) -> set[int]:
        """Take the labels that were kept of the images of some pieces; return their places."""
        wanted, done = {index for piece in pieces for index in piece}, set()
        for index, trusted, made in looked.found():
            if index in wanted:
                self.maps[index], self.trusted[index] = torch.tensor(made), trusted
                done.add(index)
        return done

    def _agreed(
        self, models: Sequence[SaliencyNet], machine: Machine, pieces: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each image's place, its pixels, its map as the answers have it, and its labels."""
        for found in mean_maps(
            models,
            self.images,
            pieces,
            self.batch_size,
            machine,
            mirrored=True,
            soft=True,
            side=self.how.side,
            with_features=self.how.agree,
        ):
            maps = found.maps
            labels = [self.labels.at(index, np.eye(3)) for index in found.indices]
            if not maps.isfinite().all():
                raise UserError(
                    f"{self.seen[-1].parent}: what its networks make of the training images is not "
                    "finite: the training diverged; train again with a lower --lr, or with "
                    "--precision fp32, in a new trial"
                )
            if found.features is not None:
                answers = torch.from_numpy(np.stack(labels)).to(maps.device)
                maps = agree(maps, found.features, found.images, answers)
            pixels = found.pixels.permute(0, 2, 3, 1).numpy()
            yield from zip(found.indices, pixels, maps.cpu().numpy(), labels, strict=True)

    def _label(self, index: int, image: np.ndarray, prob: np.ndarray, labels: np.ndarray) -> None:
        """Make the label of an image (S, S, 3) from its map (S, S) and answers (2, S, S)."""
        image, prob = resize(image, self.size), resize(prob, self.size)
        corrected = by_colours(image, prob) if self.how.colours else prob
        if self.how.cut:
            answers = gathered(torch.from_numpy(labels), (self.size, self.size)).numpy()
            made = cut(image, corrected, answers, self.how.cut_by, seed=index)
        else:
            made = np.uint8(255) * (corrected > 0.5)
        trusted = overlap(corrected, made > 0) >= self.how.trust
        if not trusted:
            made = np.round(255 * prob).astype(np.uint8)
        self.maps[index], self.trusted[index] = torch.from_numpy(made), trusted
