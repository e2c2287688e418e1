"""Scores of saliency maps: MAE, F-, weighted F-, S- and E-measure, equal to PySODMetrics 1.6.

Conventions, all of them PySODMetrics' own:

- A saliency map is 8-bit. Each map is first stretched to span [0, 1] (min-max normalisation of
  its own values); a constant map is only divided by 255.
- An 8-bit mask is foreground where it is > 128 (half range, >= 128, would differ only at the grey
  value 128). A Boolean mask is taken as it is.
- A threshold metric binarises the stretched map, times 255 and truncated to an integer, by
  ``>= t`` for 256 thresholds. Curves run from t = 255 down to t = 0, as in `THRESHOLDS`.
- The adaptive threshold is min(2 x mean of the stretched map, 1).
- maxF and maxE are the maxima of the curve *averaged over the images* (one threshold for the whole
  set), meanF and meanE its mean; the other scores are plain means over the images.

Two faults of PySODMetrics are not followed. Where the centroid of the mask lies in the last row or
column (always so in an image of one row or column), its S-measure is NaN, for a quadrant is empty;
here an empty quadrant weighs nothing. In an image of one pixel its E-measure divides by 2e-16;
here by 1.

Degenerate masks: with an empty mask F, weighted F, precision and recall are 0, S is one minus the
mean of the map and E the share of background pixels found; with a full mask S is the mean of the
map and E the share of foreground pixels found. E divides by pixels - 1, so it can exceed 1 a
little.

Sources: F-measure, Achanta et al., CVPR 2009; weighted F, Margolin et al., CVPR 2014; S-measure,
Fan et al., ICCV 2017; E-measure, Fan et al., IJCAI 2018; MAE, Perazzi et al., CVPR 2012.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from utils.errors import UserError

METRICS = ("maxF", "meanF", "adpF", "wF", "S", "maxE", "meanE", "adpE", "MAE")
"""Names of the scores, in the order of every table."""

THRESHOLDS = np.arange(255, -1, -1)
"""The threshold of each entry of a curve."""

BETA_SQUARED = 0.3  # of the F-measure: precision counts more than recall
ALPHA = 0.5  # of the S-measure: share of the object term

_EPS = np.spacing(1.0)
_GAUSS_RADIUS = 3
_GAUSS = np.exp(-(np.arange(-_GAUSS_RADIUS, _GAUSS_RADIUS + 1) ** 2) / (2 * 5.0**2))
_GAUSS /= _GAUSS.sum()

Floats = NDArray[np.float64]
Region = tuple[slice, slice]


class ImageScores(NamedTuple):
    """The scores of one map; a curve is float64 [256], from threshold 255 down to 0."""

    mae: float
    adp_f: float
    wf: float
    s: float
    adp_e: float
    f_curve: Floats
    e_curve: Floats
    precision: Floats
    recall: Floats


class SaliencyScores:
    """Scores of a set of maps, each image counting the same.

    Attributes:
        images: number of maps scored so far.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums: ImageScores | None = None

    def update(self, pred: NDArray[np.uint8], mask: NDArray[np.bool_ | np.uint8]) -> None:
        """Score one map against its mask, see `image_scores`, and add it to the set."""
        self.add(image_scores(pred, mask))

    def add(self, scores: ImageScores) -> None:
        """Add the scores of one map, made elsewhere (in another process, say)."""
        if self._sums is not None:
            pairs = zip(self._sums, scores, strict=True)
            scores = ImageScores(*(total + new for total, new in pairs))
        self._sums = scores
        self.images += 1

    def mean(self) -> ImageScores:
        """Return scores and curves averaged over the images.

        Raises:
            UserError: no image was scored.
        """
        if self._sums is None:
            raise UserError("no saliency map was scored: check that maps and masks were found")
        return ImageScores(*(total / self.images for total in self._sums))

    def result(self) -> dict[str, float]:
        """Return the set's scores under the names in `METRICS`; maxF is of the averaged curve.

        Raises:
            UserError: no image was scored.
        """
        mean = self.mean()
        values = (
            mean.f_curve.max(),
            mean.f_curve.mean(),
            mean.adp_f,
            mean.wf,
            mean.s,
            mean.e_curve.max(),
            mean.e_curve.mean(),
            mean.adp_e,
            mean.mae,
        )
        return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def image_scores(pred: NDArray[np.uint8], mask: NDArray[np.bool_ | np.uint8]) -> ImageScores:
    """Score one saliency map against its mask.

    Args:
        pred: saliency map, uint8 [H, W].
        mask: true mask of the same size, bool or uint8 (foreground where > 128).

    Raises:
        UserError: the sizes differ, an array is empty or not of two dimensions, or an 8-bit mask
            holds only 0 and 1.
        TypeError: an array is of another dtype.
    """
    mask = _checked_mask(pred, mask)
    levels = _stretched_levels(int(pred.min()), int(pred.max()))
    saliency = levels[pred]
    regions = _quadrants(mask)
    keys = mask.astype(np.intp) << 8
    keys += pred
    by_region = [np.bincount(keys[r].ravel(), minlength=512).reshape(2, 256) for r in regions]
    counts = np.sum(by_region, axis=0)
    background, foreground = counts.astype(np.float64)
    positives, pixels = int(counts[1].sum()), mask.size

    bins = (levels * 255).astype(np.uint8)
    threshold = min(2 * saliency.mean(), 1.0)
    true, false = _positives_over_thresholds(bins, levels >= threshold, counts)
    precision, recall, f = _f_measure(true, false, positives)
    e = _e_measure(true, false, positives, pixels)
    return ImageScores(
        mae=float((background @ levels + foreground @ (1 - levels)) / pixels),
        adp_f=float(f[256]),
        wf=_weighted_f(saliency, mask, positives),
        s=_s_measure(saliency, levels, regions, by_region),
        adp_e=float(e[256]),
        f_curve=f[:256],
        e_curve=e[:256],
        precision=precision[:256],
        recall=recall[:256],
    )


