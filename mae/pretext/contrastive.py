"""What tasks share that compare views: similarities to the keys of a whole batch, and heads with batch norm."""

from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.batch_norm import BatchNorm
from mae.runtime.autocast import full
from mae.runtime.gathering import gathered, places


def normalised(vectors: Tensor) -> Tensor:
    """Return vectors (B, D) of length 1, float32."""
    return F.normalize(vectors.float(), dim=1)


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE (van den Oord et al., 2018) of queries against the keys of the batch's images, of all processes.

    Queries and keys (B, D) are of length 1, row by row those of the same image; the keys' gradient, if they have one,
    goes to the process that made them. Also returns in percent how often the greatest similarity is the right one.
    """
    with full(queries.device):  # similarities are no less exact under mixed precision
        logits = queries @ gathered(keys).T / temperature
    labels = places(queries)
    return F.cross_entropy(logits, labels), share_right(logits, labels)


def share_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return in percent in how many rows of logits (B, K) the greatest is at the label (B,)."""
    return 100 * (logits.argmax(dim=1) == labels).float().mean()


def perceptron(inputs: int, hidden: int, outputs: int, layers: int, closing_norm: bool = True) -> nn.Sequential:
    """Return an MLP with batch norm after each hidden layer and, without affine, after the last one if it is closing.

    SimSiam's projector has 3 layers, as MoCo v3's; the predictors of both have 2, SimSiam's without a closing norm.
    """
    widths = [inputs, *[hidden] * (layers - 1)]
    parts: list[nn.Module] = []
    for width in widths[:-1]:
        parts += [nn.Linear(width, hidden, bias=False), BatchNorm(hidden), nn.ReLU()]
    parts.append(nn.Linear(widths[-1], outputs, bias=not closing_norm))
    return nn.Sequential(*parts, *([BatchNorm(outputs, affine=False)] if closing_norm else []))
