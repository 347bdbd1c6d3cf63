"""Probes on several processes, over gloo: the features of one, and whatever may happen to one of them."""

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cli import app
from mae.config.resolve import build
from mae.data.dataset import load_data
from mae.errors import RunError
from mae.pretext.registry import new_pretext
from mae.probing import feature_memory, features
from mae.probing.probe import subjects
from mae.probing.subject import Setup, View, augmented_features, features_in_parts, features_of
from mae.runs.catalogue import find_runs
from mae.runs.directory import RunDirectory, probes_of, status_of
from mae.runtime.distributed import Processes, launched
from mae.runtime.progress import Silent
from mae.runtime.sharing import Sharing
from tests.conftest import TINY
from tests.helpers.commands import Group, mae_cli

CPU = torch.device("cpu")
SHORT = TINY | {"train.epochs": 1, "train.batch_size": 252, "run.knn_every": 0, "run.picture_every": 0}
LARS = {"probe.linear.solver": "lars", "probe.linear.lars_epochs": 2}
ENDLESS = {"probe.finetune.epochs": 10**6, "probe.finetune.batch_size": 512}


def command(runs_dir: Path, kinds: list[str], more: dict[str, Any] | None = None) -> list[str]:
    fixed = [part for key, value in (SHORT | (more or {})).items() for part in ("--set", f"{key}={value}")]
    asked = [part for kind in kinds for part in ("--kind", kind)]
    return ["run", *fixed, *asked, "--runs-dir", str(runs_dir), "--tracking-uri", "none", "--device", "cpu"]


def the_probe(runs_dir: Path) -> RunDirectory:
    (run,) = find_runs(runs_dir)
    (probe,) = probes_of(run)
    return probe


def results(runs_dir: Path) -> list[str]:
    return [file.read_text() for file in sorted(runs_dir.rglob("*-*/result.json"))]


def all_features(processes: Processes) -> list[str]:
    """Return digests of the features of each kind that process 0 has; nothing in the others."""
    config = build(SHORT)
    data = load_data(config.data, config.run, Silent())
    encoder, pixels = probed = subjects(config, data, new_pretext(config, data))[1:]
    sharing = Sharing(processes)
    setup = Setup(config, data, CPU, Silent(), sharing=sharing)
    if not processes.leads:
        named = {each.name: each for each in probed}
        sharing.serve(lambda view: features_in_parts(named[view.subject], view, setup))
        return []
    with sharing.led():
        found = [features_of(each, split, setup) for each in (encoder, pixels) for split in ("train", "test")]
        found += [augmented_features(encoder, epoch, setup) for epoch in (0, 5)]
    return [hashlib.sha256(each.numpy()).hexdigest() for each in found]


