"""Two processes that share a batch find what one process with the whole batch finds."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.batch_norm import BatchNorm
from mae.runtime.distributed import launched
from mae.runtime.gathering import gathered, mean_of_all, places
from tests.helpers.commands import Group


class Contrast(nn.Module):
    """A layer, a batch norm, and a loss with the other images of the batch in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Linear(5, 8), BatchNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        features = F.normalize(self.norm(self.layer(images)), dim=1)
        others = gathered(features.roll(1, dims=1))
        return F.cross_entropy(features @ others.T / 0.2, places(features))


def images() -> Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 13)[:, None]


def training(told: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Compute a loss and its gradients with the other processes; write them."""
    os.environ.update(environment)
    processes, device = launched(), torch.device("cpu")
    with processes.joined(device):
        model = Contrast()
        parallel = processes.parallel(model, device)
        loss = parallel(images()[processes.part(12)])
        loss.backward()
        told.write_text(json.dumps([mean_of_all(loss.detach()).item(), gradients_of(model)]))


def gradients_of(model: nn.Module) -> list[float]:
    return [
        value
        for parameter in model.parameters()
        if parameter.grad is not None
        for value in parameter.grad.flatten().tolist()
    ]


def test_loss_and_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    model = Contrast()
    loss = model(images())
    loss.backward()
    group = Group(tmp_path, [[]] * 2, training, training)
    codes, said = group.wait()
    assert codes == [0, 0], said
    for told in said:
        found, gradients = json.loads(told)
        assert found == pytest.approx(loss.item(), rel=1e-6)
        assert gradients == pytest.approx(gradients_of(model), rel=1e-4, abs=1e-6)


def alone(told: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """In process 0 alone, draw a picture and count costs; then meet the other one."""
    os.environ.update(environment)
    processes = launched()
    with processes.joined(torch.device("cpu")):
        shapes = []
        if processes.leads:
            with torch.inference_mode():
                shapes.append(list(gathered(images()).shape))
            shapes.append(list(gathered(images().to("meta")).shape))
        told.write_text(json.dumps([shapes, processes.gather(processes.rank)]))


def test_process_0_waits_for_nobody_in_inference_and_without_numbers(tmp_path: Path) -> None:
    codes, said = Group(tmp_path, [[]] * 2, alone, alone).wait()
    assert codes == [0, 0], said
    assert json.loads(said[0]) == [[[12, 5], [12, 5]], [0, 1]]


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_pytorchs_in_training(affine: bool) -> None:
    ours, theirs = BatchNorm(5, affine), nn.BatchNorm1d(5, affine=affine)
    values = images()
    if affine:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.data = other.data = torch.randn(5)
    assert torch.allclose(ours(values), theirs(values), atol=1e-5)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