def point_scores(values: NDArray[np.uint8], labels: NDArray[np.integer]) -> dict[str, float]:
    """Score the saliency read at labelled points, pooled over all images.

    For a validation split that is known only by its labelled points. When the points are random
    pixels, equally many in each image, MAE is an unbiased estimate of the dense MAE of the maps as
    they are. The F-scores estimate, without bias in the limit of many points, the F-measure of all
    pixels thrown together, which is not the mean of the images' own F-measures. A map's minimum
    and maximum are unknown here, so nothing is stretched, and the adaptive threshold is taken
    from the pooled values. Points chosen by a query are no random pixels: their scores rank
    models on those points only.

    Without a foreground point every F is 0; without a background point maxF is 1 (reached at
    threshold 0), and precision is 1 wherever a point is found.

    Args:
        values: saliency at the points, uint8 [N].
        labels: 0 (background) or 1 (foreground), [N].

    Returns:
        maxF, meanF, adpF and MAE.

    Raises:
        UserError: there is no point, the lengths differ, or a label is neither 0 nor 1.
        TypeError: ``values`` is not uint8.
    """
    if values.dtype != np.uint8:
        raise TypeError(f"saliency at points must be uint8, not {values.dtype}")
    if values.shape != labels.shape or values.ndim != 1:
        raise UserError(
            f"{values.shape} saliency values for {labels.shape} labels: give one value a point"
        )
    if values.size == 0:
        raise UserError("no labelled point to score: check the points file of the split")
    foreground = labels == 1
    if not np.all(foreground | (labels == 0)):
        wrong = labels[~foreground & (labels != 0)][0]
        raise UserError(f"point label {wrong} is neither 0 nor 1: leave out skipped points")
    levels = np.arange(256) / 255
    counts = np.bincount(foreground.astype(np.intp) * 256 + values, minlength=512).reshape(2, 256)
    threshold = min(2 * levels[values].mean(), 1.0)
    true, false = _positives_over_thresholds(np.arange(256), levels >= threshold, counts)
    _, _, f = _f_measure(true, false, int(counts[1].sum()))
    mae = (counts[0] @ levels + counts[1] @ (1 - levels)) / values.size
    return {
        "maxF": float(f[:256].max()),
        "meanF": float(f[:256].mean()),
        "adpF": float(f[256]),
        "MAE": float(mae),
    }