def tell_features(told: Path, arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    processes = launched()
    with processes.joined(CPU):
        found = all_features(processes)
    told.write_text(json.dumps(found))


def test_three_processes_make_the_features_of_one_to_the_bit(tmp_path: Path) -> None:
    codes, said = Group(tmp_path, [[]] * 3, tell_features, tell_features).wait()
    assert codes == [0, 0, 0], said
    expected = all_features(Processes())
    assert len(set(expected)) == 6
    assert [json.loads(each) for each in said] == [expected, [], []]


def test_each_process_encodes_every_nth_batch(tmp_path: Path) -> None:
    config = build(SHORT)
    data = load_data(config.data, config.run, Silent())
    probed = subjects(config, data, new_pretext(config, data))[1]
    sizes = []
    for rank in range(5):
        setup = Setup(config, data, CPU, Silent(), sharing=Sharing(Processes(rank, 5)))
        sizes.append([len(part) for part in features_in_parts(probed, View("untrained", "train"), setup)])
    assert sizes == [[128] * 3, [128, 128, 29], [128] * 2, [128] * 2, [128] * 2]


def test_two_processes_probe_as_one_does_under_the_settings_of_the_first_and_again_at_once(tmp_path: Path) -> None:
    kinds, one, two = ["linear", "knn", "partial"], tmp_path / "one", tmp_path / "two"
    more = LARS | {"probe.finetune.epochs": 1}
    assert CliRunner().invoke(app, command(one, kinds, more)).exit_code == 0
    assert CliRunner().invoke(app, ["pretrain", *command(two, [], more)[1:]]).exit_code == 0
    others = [*command(two, kinds, more), "--set", "probe.features=class_token"]
    for _ in range(2):
        codes, said = Group(tmp_path, [command(two, kinds, more), others]).wait()
        assert codes == [0, 0], said
        assert "partial" in said[0]
        assert said[1] == ""
    assert len(results(one)) == 8
    assert results(two) == results(one)


def at_the_second_part(act: Callable[[], None]) -> None:
    """Have this process do something while it encodes."""
    pool, calls = features.pool, []

    def acting(tokens: Tensor, kind: str) -> Tensor:
        calls.append(kind)
        if len(calls) == 2:
            act()
        return pool(tokens, kind)

    features.pool = acting


def fail() -> None:
    raise RunError("a decoder has died")


def failing(said: Path, arguments: list[str], environment: dict[str, str]) -> None:
    at_the_second_part(fail)
    mae_cli(said, arguments, environment)


def stopped(said: Path, arguments: list[str], environment: dict[str, str]) -> None:
    at_the_second_part(lambda: os.kill(os.getpid(), signal.SIGINT))
    mae_cli(said, arguments, environment)


def killed(said: Path, arguments: list[str], environment: dict[str, str]) -> None:
    at_the_second_part(lambda: os.kill(os.getpid(), signal.SIGKILL))
    mae_cli(said, arguments, environment)


def without_memory(said: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Be a process that has no room for features, and learns that when it puts the first of them away."""
    feature_memory.free_memory = lambda device: 0
    feature_memory.cache_folder = lambda: Path("/dev/null/none")
    mae_cli(said, arguments, environment)


@pytest.mark.parametrize(
    ("last", "others", "codes", "reason", "status"),
    [
        (failing, mae_cli, [1, 1], "failed: process 1 on .*: a decoder has died\n", "failed"),
        (mae_cli, failing, [1, 1], "failed: a decoder has died\n", "failed"),
        (mae_cli, without_memory, [1, 1], "failed: features take .*\n", "failed"),
        (stopped, mae_cli, [130, 130], "stopped by SIGINT; the same command continues\n", "killed"),
        (killed, mae_cli, [1, -signal.SIGKILL], "failed: another process of this command has failed .*\n", "failed"),
    ],
)
def test_what_befalls_one_process_while_all_encode_ends_all_and_is_told_once(
    last: Any, others: Any, codes: list[int], reason: str, status: str, tmp_path: Path
) -> None:
    group = Group(tmp_path, [command(tmp_path / "runs", ["knn"])] * 2, last, others)
    found, said = group.wait()
    assert found == codes, said
    assert re.search(reason + "$", said[0])
    assert said[1] == ""
    assert status_of(the_probe(tmp_path / "runs"))[0] == status


@pytest.mark.parametrize(
    ("number", "codes", "reason", "status"),
    [
        (signal.SIGTERM, [143, 143], "stopped by SIGTERM; the same command continues\n", "killed"),
        (signal.SIGKILL, [1, -signal.SIGKILL], "the same command continues\n", "failed"),
    ],
)
def test_a_signal_to_a_process_that_waits_for_a_fit_ends_all(
    number: int, codes: list[int], reason: str, status: str, tmp_path: Path
) -> None:
    group = Group(tmp_path, [command(tmp_path / "runs", ["partial"], ENDLESS)] * 2)
    while not any(file.stat().st_size for file in tmp_path.glob("runs/*/probes/*/metrics.jsonl")):
        assert group.processes[0].lives(), group.said[0].read_text()
        time.sleep(0.01)
    group.send(number, [1])
    found, said = group.wait()
    assert found == codes, said
    assert said[0].endswith(reason)
    assert said[1] == ""
    probe = the_probe(tmp_path / "runs")
    assert status_of(probe)[0] == status
    assert list(probe.checkpoints.glob("step-*.pt")) or number == signal.SIGKILL
