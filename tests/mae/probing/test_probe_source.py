"""Probes on other images than those of the pretraining, and pretrainings on images without labels."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ablations.studies.plan import make_plan
from ablations.studies.run_studies import digests
from ablations.studies.study import product
from cli import app
from mae import pipeline
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import load_data
from mae.data.facts import facts_of
from mae.errors import UserError
from mae.pipeline import Workplace, run_pretraining, run_probes
from mae.pretext.registry import new_pretext, untrained_pretext
from mae.probing.probe import subjects
from mae.runs.catalogue import find_runs
from mae.runs.directory import RunDirectory
from mae.runtime.interruption import StopRequest
from mae.runtime.progress import Silent
from mae.tracking.background_delivery import delivering_undelivered
from mae.tracking.mlflow_store import default_uri
from tests.conftest import TINY


def noise(folder: Path, count: int, low: int, high: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(low)
    for index in range(count):
        Image.fromarray(draws.integers(low, high, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """25 images without labels."""
    noise(tmp_path / "flat", 25, 0, 100)
    return tmp_path / "flat"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Two classes that anyone can tell apart: dark images and bright ones."""
    noise(tmp_path / "labelled" / "dark", 20, 0, 60)
    noise(tmp_path / "labelled" / "light", 20, 190, 250)
    return tmp_path / "labelled"


def settings(source: Path, **more: Any) -> dict[str, Any]:
    own = {"data.source": f"folder:{source}", "train.batch_size": 10, "run.knn_every": 1, "probe.kinds": ["knn"]}
    return TINY | own | more


def on(config: Config, source: Path | None) -> Config:
    return change(config, {"probe.source": source and f"folder:{source}"})


def invoke(command: str, runs_dir: Path, values: dict[str, Any], *more: str) -> Any:
    fixed = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    shared = ["--runs-dir", str(runs_dir), "--tracking-uri", "none", "--device", "cpu", "--json"]
    return CliRunner().invoke(app, [command, *more, *fixed, *shared])


@pytest.fixture
def where(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "runs", "none", torch.device("cpu"), Silent(), StopRequest())


def test_images_without_labels_are_pretrained_on_and_that_there_is_no_probe_is_said(flat: Path, tmp_path: Path) -> None:
    done = invoke("run", tmp_path / "runs", settings(flat))
    assert done.exit_code == 0
    assert "20 train, 5 test, no labels" in done.stderr
    assert "not probed, as its images have no labels; with labelled images: mae-cli probe" in done.stderr
    assert f"--set probe.source=folder:OTHER --runs-dir {tmp_path / 'runs'}" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["not_probed"] == "no labels"
    (run,) = find_runs(tmp_path / "runs")
    assert run.result()["labels"] is False
    measured = {name for point in run.read_metrics() for name in point["metrics"]}
    assert {"online/rankme", "online/lidar"} <= measured
    assert not any("knn" in name for name in measured)


def test_a_run_without_labels_is_probed_on_other_images_beside_its_baselines(
    flat: Path, labelled: Path, where: Workplace
) -> None:
    config = on(build(settings(flat)), labelled)
    run = run_pretraining(config, where)
    metrics = run_probes(run, config, where)
    assert metrics["knn/pixels_top1"] == 100
    assert {"knn/top1", "knn/untrained_top1"} <= metrics.keys()