def _checked_mask(pred: NDArray, mask: NDArray) -> NDArray[np.bool_]:
    """Return the mask as Boolean, after checking the pair."""
    if pred.shape != mask.shape:
        raise UserError(
            f"saliency map is {_size(pred)} but its mask is {_size(mask)}: "
            "resize the map to the mask's size"
        )
    if pred.ndim != 2 or pred.size == 0:
        raise UserError(
            f"saliency map and mask are {_size(pred)}: give non-empty grey images, height x width"
        )
    if pred.dtype != np.uint8:
        raise TypeError(f"saliency map must be uint8, not {pred.dtype}")
    if mask.dtype == np.bool_:
        return mask
    if mask.dtype != np.uint8:
        raise TypeError(f"mask must be bool or uint8, not {mask.dtype}")
    if mask.max() == 1:
        raise UserError("the mask's values are 0 and 1, all background on a scale to 255: use bool")
    return mask > 128


def _size(image: NDArray) -> str:
    return " x ".join(map(str, image.shape))


def _stretched_levels(lowest: int, highest: int) -> Floats:
    """Return the saliency in [0, 1] of each 8-bit value within [lowest, highest], float64 [256].

    Values out of that range do not occur in the map. The divisions are those of PySODMetrics, in
    its order, so that truncation to 256 bins falls the same way.
    """
    levels = np.arange(256) / 255
    if lowest != highest:
        levels = (levels - levels[lowest]) / (levels[highest] - levels[lowest])
    return levels.clip(0, 1)


def _positives_over_thresholds(
    bins: NDArray, adaptive: NDArray[np.bool_], counts: NDArray
) -> tuple[Floats, Floats]:
    """Count true and false positives for each of `THRESHOLDS`, then for the adaptive one.

    Args:
        bins: the integer in 0..255 that is compared with the thresholds, of each grey value [256].
        adaptive: whether a grey value reaches the adaptive threshold, [256].
        counts: pixels of each grey value, background and foreground, [2, 256].

    Returns:
        Two float64 [257].
    """
    found = []
    for histogram in (counts[1], counts[0]):
        binned = np.bincount(bins, weights=histogram, minlength=256)
        found.append(np.append(np.cumsum(binned[::-1]), histogram[adaptive].sum()))
    return found[0], found[1]


