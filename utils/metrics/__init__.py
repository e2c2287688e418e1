"""Scores of saliency maps, from what `tally` counts in each map.

Scoring has two halves. `tally` looks at the pixels of one map and its mask once and leaves 2 kB;
`SetScores`, `each_image`, `curves` and `paired_bootstrap` make everything else of tallies. How
to count is a `Convention`. Of the three, "pysodmetrics" is the project's own.

All conventions
    A map is 8-bit, of the mask's size. An 8-bit mask is foreground where it is > 128 (half range,
    >= 128, would differ only at the grey value 128); a Boolean mask is taken as it is.

    Curves: at each threshold, from the highest to the lowest, the pixels at or above it are found.
    precision, recall; F with beta^2 = 0.3; fpr, the share of the background found; E; IoU, Dice,
    BER = 1 - (recall + 1 - fpr) / 2. maxF, maxE, maxIoU and maxDice are the largest values of the
    curve *averaged over the images* (one threshold for the whole set), meanF and meanE its mean.
    AP and AUC are areas under averaged curves: AP that of precision against recall in the manner of
    VOC 2010 (precision at a recall is the best at that or a higher recall), AUC that of recall
    against fpr by trapezia, in the order of the thresholds.

    adpF, adpE: F and E at the adaptive threshold, twice the mean of the stretched map and at most
    1. IoU, Dice, BER: at one half of the stretched map. Both are compared in integers, so that a
    tie counts as found always. BIoU: IoU of the boundaries at one half, as wide as 2 % of the
    diagonal. These, S, wF and MAE are means over the images. One half lies between two thresholds
    of a curve, so IoU can exceed maxIoU a little.

    Empty mask: recall, precision, F, wF, IoU, Dice and AP of the image are 0, S is one minus the
    mean of the map, BER is 1/2 where nothing is found and 1 where all is. Full mask: fpr is 0, S
    the mean of the map, BER one minus half the recall. IoU and Dice are 0 where mask and map are
    both empty, BIoU is 1 where both boundaries are. E divides by pixels - 1, so it can exceed 1 a
    little; in an image of one pixel it divides by 1.

pysodmetrics (PySODMetrics 1.6)
    Every metric sees each map stretched to span [0, 1]; a constant map is only divided by 255.
    The stretched map, times 255 and truncated, is compared with the thresholds 255, 254 ... 0. E is
    the share of background left alone for an empty mask, of foreground found for a full one
    (over pixels - 1). S: the centroid's row and column belong to the upper left quadrant.
    PySODMetrics has no AP and AUC; here the ROC curve is closed by (0, 0) and (1, 1), so that an
    image's AUC is 0 for an empty and 1 for a full mask.

    Not followed: where the centroid lies in the last row or column its S is NaN, for a quadrant is
    empty; here an empty quadrant weighs nothing. Its E of an image of one pixel divides by 2e-16.
    Its IoU, Dice and BER of one binary map find what is > 0.5 (not >=), which differs where a pixel
    is worth one half exactly. Its adaptive threshold is a rounded mean, so that rounding decides
    its ties.

raw
    As "pysodmetrics", but no map is stretched: grey values are divided by 255.

eval-co-sod (github.com/zzhanghub/eval-co-sod, the tool behind GCoNet's tables)
    MAE sees the map as it is; all others see it stretched, in single precision, a constant map as 0
    throughout. 255 thresholds in even steps from 0 to 1, in single precision, `>=`: the highest
    value of a map that is not constant is found at all of them. E follows the general formula for
    every mask, so an empty or full one gives pixels / 4 / (pixels - 1) whatever the map. The ROC
    curve is not closed: AUC lacks what lies left of the highest threshold. S: the centroid's row
    and column belong to the lower right quadrant.

    Not followed: it takes grey masks as they are (S alone makes them binary, at >= 0.5); it works
    in single precision throughout, which is the sixth decimal; the S of a class of one pixel is NaN
    there, and its order of equal fpr depends on the sort. adpF, adpE, wF, IoU, Dice, BER and BIoU
    do not exist there: they are the project's own on that stretched map.

Others, for comparing with published numbers
    GCoNet+'s evaluator is eval-co-sod's, but where S stays below a bound of the data set it tells
    S alone (MAE 1, the others 0). F3Net's MATLAB code stretches for MAE too, makes maxF of the
    averaged precision and recall (not of averaged F), gives F and E at the adaptive threshold (E by
    `>`, its threshold not limited to 1), and where map or mask is black adds nothing to any sum but
    counts the image.

Sources: F-measure, Achanta et al., CVPR 2009; weighted F, Margolin et al., CVPR 2014; S-measure,
Fan et al., ICCV 2017; E-measure, Fan et al., IJCAI 2018; MAE, Perazzi et al., CVPR 2012; AP,
Everingham et al., IJCV 2010, and the devkit of 2010; boundary IoU, Cheng et al., CVPR 2021.
"""

from utils.metrics.bootstrap import Comparison, paired_bootstrap, paired_means
from utils.metrics.conventions import CONVENTIONS, Convention
from utils.metrics.points import POINT_METRICS, point_scores, point_tally
from utils.metrics.summary import (
    LOWER_IS_BETTER,
    METRICS,
    SHOWN,
    USUAL,
    SetScores,
    each_image,
    parts_of,
)
from utils.metrics.tally import PARTS, TALLY, tally
from utils.metrics.thresholds import Curves, curves

__all__ = [
    "CONVENTIONS",
    "LOWER_IS_BETTER",
    "METRICS",
    "PARTS",
    "POINT_METRICS",
    "SHOWN",
    "TALLY",
    "USUAL",
    "Comparison",
    "Convention",
    "Curves",
    "SetScores",
    "curves",
    "each_image",
    "paired_bootstrap",
    "paired_means",
    "parts_of",
    "point_scores",
    "point_tally",
    "tally",
]