def test_probed_images_are_normalised_like_those_of_the_pretraining(
    flat: Path, labelled: Path, where: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = on(build(settings(flat)), labelled), []

    def watched(config: Config, data: Any, *more: Any) -> Any:
        seen.append((data.mean, data.std, len(data.train.labels)))
        return subjects(config, data, *more)

    monkeypatch.setattr(pipeline, "subjects", watched)
    run = run_pretraining(config, where)
    run_probes(run, config, where)
    facts = facts_of(run)
    assert seen == [(facts.mean, facts.std, 32)]
    assert load_data(config.probed_data, config.run, Silent()).mean != facts.mean


def probes(run: RunDirectory) -> set[str]:
    return {path.name for path in run.path.glob("probes/*")}


def test_the_content_of_the_probed_images_identifies_a_probe_and_not_their_place(
    labelled: Path, where: Workplace, tmp_path: Path
) -> None:
    noise(tmp_path / "own" / "a", 10, 0, 100)
    noise(tmp_path / "own" / "b", 10, 0, 200)
    config = build(settings(tmp_path / "own"))
    shutil.copytree(labelled, tmp_path / "moved")
    run = run_pretraining(config, where)
    found = []
    for source in (None, labelled, tmp_path / "moved", tmp_path / "own"):
        run_probes(run, on(config, source), where)
        found.append(probes(run))
    own, others = found[0], found[1]
    assert len(others - own) == 1
    assert found == [own, others, others, others]
    assert len([*(where.runs_dir / "baselines").glob("knn-*")]) == 4  # untrained and pixels, on either


def test_a_study_plans_the_probes_that_its_jobs_make(flat: Path, labelled: Path, where: Workplace) -> None:
    base = on(build(settings(flat)), labelled)
    plan = make_plan(product(["mask.ratio=0.5,0.75"]), base, 1, digests(Silent()), where.runs_dir)
    for job in plan.jobs:
        run_probes(run_pretraining(job.config, where, job.fingerprint), job.config, where)
    assert plan.missing(where.runs_dir) == []


def test_a_study_on_other_probed_images_has_a_folder_of_its_own(
    flat: Path, labelled: Path, where: Workplace, tmp_path: Path
) -> None:
    shutil.copytree(labelled, tmp_path / "moved")
    noise(tmp_path / "third" / "a", 9, 0, 100)
    noise(tmp_path / "third" / "b", 9, 0, 200)

    def folder(source: Path) -> str:
        base = on(build(settings(flat)), source)
        return make_plan(product(["mask.ratio=0.5"]), base, 1, digests(Silent()), where.runs_dir).directory.path.name

    assert folder(labelled) == folder(tmp_path / "moved") != folder(tmp_path / "third")


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("ablate", ["--axis", "mask.ratio=0.5,0.75"]),
        ("sweep", ["--trials", "1", "--objective", "knn_top1"]),
        ("sweep", ["--trials", "1", "--objective", "gflops,knn_top1"]),
    ],
)
def test_what_is_judged_by_probes_is_refused_before_it_begins_where_there_are_no_labels(
    command: str, more: list[str], flat: Path, tmp_path: Path
) -> None:
    refused = invoke(command, tmp_path / "runs", settings(flat), *more)
    assert refused.exit_code == 2
    assert "images without labels" in refused.stderr
    assert "--set probe.source=folder:OTHER" in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("source", "told"),
    [("flat", "has images without labels"), ("nowhere", "no such folder"), ("broken", "is empty (0 bytes)")],
)
def test_images_to_probe_on_are_refused_before_the_pretraining(
    source: str, told: str, flat: Path, labelled: Path, tmp_path: Path
) -> None:
    shutil.copytree(labelled, tmp_path / "broken")
    (tmp_path / "broken" / "dark" / "0.png").write_bytes(b"")
    refused = invoke("run", tmp_path / "runs", settings(flat, **{"probe.source": f"folder:{tmp_path / source}"}))
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert "data.source=" not in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_without_labels_is_not_probed_on_its_own_images(flat: Path, where: Workplace) -> None:
    config = build(settings(flat))
    run = run_pretraining(config, where)
    with pytest.raises(UserError, match=r"have no labels; give images with labels to probe on"):
        run_probes(run, config, where)
    assert not (run.path / "probes").exists()


def test_the_untrained_twin_has_the_first_weights_of_the_trained_task(tiny: Config) -> None:
    data = load_data(tiny.data, tiny.run, Silent())
    trained, first = new_pretext(tiny, data), new_pretext(tiny, data).state_dict()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    twin = untrained_pretext(trained).state_dict()
    assert all(torch.equal(twin[name], value) for name, value in first.items())


def test_files_that_were_left_out_are_listed_in_the_runs_folder(flat: Path, where: Workplace) -> None:
    (flat / "x.png").write_bytes(b"")
    (flat / "y.png").symlink_to("nowhere")
    run = run_pretraining(build(settings(flat, **{"data.skip_bad_images": True})), where)
    listed = (run.path / "left_out.txt").read_text().splitlines()
    assert listed == ["y.png: it is a link to what is not there", "x.png: is empty (0 bytes)"]
    assert run.read_record().data["skipped"] == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("command", [["ablate", "--axis", "mask.ratio=0.5,0.75"], ["sweep", "--trials", "1"]])
def test_a_broken_image_is_found_before_a_study_or_sweep_is_on_record(
    command: list[str], labelled: Path, tmp_path: Path
) -> None:
    (labelled / "dark" / "0.png").write_bytes(b"")
    name, *more = command
    refused = invoke(name, tmp_path / "runs", settings(labelled), *more)
    assert refused.exit_code == 2
    assert "0.png is empty" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_where_nothing_is_to_be_delivered_no_store_is_made(tmp_path: Path) -> None:
    with delivering_undelivered(tmp_path / "runs", default_uri(tmp_path / "runs")):
        pass
    assert not (tmp_path / "runs").exists()
