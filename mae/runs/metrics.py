"""The names under which runs keep what they measure.

The pretext task adds its own losses as `train/<name>`, a probe its accuracies as `<kind>/<name>`, the machine its load
as `system/<name>`.
"""

LOSS, EPOCH, LEARNING_RATE = "train/loss", "train/epoch", "train/lr"
GRADIENT_NORM, IMAGES_PER_SECOND = "train/gradient_norm", "train/images_per_second"
PEAK_MEMORY = "system/peak_memory_mb"
ONLINE = "online/knn_top1"
"""The point of the curves that tells how good the features are so far: k-NN top-1 on held-out training images, %."""

RANKME, LIDAR = "online/rankme", "online/lidar"
"""The points that tell so without labels: RankMe and LiDAR, effective ranks, from 1 to the width of the features."""

OUTPUT_STD, FINAL_OUTPUT_STD = "train/output_std", "train/final_output_std"
"""How far apart the outputs of a task are that could collapse to one point: 1 if they use all directions alike, 0 if
they have; a point of the curves, and the last one."""

COLLAPSED = 0.5
"""Below it outputs are taken for collapsed."""

CHANCE_LOSS = "train/chance_loss"
"""The loss of a guess, where a task is to choose one of some answers; the same for the whole run."""

LEARNED = 0.99
"""A task whose last loss is not below this share of a guess's is taken for hardly learned."""

FINAL_LOSS, SECONDS, STEPS = "train/final_loss", "cost/seconds", "cost/steps"
COST_MEMORY, GFLOPS, PARAMETERS = "cost/peak_memory_mb", "cost/gflops_per_image", "cost/parameters"
"""Of a whole pretraining: its last loss, and what it took."""


def top1(kind: str) -> str:
    """Return the metric of a probe's accuracy on the test images, %."""
    return f"{kind}/top1"


def holdout_top1(kind: str) -> str:
    """Return the metric of a probe's accuracy on the training images that it holds out, %; searches select by it."""
    return f"{kind}/holdout_top1"
