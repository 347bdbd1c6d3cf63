"""Fine-tuning of the encoder with a linear classifier, all of it or its last blocks (section 4.3, Table 9, Fig. 9)."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mae.config.probe_sections import FinetuneProbeConfig
from mae.models.vit import ViT, pool
from mae.probing.subject import Setup, Subject
from mae.probing.tuning import Learner, Look, fit_and_predict

Stage = Callable[[Tensor], Tensor]


def attend(block: Any, tokens: Tensor) -> Tensor:
    """Return tokens (B, n, D) after a block's first half."""
    result: Tensor = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
    return result


def transform(block: Any, tokens: Tensor) -> Tensor:
    """Return tokens (B, n, D) after a block's second half, its MLP."""
    result: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return result


class Tuned(Learner):
    """A copy of an encoder with a linear classifier on its pooled tokens, of which the last blocks are trained.

    `blocks` of them: 0 trains the classifier alone, behind batch norm without affine as in linear probing; 0.5 the last
    block's MLP too, 1 the last block ..., and as many as there are, or more, the whole encoder.
    """

    def __init__(
        self, encoder: ViT, look: Look, blocks: float, features: str, classes: int, recipe: FinetuneProbeConfig
    ) -> None:
        super().__init__(look)
        self.encoder, self.features, self.recipe = deepcopy(encoder), features, recipe
        depth, width = len(encoder.blocks), self.encoder.cls_token.shape[2] * (2 if features == "both" else 1)
        self.frozen = blocks < depth
        self.before, self.after = _cut(self.encoder, blocks)
        self.encoder.requires_grad_(False)
        for part in _trained(self.encoder, blocks):
            part.requires_grad_(True)
        for place, block in enumerate(self.encoder.blocks):
            rate = recipe.drop_path * place / max(1, depth - 1)
            if rate and depth - place <= blocks:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
        self.standardise = nn.BatchNorm1d(width, affine=False, eps=1e-6) if blocks == 0 else nn.Identity()
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01 if blocks == 0 else 2e-5)  # as the official release starts
        nn.init.zeros_(self.head.bias)

    def front(self, seen: Tensor) -> Tensor:
        for stage in self.before:
            seen = stage(seen)
        return seen

    def forward(self, entering: Tensor) -> Tensor:
        for stage in self.after:
            entering = stage(entering)
        logits: Tensor = self.head(self.standardise(pool(entering, self.features)))
        return logits

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the layers as timm asks for them: embedding, each block, then norm and head together (BEiT's)."""
        return {"stem": r"^encoder\.(?:cls_token|patch_embed)", "blocks": r"^encoder\.blocks\.(\d+)"}

    def groups(self) -> list[dict[str, Any]]:
        """Return groups whose rates fall by `layer_decay` per layer from the head on."""
        recipe = self.recipe
        return param_groups_layer_decay(
            self, recipe.weight_decay, no_weight_decay_list=("encoder.cls_token",), layer_decay=recipe.layer_decay
        )


def _cut(encoder: ViT, blocks: float) -> tuple[list[Stage], list[Stage]]:
    """Return what an encoder does before the trained part and in it, one after the other."""
    *first, last = encoder.blocks
    stages: list[Stage] = [encoder.tokens, *first, partial(attend, last), partial(transform, last), encoder.norm]
    depth = len(encoder.blocks)
    start = 0 if blocks >= depth else {0: depth + 3, 0.5: depth + 1}.get(blocks, depth + 1 - int(blocks))
    return stages[:start], stages[start:]


def _trained(encoder: ViT, blocks: float) -> list[nn.Module]:
    """Return the modules that are trained."""
    if blocks >= len(encoder.blocks):
        return [encoder]
    if blocks == 0:
        return []
    last = cast(Any, encoder.blocks[-1])
    tuned = [last.norm2, last.mlp] if blocks == 0.5 else list(encoder.blocks)[-int(blocks) :]
    return [*tuned, encoder.norm]


def tuned(subject: Subject, setup: Setup, blocks: float) -> Tuned:
    """Return the encoder of a subject, ready for its last `blocks` to be trained; the head follows from the seed."""
    assert subject.pretext is not None
    config = setup.config.probe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder, look = cast(ViT, subject.pretext.encoder), subject.pretext.to(setup.device).look
        return Tuned(encoder, look, blocks, config.features, len(setup.data.classes), config.finetune)


def finetune_predict(subject: Subject, setup: Setup) -> tuple[Tensor, dict[str, float]]:
    """Return the classes (m,) of the test images after fine-tuning the whole encoder."""
    learner = tuned(subject, setup, setup.config.model.encoder.depth)
    return fit_and_predict("finetune", subject.name, learner, setup.config.probe.finetune, setup)
