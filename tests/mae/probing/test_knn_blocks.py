from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mae.probing import knn
from mae.probing.knn import knn_predict

sizes = st.integers(1, 30)


def plain(references: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """The vote as its definition has it, with all similarities at once; of 4 classes, at a temperature of 0.1."""
    similarity = F.normalize(queries, dim=1) @ F.normalize(references, dim=1).T
    nearest = similarity.argsort(dim=1, descending=True)[:, :k]
    weights = (similarity.gather(1, nearest) / 0.1).exp()
    return torch.einsum("qk,qkc->qc", weights, F.one_hot(labels[nearest], 4).to(weights)).argmax(1)


@settings(deadline=None)
@given(st.integers(0, 10**6), sizes, sizes, sizes, sizes, sizes, sizes, sizes)
def test_votes_do_not_depend_on_pieces_and_blocks(
    seed: int, count: int, asked: int, k: int, rows: int, query_rows: int, part: int, block: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    references, queries = (torch.randn(n, 3, generator=draws, dtype=torch.float64) for n in (count, asked))
    labels = torch.randint(0, 4, (count,), generator=draws)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "BLOCK", (part, block))
        found = knn_predict(references.split(rows), labels, queries.split(query_rows), k, 0.1, 4)
    assert found.tolist() == plain(references, labels, queries, k).tolist()


def test_similarities_are_bounded_and_a_stop_is_looked_for_before_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "BLOCK", (4, 20))
    sizes: list[tuple[int, ...]] = []
    nearer, checks = knn._nearer, []

    def watched(found: Any, similarity: torch.Tensor, *others: Any) -> Any:
        sizes.append(tuple(similarity.shape))
        assert len(checks) == len(sizes)
        return nearer(found, similarity, *others)

    monkeypatch.setattr(knn, "_nearer", watched)
    labels = torch.zeros(30, dtype=torch.int64)
    knn_predict([torch.randn(30, 3)], labels, [torch.randn(6, 3)], 2, 0.1, 4, lambda: checks.append(1))
    assert sizes == [(4, 20), (2, 20), (4, 10), (2, 10)]