def _f_measure(true: Floats, false: Floats, positives: int) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F (Achanta et al., eq. 6); 0 where nothing true is found."""
    precision = true / np.maximum(true + false, 1)
    recall = true / max(positives, 1)
    weighted = BETA_SQUARED * precision + recall
    f = (1 + BETA_SQUARED) * precision * recall / np.where(true == 0, 1, weighted)
    return precision, recall, f


def _e_measure(true: Floats, false: Floats, positives: int, pixels: int) -> Floats:
    """Return the E-measure (Fan et al. 2018, eq. 5) of binary maps given by their counts.

    The alignment of a pixel depends only on its value in map and mask, so four counts and four
    values stand for the sum over pixels.
    """
    found = true + false
    if positives == 0:
        total = pixels - found
    elif positives == pixels:
        total = found
    else:
        map_mean, mask_mean = found / pixels, positives / pixels
        missed = positives - true
        parts = (
            (true, 1 - map_mean, 1 - mask_mean),
            (false, 1 - map_mean, -mask_mean),
            (missed, -map_mean, 1 - mask_mean),
            (pixels - found - missed, -map_mean, -mask_mean),
        )
        total = np.zeros_like(found)
        for number, a, b in parts:
            total += number * (2 * a * b / (a * a + b * b + _EPS) + 1) ** 2 / 4
    return total / max(pixels - 1, 1)


def _quadrants(mask: NDArray[np.bool_]) -> list[Region]:
    """Return the four parts of the image about the mask's centroid, which belongs to the first.

    For an empty mask the first part is the whole image.
    """
    height, width = mask.shape
    by_row, by_column = np.count_nonzero(mask, axis=1), np.count_nonzero(mask, axis=0)
    positives = by_row.sum()
    row, column = height, width
    if positives:
        row = round(float(by_row @ np.arange(height) / positives)) + 1
        column = round(float(by_column @ np.arange(width) / positives)) + 1
    upper, lower = slice(0, row), slice(row, height)
    left, right = slice(0, column), slice(column, width)
    return [(upper, left), (upper, right), (lower, left), (lower, right)]


def _s_measure(
    saliency: Floats, levels: Floats, regions: list[Region], by_region: list[NDArray]
) -> float:
    """Return the S-measure (Fan et al. 2017, eq. 2): objects' and regions' likeness.

    Args:
        saliency: stretched map, [H, W].
        levels: stretched saliency of each grey value, [256].
        regions: the four quadrants, see `_quadrants`.
        by_region: pixels of each grey value, background and foreground, [2, 256] each.
    """
    pixels = saliency.size
    background, foreground = np.sum(by_region, axis=0)
    share = foreground.sum() / pixels
    if share == 0:
        return float(1 - saliency.mean())
    if share == 1:
        return float(saliency.mean())
    objects = share * _object_likeness(levels, foreground)
    objects += (1 - share) * _object_likeness(1 - levels, background)
    alike = 0.0
    for region, counts in zip(regions, by_region, strict=True):
        if number := counts.sum():
            # The pixels' own mean, not the histogram's: on a constant quadrant without a border
            # the outcome is 1 or 0 with the last bit of the mean, and PySODMetrics' bit is wanted.
            mean = saliency[region].mean()
            alike += number / pixels * _region_likeness(mean, levels, *counts)
    return max(0.0, float(ALPHA * objects + (1 - ALPHA) * alike))


def _object_likeness(levels: Floats, counts: NDArray) -> float:
    """Return the likeness of the values to a constant 1 (Fan et al. 2017, eq. 4 to 6)."""
    number = counts.sum()
    mean = counts @ levels / number
    spread = np.sqrt(counts @ (levels - mean) ** 2 / max(number - 1, 1))
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _region_likeness(
    mean: float, levels: Floats, background: NDArray, foreground: NDArray
) -> float:
    """Return the structural similarity of map and mask in one quadrant (Fan et al. 2017, eq. 1)."""
    number = background.sum() + foreground.sum()
    share = foreground.sum() / number
    offset = levels - mean
    freedom = number - 1 + _EPS
    map_variance = (background + foreground) @ offset**2 / freedom
    mask_variance = number * share * (1 - share) / freedom
    covariance = ((1 - share) * foreground - share * background) @ offset / freedom
    above = 4 * mean * share * covariance
    below = (mean**2 + share**2) * (map_variance + mask_variance)
    if above != 0:
        return above / (below + _EPS)
    return float(below == 0)


def _weighted_f(saliency: Floats, mask: NDArray[np.bool_], positives: int) -> float:
    """Return the weighted F-measure with beta 1 (Margolin et al., eq. 8 to 12)."""
    if positives == 0:
        return 0.0
    missed = _foreground_errors(saliency, mask).sum()
    false = 0.0
    if positives < mask.size:
        distance = cv2.distanceTransform(
            (~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
        )[~mask]
        # OpenCV's last bits vary from run to run. Squared distances are integers, so they mend it.
        distance = np.sqrt(np.rint(distance.astype(np.float64) ** 2))
        # A false alarm weighs up to twice as much with its distance from the object.
        false = saliency[~mask] @ (2 - np.exp(np.log(0.5) / 5 * distance))
    recall = 1 - missed / positives
    true = positives - missed
    precision = true / (true + false + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))


def _foreground_errors(saliency: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return the errors of the foreground pixels, lessened where the neighbours' are smaller.

    An error counts as the smaller of itself and its Gaussian mean (7 x 7, sigma 5), for which a
    background pixel takes the error of the nearest foreground pixel. Only the foreground's bounding
    box and a border as wide as the Gaussian's radius can matter.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = tuple(
        slice(max(int(ends[0]) - _GAUSS_RADIUS, 0), int(ends[-1]) + 1 + _GAUSS_RADIUS)
        for ends in (rows, columns)
    )
    inside = mask[box]
    error = 1 - saliency[box]
    # SciPy's choice among equally near pixels shows in the score; OpenCV's is another.
    row, column = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    spread = error[row, column]
    smooth = cv2.sepFilter2D(spread, cv2.CV_64F, _GAUSS, _GAUSS, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(error[inside], smooth[inside])
