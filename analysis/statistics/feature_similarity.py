"""How alike features of the same images are: linear CKA (Kornblith et al., 2019, 1905.00414), without bias.

CKA is the cosine of two centred matrices of inner products between images. Centred as usual it is above 0 for
independent features, and more so the wider they are: of 300 images, 0.4 for two noises of 200 numbers. Here HSIC is the
unbiased estimator (Song et al., 2012, JMLR 13, equation 5), as Nguyen et al. (2021, 2010.15327) use it: independent
features have 0 on average, and single values may be below.
"""

import numpy as np

FEWEST = 4
"""Images that the estimator needs."""


def similarities(features: list[np.ndarray]) -> np.ndarray:
    """Return the linear CKA (k, k) of each two of k feature matrices (n, D_i) of the same n images.

    It is 1 for features that are the same up to rotation, one common scale and shift, and NaN where those of all images
    are equal: a collapsed encoder. `ValueError` for fewer than 4 images, or matrices of different numbers of them.
    """
    count = len(features[0])
    if count < FEWEST or any(len(each) != count for each in features):
        sizes = ", ".join(str(len(each)) for each in features)
        raise ValueError(f"expected features of the same {FEWEST} images or more; found {sizes}")
    directions = np.stack([_direction(each) for each in features])
    return np.clip(directions @ directions.T, -1, 1)


def _direction(features: np.ndarray) -> np.ndarray:
    """Return the centred inner products of features (n, D) as one vector (n * n,) of length 1.

    They are U-centred: the product of two such matrices, summed, is n (n - 3) times the unbiased HSIC.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    products = centred @ centred.T
    scale = np.trace(products)
    np.fill_diagonal(products, 0)
    count, sums = len(products), products.sum(axis=0)
    products -= (sums[:, None] + sums) / (count - 2) - sums.sum() / ((count - 1) * (count - 2))
    np.fill_diagonal(products, 0)
    length = np.linalg.norm(products)
    collapsed = scale <= 1e-12 * count * np.square(features, dtype=np.float64).max(initial=0) or not length
    return np.full(products.size, np.nan) if collapsed else products.ravel() / length
