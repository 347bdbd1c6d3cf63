import itertools

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from analysis.statistics.feature_similarity import similarities
from analysis.studies.encoded_images import EncodedImages
from analysis.studies.feature_figures import (
    NEIGHBOURS,
    neighbour_figure,
    neighbours_of,
    queries_of,
    similarity_figure,
    task_similarities,
)

DRAWS = np.random.default_rng(0)
BASE = DRAWS.normal(size=(30, 6))


def noisy(amount: float, base: np.ndarray = BASE) -> np.ndarray:
    return base + amount * DRAWS.normal(size=base.shape)


FEATURES = {
    ("a", 0): noisy(0.5), ("a", 1): noisy(0.5), ("far", 0): DRAWS.normal(size=(30, 6)),
    ("far", 1): DRAWS.normal(size=(30, 6)), ("b", 0): noisy(0.6), ("b", 1): noisy(0.6),
}  # fmt: skip


def test_neighbours_are_those_of_scikit_learn_without_the_image_itself() -> None:
    expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(BASE).kneighbors(return_distance=False)
    assert neighbours_of(BASE, 5).tolist() == expected.tolist()


def test_asked_for_are_images_of_different_classes() -> None:
    labels = np.array([3, 3, 0, 1, 2, 0])
    assert labels[queries_of(labels, 3)].tolist() == [0, 2, 3]
    assert queries_of(np.zeros(4), 3) == [0]


def test_a_row_per_task_and_one_of_pixels_frames_neighbours_of_the_same_class() -> None:
    labels = np.arange(30) % 3
    own = np.eye(3)[labels] + 0.01 * BASE[:, :3]  # features that tell the classes
    encoded = EncodedImages(DRAWS.uniform(size=(30, 4, 4, 1)), labels, BASE, {("a", 0): own, ("a", 1): -own})
    figure = neighbour_figure(encoded)
    words = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert words[:2] == ["image", "a, 100 %"]
    assert words[2].startswith("raw pixels, ")
    framed = [panel.spines["top"].get_visible() for panel in figure.axes if panel.images]
    assert framed[: 3 + 3 * NEIGHBOURS] == [False] * 3 + [True] * 3 * NEIGHBOURS
    assert not all(framed[3 + 3 * NEIGHBOURS :])


def test_similarities_are_means_over_pairs_of_different_seeds_and_the_diagonal_is_of_one_task() -> None:
    means = task_similarities(FEATURES)
    for one, other in itertools.product(("a", "b", "far"), repeat=2):
        pairs = [
            similarities([FEATURES[one, first], FEATURES[other, second]])[0, 1] for first, second in ((0, 1), (1, 0))
        ]
        assert means.loc[one, other] == pytest.approx(np.mean(pairs))
    assert means.loc["a", "a"] < 1


def test_alike_tasks_are_beside_one_another() -> None:
    assert "".join(task_similarities(FEATURES).index) in ("abfar", "bafar", "farab", "farba")


def test_with_one_seed_the_diagonal_is_unknown() -> None:
    means = task_similarities({key: value for key, value in FEATURES.items() if key[1] == 0})
    assert np.isnan(np.diag(means)).all()
    assert means.loc["a", "b"] == pytest.approx(similarities([FEATURES["a", 0], FEATURES["b", 0]])[0, 1])


def test_a_collapsed_task_is_empty_and_the_others_stay() -> None:
    means = task_similarities(FEATURES | {("flat", seed): np.ones((30, 6)) for seed in (0, 1)})
    assert means.loc["flat"].isna().all()
    assert means.drop("flat").drop(columns="flat").notna().all(axis=None)
    texts = [text.get_text() for text in similarity_figure(means).axes[0].texts]
    assert texts.count("") == 7
