"""The part of a report on a study of pretext tasks: which task, at what cost?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.report.picture import Picture
from analysis.results.conditions import CONDITIONS, described
from analysis.statistics.comparisons import Test
from analysis.statistics.feature_similarity import FEWEST
from analysis.studies.encoded_images import EncodedImages
from analysis.studies.feature_figures import neighbour_figure, similarity_figure, task_similarities
from analysis.studies.task_figures import (
    SPENT,
    learning_curves,
    learning_figure,
    task_cost_figure,
)

COST = {
    "tflop": "the compute of its pretraining, as counted on shapes",
    "seconds": "the time that its pretraining took",
}
OVER = {"epochs": "epochs", "tflop": "compute spent", "seconds": "time spent"}


@dataclass(frozen=True)
class TaskPage:
    """What is shown of a study's tasks, and in sentences what is not."""

    notes: list[str]
    pictures: list[Picture]


def task_page(
    frame: pd.DataFrame, curves: pd.DataFrame, encode: Callable[[pd.DataFrame], EncodedImages], test: Test | None = None
) -> TaskPage | None:
    """Return the page of one study, None where its cells do not differ in their task or nothing is finished.

    `encode` gives the features of its runs, as `analysis.studies.encode_study.encode_study`.
    """
    done = frame[frame["status"] == "finished"]
    if frame["task"].nunique() < 2 or done.empty:
        return None
    study_id = str(frame["study_id"].iloc[0])
    timed, notes = _timed(frame)
    pictures = list(_costs(timed, study_id, test))
    learned = list(_learning(timed, curves, study_id))
    if not learned:
        notes.append("No learning curves: no run was evaluated twice during pretraining (`run.knn_every`).")
    encoded = encode(frame)
    pictures += [*learned, *_features(encoded, study_id)]
    return TaskPage([*notes, *_missing(encoded)], pictures)


def _timed(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the frame with times of one condition alone, of most trainings, and a sentence on the others."""
    trained = frame[(frame["status"] == "finished") & (frame["gflops"] > 0)]
    conditions = trained.groupby(CONDITIONS, sort=False)["run"].nunique()
    if len(conditions) < 2:
        return frame, []
    most = list(conditions.idxmax())
    others = trained[(trained[CONDITIONS] != most).any(axis=1)]
    told = described(others, lambda part: ", ".join(dict.fromkeys(part["cell"])))
    note = f"Times are compared under one condition alone; left out of times: trainings on {told}."
    return frame.assign(seconds=frame["seconds"].where((frame[CONDITIONS] == most).all(axis=1))), [note]


def _costs(frame: pd.DataFrame, study_id: str, test: Test | None) -> Iterator[Picture]:
    for cost, words in COST.items():
        figure = task_cost_figure(frame, cost, test)
        if figure.axes:
            caption = (
                f"Accuracy of each task against {words}, one panel per probe. Black: the Pareto front of the means, "
                "tasks of which no other is both cheaper and better. A task below the line of the untrained encoder "
                "has gained nothing for its cost; a task with an encoder of its own kind has its own mark."
            )
            yield Picture(f"{study_id}-{cost}", caption, figure)


def _learning(frame: pd.DataFrame, curves: pd.DataFrame, study_id: str) -> Iterator[Picture]:
    points = learning_curves(frame, curves)
    for spent in SPENT:
        figure = learning_figure(points, spent)
        if figure.axes:
            caption = (
                f"Learning curves over {OVER[spent]}: online k-NN on held-out training images, mean over seeds, with a "
                "band from the lowest to the highest seed. The best task at the end comes first; all others are grey."
            )
            yield Picture(f"{study_id}-learning-{spent}", caption, figure)


def _features(encoded: EncodedImages, study_id: str) -> Iterator[Picture]:
    if not encoded.features:
        return
    count = len(encoded.labels)
    caption = (
        f"The most similar of {count} test images to those on top, by the cosine of features, the nearest first; a row "
        "per task, of its first seed. A frame marks images of the same class; the number is their share over all "
        f"{count} images."
    )
    yield Picture(f"{study_id}-neighbours", caption, neighbour_figure(encoded))
    if count < FEWEST:
        return
    means = task_similarities(encoded.features)
    yield Picture(f"{study_id}-similarity", _about_similarity(encoded, means), similarity_figure(means))


def _about_similarity(encoded: EncodedImages, means: pd.DataFrame) -> str:
    several = len({seed for _, seed in encoded.features}) > 1
    caption = (
        f"Similarity of tasks, by the features of {len(encoded.labels)} test images: linear CKA from the unbiased "
        "estimator of HSIC (1: the same up to rotation and scale; 0: independent), "
    )
    caption += (
        "mean over pairs of different seeds. Framed: a task and itself under another seed; what it lacks to 1 is noise."
        if several
        else "of one seed, so that equal first weights are part of it, and what is noise is unknown."
    )
    alike = means.notna().sum()
    if len(collapsed := means.index[alike == 0]) and len(means) > 1:
        caption += f" Empty: {', '.join(collapsed)}, with the same features for all images."
    return caption


def _missing(encoded: EncodedImages) -> list[str]:
    if not encoded.features:
        reason = f" ({encoded.left_out[0]})" if encoded.left_out else ""
        return [f"No neighbours, no similarity of features: encoders or images of these runs are not here{reason}."]
    return [f"Left out of neighbours and similarity: {'; '.join(encoded.left_out)}."] if encoded.left_out else []
