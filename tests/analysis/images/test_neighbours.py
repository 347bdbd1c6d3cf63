import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from analysis.images.neighbours import evenly, most_similar, neighbour_figure


@pytest.mark.parametrize("count", [1, 3, 9])
def test_neighbours_are_those_of_scikit_learn_without_the_image_itself(count: int) -> None:
    features = torch.randn(6, 5)
    found = most_similar(features, features, count, torch.arange(6))
    reference = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features)
    distances, indexes = reference.kneighbors(features)
    kept = min(count, 5)
    assert found.indexes.tolist() == indexes[:, 1 : 1 + kept].tolist()
    assert torch.allclose(found.similarity, 1 - torch.tensor(distances[:, 1 : 1 + kept]).float(), atol=1e-5)


def test_an_image_from_elsewhere_may_have_all_as_neighbours() -> None:
    features = torch.randn(4, 5)
    assert most_similar(features[:1], features, 9).indexes[0, 0] == 0
    assert most_similar(features[:1], features, 9).indexes.shape == (1, 4)


def test_rows_are_an_image_and_its_neighbours_with_captions() -> None:
    images = [torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8) for _ in range(2)]
    figure = neighbour_figure(images, [["a", "b", "c"], ["d", "e", "f"]])
    assert [axis.get_xlabel() for axis in figure.axes] == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(("count", "expected"), [(2, [0, 1]), (8, [*range(8)]), (15, [0, 2, 4, 6, 8, 10, 12, 14])])
def test_examples_are_far_from_each_other(count: int, expected: list[int]) -> None:
    assert evenly(count) == expected
