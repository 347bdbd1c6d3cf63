import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mae.config.probe_sections import LinearProbeConfig, ProbeConfig
from mae.probing import pieces
from mae.probing.linear import fit_logistic, lbfgs_predict, principal_axes
from mae.probing.pieces import Rows
from mae.probing.subject import holdout
from mae.runtime.interruption import StoppableTask, StopRequest
from mae.runtime.progress import Silent

CPU = torch.device("cpu")


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes in 6 dimensions, whose means are large beside their deviations; in double precision."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    centres = torch.randn(4, 6, generator=draws)
    features = centres[labels] + torch.randn(300, 6, generator=draws)
    return (features * torch.tensor([1, 0.1, 10, 1, 1, 5]) + 100).double(), labels


@pytest.mark.parametrize("rows", [1, 7, 299, 300, 1000])
def test_pieces_of_any_size_give_the_fit_of_the_whole(rows: int, blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    whole = (blobs[0] - blobs[0].mean(0)) / blobs[0].std(0)
    split = whole.split(rows)
    variances, axes = principal_axes(split)
    assert torch.allclose(axes * variances @ axes.T, whole.T @ whole / 300, atol=1e-12)
    found = fit_logistic(split, blobs[1], 4, 1e-3, (variances, axes), lambda: None)
    exact = LogisticRegression(C=1 / (1e-3 * 300), tol=1e-12, max_iter=1000).fit(whole.numpy(), blobs[1].numpy())
    assert torch.allclose(found[:, :-1], torch.from_numpy(exact.coef_), atol=2e-5)


@pytest.mark.parametrize("kept", [0, 10**9])
def test_the_probe_finds_the_same_in_small_pieces(
    kept: int, blobs: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[list[int], dict[str, float]]:
        split, task = holdout(200, ProbeConfig(holdout_fraction=0.3)), StoppableTask(Silent(), StopRequest())
        features, labels = blobs
        predicted, chosen = lbfgs_predict(
            features[:200], labels[:200], features[200:], 4, LinearProbeConfig(), split, task
        )
        return predicted.tolist(), chosen

    expected = found()
    monkeypatch.setattr(pieces, "PIECE", 70)
    monkeypatch.setattr(pieces, "KEPT", kept)
    assert found() == expected


def test_rows_are_standardised_by_the_moments_of_all_of_them(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """In single precision, though the mean is a thousand deviations from 0."""
    features, chosen = blobs[0].float(), torch.arange(0, 300, 2)
    rows = Rows(features, chosen, 4, CPU)
    found = torch.cat([*rows.standardised(rows.moments())])
    exact = features[chosen].double()
    expected = (exact - exact.mean(0)) / (exact.var(0, unbiased=False) + 1e-6).sqrt()
    assert torch.allclose(found.double(), expected, atol=1e-3)
    assert torch.equal(features, blobs[0].float())  # other probes need them too


def test_pieces_and_their_logits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 100)
    features = torch.arange(50.0)[:, None].expand(-1, 6)
    parts = [*Rows(features, torch.tensor([*range(0, 50, 2)]), 4, CPU)]
    assert {len(part) for part in parts} == {10, 5}  # of 6 + 4 numbers each
    assert torch.cat(parts)[:, 0].tolist() == [*range(0, 50, 2)]


@pytest.mark.parametrize(("kept", "same"), [(59, False), (60, True)])
def test_only_small_sets_are_copied(kept: int, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "KEPT", kept)
    rows = Rows(torch.randn(20, 6), torch.arange(10), 4, CPU)
    made = rows.standardised(rows.moments())
    (first,), (again,) = made, made
    assert torch.equal(first, again)
    assert (first is again) == same


def test_a_fit_looks_for_a_stop_before_each_piece() -> None:
    seen: list[int] = []

    def check() -> None:
        if len(seen) == 3:
            raise InterruptedError
        seen.append(len(seen))

    features = torch.randn(40, 3)
    with pytest.raises(InterruptedError):
        fit_logistic(features.split(10), torch.arange(40) % 2, 2, 1.0, principal_axes([features]), check)
