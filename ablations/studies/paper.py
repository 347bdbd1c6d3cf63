"""The paper's tables and figures as studies. To add one, add an entry: nothing else knows their names.

Figures of the paper are % top-1 of ViT-L/16 on ImageNet-1K after 800 epochs, (linear, fine-tuned).
"""

from ablations.studies.study import Cell, Study, Times


def _paper(figures: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(("linear", "finetune"), figures, strict=False))


def _along(axis: str, name: str, question: str, rows: dict[object, tuple[float, ...]], source: str) -> Study:
    """Return a study with a cell per value of the key `axis`."""
    cells = tuple(Cell({axis: value}, _paper(figures)) for value, figures in rows.items())
    return Study(name, question, cells, source, axis)


_ALL = (
    _along(
        "mask.ratio",
        "mask-ratio",
        "How much of an image should be hidden?",
        {
            0.1: (54.6, 83.2),
            0.2: (58.9, 83.4),
            0.3: (61.7, 83.4),
            0.4: (67.0, 84.7),
            0.5: (69.9, 84.9),
            0.6: (71.8, 85.0),
            0.7: (73.2, 84.9),
            0.75: (73.5, 84.9),
            0.8: (71.8, 84.5),
            0.9: (66.1, 83.0),
        },
        source="Fig. 5",
    ),
    _along(
        "model.decoder.depth",
        "decoder-depth",
        "How deep must the decoder be?",
        {1: (65.5, 84.8), 2: (70.0, 84.9), 4: (71.9, 84.9), 8: (73.5, 84.9), 12: (73.3, 84.4)},
        source="Table 1a",
    ),
    _along(
        "model.decoder.dim",
        "decoder-width",
        "How wide must the decoder be?",
        {  # of the paper's 512: 128, 256, 512, 768, 1024
            Times(1 / 4): (69.1, 84.9),
            Times(1 / 2): (71.3, 84.8),
            Times(1): (73.5, 84.9),
            Times(3 / 2): (73.1, 84.4),
            Times(2): (73.1, 84.3),
        },
        source="Table 1b",
    ),
    Study(
        "mask-token",
        "Should the encoder see mask tokens?",
        (
            Cell({"model.encoder_mask_tokens": True}, _paper((59.6, 84.2)), "with mask tokens"),
            Cell({"model.encoder_mask_tokens": False}, _paper((73.5, 84.9)), "without"),
        ),
        source="Table 1c",
    ),
    Study(
        "target",
        "What should be reconstructed?",
        (
            Cell({"target.kind": "pixels"}, _paper((73.5, 84.9)), "pixels"),
            Cell({"target.kind": "normalized_pixels"}, _paper((73.9, 85.4)), "normalised pixels"),
            Cell({"target.kind": "pca"}, _paper((72.3, 84.6)), "PCA"),
            Cell({"target.kind": "tokens"}, _paper((71.6, 85.3)), "tokens", where_possible=True),
            Cell({"target.kind": "low_pass"}, name="low frequencies", later=True, where_possible=True),  # PixMIM, 2024
        ),
        source="Table 1d",
    ),
    Study(
        "loss-region",  # the paper gives one figure only: all patches cost "about 0.5 %"
        "On which patches should the loss count?",
        (
            Cell({"loss.region": "masked"}, name="masked only"),
            Cell(
                {"loss.region": "weighted", "loss.visible_weight": 0.1}, name="visible at 0.1", later=True
            ),  # Tan, 2024
            Cell({"loss.region": "weighted", "loss.visible_weight": 0.25}, name="visible at 0.25"),
            Cell({"loss.region": "weighted", "loss.visible_weight": 0.5}, name="visible at 0.5"),
            Cell({"loss.region": "all"}, name="all patches"),
        ),
        source="footnote 1",
    ),
    Study(
        "augmentation",
        "How much augmentation does pretraining need?",
        (
            Cell({"data.augmentation": "none", "data.flip": False}, _paper((65.7, 84.0)), "none"),
            Cell({"data.augmentation": "fixed_crop"}, _paper((73.1, 84.7)), "crop, fixed size"),
            Cell({"data.augmentation": "random_resized_crop"}, _paper((73.5, 84.9)), "crop, random size"),
            Cell({"data.augmentation": "color_jitter"}, _paper((71.9, 84.3)), "crop and colour jitter"),
        ),
        source="Table 1e",
    ),
    Study(
        "mask-sampling",
        "Which patches should be hidden?",
        (
            Cell({"mask.sampling": "random", "mask.ratio": 0.75}, _paper((73.5, 84.9)), "random 75 %"),
            Cell(
                {"mask.sampling": "block", "mask.ratio": 0.5}, _paper((72.3, 83.9)), "block 50 %", where_possible=True
            ),
            Cell(
                {"mask.sampling": "block", "mask.ratio": 0.75}, _paper((63.9, 82.8)), "block 75 %", where_possible=True
            ),
            Cell({"mask.sampling": "grid", "mask.ratio": 0.75}, _paper((66.0, 84.0)), "grid 75 %", where_possible=True),
            Cell(
                {"mask.sampling": "colored_noise", "mask.ratio": 0.75},
                name="green noise 75 %",
                later=True,
                where_possible=True,
            ),  # ColorMAE
        ),
        source="Table 1f",
    ),
    Study(
        "schedule",
        "Does longer pretraining help?",
        tuple(  # of the paper's 800: 100, 200, 400, 800, 1600; each with its own cosine, and warm-up in proportion
            Cell({"train.epochs": Times(factor), "train.warmup_epochs": Times(factor, "train.epochs")}, _paper(figures))
            for factor, figures in {
                1 / 8: (57.3, 82.3),
                1 / 4: (64.4, 83.3),
                1 / 2: (69.7, 84.3),
                1: (73.5, 84.9),
                2: (75.1, 85.1),
            }.items()
        ),
        source="Fig. 7",
        axis="train.epochs",
        log_axis=True,
    ),
    Study(
        "wall-clock",
        "What does leaving mask tokens out of the encoder save?",
        (
            Cell({"model.encoder_mask_tokens": True}, {"speedup": 1.0}, "mask tokens, default decoder"),
            Cell({"model.encoder_mask_tokens": False}, {"speedup": 2.8}, "none, default decoder"),
            Cell({"model.encoder_mask_tokens": False, "model.decoder.depth": 1}, {"speedup": 3.7}, "none, 1 block"),
        ),
        source="Table 2",
        probed=False,
    ),
)

STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
