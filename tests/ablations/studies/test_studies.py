import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablations.execution.executor import Executor
from ablations.execution.job import Job
from ablations.studies import forecast_measuring, run_studies
from ablations.studies.forecast_measuring import size_of
from ablations.studies.forecast_speeds import Size
from ablations.studies.own import OWN
from ablations.studies.paper import STUDIES
from ablations.studies.plan import Plan, all_jobs, make_plan, told_done
from ablations.studies.run_studies import check_comparable, choose_studies, run_until
from ablations.studies.study import Cell, Study, plan_cells, product
from ablations.studies.study_file import read_study, to_toml
from mae.config.data_section import DataConfig
from mae.config.fingerprint import pretrain_fingerprint
from mae.config.presets import PRESETS
from mae.config.resolve import build, change, resolve
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.study_record import find_studies


def plan(study: Study, base: Config, seeds: int = 1, only: tuple[str, ...] = ()) -> Plan:
    return make_plan(study, base, seeds, lambda data: "digest", Path("runs"), only)


@pytest.mark.parametrize("epochs", [1, 20, 200])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_study_fits_every_preset_at_other_epochs(preset: str, epochs: int) -> None:
    base = resolve(preset, settings=[f"train.epochs={epochs}"])
    assert all(plan_cells(study, base) for study in STUDIES.values())


@pytest.mark.parametrize("settings", [[], ["train.warmup_epochs=10"]])
def test_a_schedules_warm_up_is_in_proportion_to_its_epochs(settings: list[str]) -> None:
    base = resolve("cifar10-vit-t", settings=settings)
    shares = {cell.config.train.warmup / cell.config.train.epochs for cell in plan_cells(STUDIES["schedule"], base)}
    assert shares == {base.train.warmup / 400}


def test_a_schedule_without_a_warm_up_of_its_own_is_named_by_its_epochs() -> None:
    names = [cell.name for cell in plan_cells(STUDIES["schedule"], resolve("cifar10-vit-t"))]
    assert names == ["50", "100", "200", "400", "800"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", STUDIES | OWN)
def test_every_study_fits_every_preset_and_holds_its_default(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if preset == "moving-digits" and name in ("noise", "mask-sampling"):
        pytest.skip("of clips there is random masking of mae alone")
    monkeypatch.setattr(forecast_measuring, "size_of", lambda config: Size(1e9, 1e8, 0))  # seconds each, of ViT-H
    cells = plan_cells((STUDIES | OWN)[name], resolve(preset))
    defaults = [cell.record.is_default for cell in cells]
    assert sum(defaults) == 1
    assert len({cell.name for cell in cells}) == len(cells) >= 2


def test_a_cell_changes_nothing_but_what_it_says() -> None:
    base = resolve("cifar10-vit-t")
    for cell in plan_cells(STUDIES["decoder-depth"], base):
        assert change(cell.config, {"model.decoder.depth": base.model.decoder.depth}) == base


def test_widths_of_the_paper_come_out_for_its_own_preset() -> None:
    names = [cell.name for cell in plan_cells(STUDIES["decoder-width"], resolve("imagenet-vit-l"))]
    assert names == ["128", "256", "512", "768", "1024"]


def test_the_shared_default_is_trained_once() -> None:
    base = Config()
    plans = [plan(study, base, seeds=2) for study in STUDIES.values()]
    jobs = all_jobs(plans)
    assert len({job.fingerprint for job in jobs}) == len(jobs) < sum(len(each.jobs) for each in plans)


def test_every_seed_draws_its_own_labels_where_they_are_few() -> None:
    study = Study(
        "labels", "", (Cell({"probe.labels": 1.0}), Cell({"probe.labels": 0.1}), Cell({"probe.labels": 0.01}))
    )
    made = plan(study, change(Config(), {"train.seed": 4, "probe.seed": 7}), seeds=2)
    assert [(job.config.probe.labels, job.config.probe.seed) for job in made.jobs] == [
        *((1.0, 7), (0.1, 7), (0.01, 7)),
        *((1.0, 7), (0.1, 8), (0.01, 8)),
    ]
    few = change(Config(), {"probe.labels_per_class": 10})
    assert {job.config.probe.seed for job in plan(STUDIES["mask-ratio"], few, seeds=2).jobs} == {0, 1}


def test_at_equal_compute_every_task_takes_the_flops_of_the_base() -> None:
    base = change(Config(), {"train.epochs": 100, "train.warmup_epochs": 10})
    asked = base.train.epochs * size_of(base).training
    for cell in plan_cells(OWN["pretext-compute"], base):
        train, flops = cell.config.train, size_of(cell.config).training
        assert train.warmup / train.epochs == pytest.approx(0.1)
        if flops:
            assert abs(train.epochs * flops - asked) <= flops / 2 or train.epochs == 1, cell.name
    assert {cell.name: cell.config.train.epochs for cell in plan_cells(OWN["pretext"], base)}.keys() == {
        cell.name for cell in plan_cells(OWN["pretext-compute"], base)
    }


def test_a_probe_asked_for_by_one_study_is_kept_for_a_shared_training() -> None:
    cells = (Cell({"mask.ratio": 0.5}), Cell({"mask.ratio": 0.75}))
    probed, unprobed = Study("a", "", cells), Study("b", "", cells, probed=False)
    jobs = all_jobs([plan(unprobed, Config()), plan(probed, Config())])
    assert [kinds(job) for job in jobs] == [["linear", "knn"]] * 2


def kinds(job: Job) -> list[str]:
    return [name.split("-")[0] for name in job.probes]


def test_cells_of_one_training_and_their_probes_are_one_job_across_studies() -> None:
    studies = product(["probe.knn.k=5,20"]), product(["probe.knn.k=20,40"])
    (job,) = all_jobs([plan(study, Config()) for study in studies])
    assert sorted(kinds(job)) == ["knn", "knn", "knn", "linear"]
    assert set(job.probes) == {
        name for study in studies for trial in plan(study, Config()).record.trials for name in trial.probes.values()
    }


def test_seeds_count_up_from_the_base_and_come_one_after_the_other() -> None:
    made = plan(STUDIES["mask-token"], build({"train.seed": 5}), seeds=2)
    assert [job.config.train.seed for job in made.jobs] == [5, 5, 6, 6]


def test_that_a_single_cell_is_compared_with_nothing_is_said() -> None:
    (note,) = plan(product(["mask.ratio=0.5"]), Config()).notes
    assert note == "study ratio: one cell, 0.5: there is nothing to compare it with"


def test_another_cell_than_the_base_config_may_be_compared_with() -> None:
    study = product(["mask.ratio=0.5,0.6"])
    (note,) = plan(study, Config()).notes
    assert "no cell is the base config" in note
    assert "--against CELL" in note
    made = make_plan(study, Config(), 1, lambda data: "d", Path("runs"), against="0.6")
    assert [(cell.name, cell.is_default) for cell in made.record.cells] == [("0.5", False), ("0.6", True)]
    assert made.notes == ()
    with pytest.raises(UserError, match=r"--against 0\.7: no such cell in ratio; its cells: 0\.5; 0\.6"):
        make_plan(study, Config(), 1, lambda data: "d", Path("runs"), against="0.7")


def test_only_limits_what_is_trained_and_not_what_is_shown() -> None:
    made = plan(STUDIES["mask-ratio"], Config(), only=("0.5",))
    assert [job.label for job in made.jobs] == ["mask-ratio 0.5, seed 0"]
    assert len(made.record.cells) == 10


def test_an_unknown_cell_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--only 0\.55: no such cell in mask-ratio; its cells: 0\.1; 0\.2; .*0\.75"):
        plan(STUDIES["mask-ratio"], Config(), only=("0.55",))


def test_an_impossible_cell_is_refused_by_name() -> None:
    study = Study("depth", "", (Cell({"model.encoder.depth": 0}, name="none"),))
    with pytest.raises(UserError, match=r"study depth, cell none: model\.encoder\.depth=0"):
        plan(study, Config())


def test_another_base_config_has_a_directory_of_its_own() -> None:
    first, second = (plan(STUDIES["mask-ratio"], build({"train.epochs": epochs})) for epochs in (10, 20))
    assert first.directory.path != second.directory.path


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"probe.kinds": ("knn",)}, True),
        ({"run.log_every": 7}, True),
        ({"probe.knn.k": 5}, False),
        ({"probe.features": "class_token"}, False),
        ({"mask.ratio": 0.5}, False),
    ],
)
def test_a_studys_directory_is_that_of_its_base_configs_numbers(settings: dict[str, object], same: bool) -> None:
    first, second = (plan(STUDIES["decoder-depth"], base).directory.path for base in (Config(), build(settings)))
    assert (first == second) == same


def test_a_studys_directory_is_that_of_its_cells_however_their_settings_are_ordered() -> None:
    settings = {"mask.ratio": 0.5, "model.decoder.depth": 2}
    same = [Study("a", "", (Cell(dict(each), name="x"),)) for each in (settings.items(), reversed(settings.items()))]
    other = Study("a", "", (Cell({**settings, "mask.ratio": 0.25}, name="x"),))
    first, second, third = (plan(study, Config()).directory.path for study in (*same, other))
    assert first == second != third


def test_other_images_give_other_trainings_probes_and_directories() -> None:
    study = STUDIES["mask-ratio"]
    first, second = (make_plan(study, Config(), 1, lambda data, digest=digest: digest, Path("r")) for digest in "ab")
    for one, other in zip(first.jobs, second.jobs, strict=True):
        assert one.fingerprint != other.fingerprint
        assert not set(one.probes) & set(other.probes)
    assert first.directory.path != second.directory.path
    assert [each.record.data for each in (first, second)] == [{"source": "digits", "digest": each} for each in "ab"]


def by_all_that_chooses_images(data: DataConfig) -> str:
    return f"{data.source}/{data.split_seed}/{data.test_fraction}"


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ("data.source=digits,folder:there", ["digits", "folder:there"]),
        ("data.split_seed=0,1", ["0", "1"]),
        ("data.test_fraction=0.2,0.3", ["0.2", "0.3"]),
    ],
)
def test_cells_on_different_images_are_different_and_each_is_trained_on_its_own(axis: str, names: list[str]) -> None:
    made = make_plan(product([axis]), Config(), 1, by_all_that_chooses_images, Path("runs"))
    assert [cell.name for cell in made.record.cells] == names
    assert [cell.is_default for cell in made.record.cells] == [True, False]
    assert [job.fingerprint for job in made.jobs] == [
        pretrain_fingerprint(job.config, by_all_that_chooses_images(job.config.data)) for job in made.jobs
    ]
    assert len(all_jobs([made])) == 2


def test_cells_that_choose_the_same_images_are_one() -> None:
    made = make_plan(product(["data.split_seed=0,1"]), Config(), 1, lambda data: "the split is given", Path("runs"))
    assert made.notes == (
        "study split_seed: data.split_seed=0 and data.split_seed=1 are equal on this base config: one cell, 0",
        "study split_seed: one cell, 0: there is nothing to compare it with",
    )


def test_a_plans_record_is_found_under_its_studys_name_as_it_was_written(tmp_path: Path) -> None:
    made = make_plan(
        STUDIES["mask-ratio"], resolve("digits", settings=["train.seed=3"]), 2, lambda data: "digest", tmp_path
    )
    made.directory.path.mkdir(parents=True)
    (made.directory.path / "study.json").write_text(made.record.model_dump_json())
    ((directory, record),) = find_studies(tmp_path)
    assert record == made.record
    assert re.fullmatch("mask-ratio-[0-9a-f]{8}", directory.path.name)
    assert record.base == "digits seed=3"
    assert (record.config["data.source"], record.config["train.seed"]) == ("digits", 3)
    assert {(trial.fingerprint, trial.seed, *trial.probes.values()) for trial in record.trials} == {
        (job.fingerprint, job.config.train.seed, *job.probes) for job in made.jobs
    }


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ([], "mask-ratio-f37c55cf"),
        (["probe.finetune.epochs=7"], "mask-ratio-f37c55cf"),
        (["probe.finetune.epochs=7", 'probe.kinds=["partial"]'], None),
        (["probe.labels=0.1"], None),
    ],
)
def test_a_studys_folder_is_that_of_earlier_versions_unless_a_later_probe_is_asked_for(
    settings: list[str], name: str | None
) -> None:
    made = plan(STUDIES["mask-ratio"], resolve("digits", settings=settings)).directory.path.name
    assert (made == "mask-ratio-f37c55cf") == (name is not None)


def test_a_study_about_a_probe_asks_for_it() -> None:
    made = plan(OWN["partial-finetune"], Config())
    assert [cell.name for cell in made.record.cells] == ["0", "0.5", "1", "2", "4"]  # of 4 blocks: 6 and more are all
    assert [kinds(job) for job in made.jobs] == [["linear", "knn", "partial"]] * 5
    assert len({job.fingerprint for job in made.jobs}) == 1


def test_a_study_without_probes_has_none() -> None:
    made = plan(Study("a", "", (Cell({"mask.ratio": 0.5}),), probed=False), Config())
    assert (made.jobs[0].probes, made.record.trials[0].probes) == ((), {})


def test_what_is_missing_are_the_trainings_that_are_not_done_each_once(tmp_path: Path) -> None:
    made = plan(Study("a", "", tuple(Cell({"mask.ratio": ratio}) for ratio in (0.5, 0.6)), probed=False), Config(), 2)
    assert made.missing(tmp_path) == list(made.jobs)
    (tmp_path / made.jobs[1].fingerprint).mkdir()
    (tmp_path / made.jobs[1].fingerprint / "result.json").write_text("{}")
    assert made.missing(tmp_path) == [made.jobs[0], *made.jobs[2:]]


def test_cells_that_all_differ_are_not_spoken_of() -> None:
    notes = list(chain(*(plan(study, Config()).notes for study in STUDIES.values())))
    assert [note for note in notes if "tokens is left out" not in note] == []


def test_a_setting_that_a_cell_makes_idle_goes_back_to_its_default() -> None:
    base = build({"loss.region": "weighted", "loss.visible_weight": 0.3})
    assert change(base, {"loss.region": "masked"}) == build({})


def test_axes_give_their_product() -> None:
    cells = plan_cells(product(["model.encoder.depth=2,4", "mask.ratio=0.5,0.75"]), Config())
    assert [cell.name for cell in cells] == [
        "depth=2, ratio=0.5", "depth=2, ratio=0.75", "depth=4, ratio=0.5", "depth=4, ratio=0.75",
    ]  # fmt: skip
    assert (cells[0].config.model.encoder.depth, cells[0].config.mask.ratio) == (2, 0.5)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5,0.75", [0.5, 0.75]),
        ("random, block", ["random", "block"]),
        ("true,false", [True, False]),
        ("[8,8],[4,4]", [[8, 8], [4, 4]]),
        ("[8,8],folder:a[1,2]", [[8, 8], "folder:a[1,2]"]),
        ("unset,3", ["unset", 3]),
    ],
)
def test_values_of_an_axis_are_numbers_words_booleans_or_lists(text: str, values: list[object]) -> None:
    assert [cell.overrides["key"] for cell in product([f"key={text}"]).cells] == values


@pytest.mark.parametrize("axis", ["mask.ratio", "=0.5", "mask.ratio=", "mask.ratio=a,,b"])
def test_an_axis_without_key_or_values_is_refused(axis: str) -> None:
    with pytest.raises(UserError, match=r"expected dotted\.key=value,value"):
        product([axis])


def test_one_key_on_two_axes_is_refused() -> None:
    with pytest.raises(UserError, match=r"--axis mask\.ratio is given twice"):
        product(["mask.ratio=0.5", "mask.ratio=0.75"])


@pytest.mark.parametrize(
    ("axis", "reason"),
    [
        ("train.seed=0,1,5", "give --seeds 3"),
        ('probe.kinds=["linear"],["knn"]', "give --probe"),
        ("run.log_every=5,10", "changes no result"),
    ],
)
def test_cells_cannot_differ_in_what_changes_no_result(axis: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(product(["mask.ratio=0.5,0.75", axis]), Config())


@pytest.mark.parametrize("axes", [True, False])
def test_a_cell_can_unset_a_key(axes: bool, tmp_path: Path) -> None:
    text = (
        '[axes]\n"train.clip_norm" = ["unset", 3.0]'
        if axes
        else """
[[cells]]
name = "unset"
set = {"train.clip_norm" = "unset"}
[[cells]]
name = "3"
set = {"train.clip_norm" = 3.0}
"""
    )
    (tmp_path / "s.toml").write_text(f'name = "clip"\n{text}')
    made = plan(read_study(tmp_path / "s.toml"), build({"train.clip_norm": 3.0}))
    assert [(cell.name, cell.is_default) for cell in made.record.cells] == [("unset", False), ("3", True)]
    assert [job.config.train.clip_norm for job in made.jobs] == [None, 3.0]


def test_a_cell_that_unsets_what_is_not_set_is_the_base_config() -> None:
    made = plan(product(["probe.linear.lars_warmup_epochs=unset,3"]), build({"probe.linear.solver": "lars"}))
    assert [(cell.name, cell.is_default) for cell in made.record.cells] == [("unset", True), ("3", False)]
    assert made.record.cells[0].overrides == {"probe.linear.lars_warmup_epochs": None}  # as the base config has it


def test_a_cell_cannot_unset_what_always_has_a_value() -> None:
    with pytest.raises(UserError, match=r"cell mask\.ratio=unset: mask\.ratio=unset: it cannot be unset"):
        plan(product(["mask.ratio=unset,0.5"]), Config())


def test_two_cells_of_one_name_are_refused() -> None:
    study = Study("a", "", (Cell({"mask.ratio": 0.5}, name="x"), Cell({"mask.ratio": 0.25}, name="x")))
    with pytest.raises(UserError, match=r"study a: two cells with different settings are named 'x'"):
        plan(study, Config())


def test_values_that_differ_in_a_late_digit_have_names_of_their_own() -> None:
    made = plan(product(["train.base_lr=0.00123456,0.00123457,0.001234567"]), Config())
    assert [cell.name for cell in made.record.cells] == ["0.00123456", "0.00123457", "0.001234567"]


@pytest.mark.parametrize(
    ("study", "settings", "names", "note"),
    [
        (product(["mask.ratio=0.75,0.750,0.5"]), {}, ["0.75", "0.5"], "mask.ratio=0.75 and mask.ratio=0.75 are equal"),
        (
            STUDIES["schedule"],
            {"train.epochs": 4, "train.warmup_epochs": 0.0},
            ["1", "2", "4", "8"],
            "are equal on this base config",
        ),
        (product(["train.warmup_epochs=2,3"]), {}, ["2", "3"], ""),
        (
            Study("a", "", (Cell({}, name="base"), Cell({"mask.ratio": 0.75}, name="same"))),
            {},
            ["base"],
            "study a: base and same are equal on this base config: one cell, base",
        ),
    ],
)
def test_cells_with_equal_results_are_one_and_that_is_said(
    study: Study, settings: dict[str, object], names: list[str], note: str
) -> None:
    made = plan(study, build(settings))
    assert [cell.name for cell in made.record.cells] == names
    assert sum(cell.is_default for cell in made.record.cells) == 1
    assert note in " ".join(made.notes)


def test_a_study_file_gives_cells_with_the_papers_figures(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'name = "heads"\nquestion = "Do heads matter?"\n'
        '[[cells]]\nname = "two"\nset = {"model.encoder.heads" = 2}\npaper = {linear = 70.0}\n'
    )
    cells = plan_cells(read_study(tmp_path / "s.toml"), Config())
    assert cells[0].config.model.encoder.heads == 2
    assert cells[0].record.paper == {"linear": 70.0}


@pytest.mark.parametrize("name", [*STUDIES, *OWN])
def test_a_study_written_to_a_file_is_read_with_equal_cells(name: str, tmp_path: Path) -> None:
    study, base = (STUDIES | OWN)[name], resolve()
    (tmp_path / "s.toml").write_text(to_toml(study, base))
    again = read_study(tmp_path / "s.toml")
    before, after = ([(cell.record, cell.config) for cell in plan_cells(each, base)] for each in (study, again))
    assert after == before
    assert again.base(base) == study.base(base)


def test_a_study_file_may_name_the_axis_of_its_figure(tmp_path: Path) -> None:
    cells = "\n".join(f'[[cells]]\nname = "{each}"\nset = {{"probe.labels" = {each}}}' for each in (0.01, 0.1, 1.0))
    (tmp_path / "s.toml").write_text(f'name = "labels"\naxis = "probe.labels"\n{cells}')
    study = read_study(tmp_path / "s.toml")
    assert (study.axis, study.log_axis) == ("probe.labels", True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = 'a'",
        "name = 'a'\naxis = 'mask.ratio'\n[[cells]]\nname = 'b'\nset = {}",
        "name = 'a'\ncells = []",
        "name = 'a'\n[axes]",
        "name = '../x'\n[axes]\n'mask.ratio'=[0.5]",
        "name='a'\nfoo=1",
        "name = [",
        "\xff",
    ],
)
def test_a_bad_study_file_is_the_users_mistake(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"study file .*s\.toml"):
        read_study(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("name", "file", "axes"), [(None, None, ()), ("target", None, ("mask.ratio=0.5",)), ("traget", None, ())]
)
def test_exactly_one_known_study_is_to_be_given(name: str | None, file: None, axes: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        choose_studies(name, file, axes)


def test_what_later_work_has_added_to_a_table_is_no_part_of_the_paper() -> None:
    whole = {study.name: [str(cell) for cell in study.cells] for study in choose_studies("paper", None, ())}
    assert whole["target"] == ["pixels", "normalised pixels", "PCA", "tokens"]
    (alone,) = choose_studies("target", None, ())
    assert [str(cell) for cell in alone.cells] == [*whole["target"], "low frequencies"]


def test_a_row_that_needs_a_tokenizer_is_there_where_the_base_config_names_one() -> None:
    rows = []
    for settings in ([], ["target.kind=tokens", "target.tokenizer=4feb090f83a7"]):
        cells = plan_cells(STUDIES["target"], resolve(settings=settings))
        rows.append([cell.name for cell in cells])
    assert rows == [["pixels", "normalised pixels", "PCA", "low frequencies"], [*rows[0][:3], "tokens", *rows[0][3:]]]
    assert [cell.config.target.tokenizer for cell in cells] == [None, None, None, "4feb090f83a7", None]


@pytest.mark.parametrize(
    ("settings", "cell", "reason"),
    [
        ({}, "beit", "target.tokenizer=unset: expected a finished run"),
        ({"data.image_size": [8, 12]}, "rotation", "rotation needs square images"),
    ],
)
def test_a_task_that_cannot_be_on_the_base_config_is_left_out_and_named(
    settings: dict[str, Any], cell: str, reason: str
) -> None:
    made = plan(OWN["pretext"], change(resolve("digits"), settings))
    assert cell not in [each.name for each in made.record.cells]
    assert [note for note in made.notes if cell in note and reason in note]
    with pytest.raises(UserError, match=reason.split()[-1]):  # asked for by name, it is an error
        plan(product([f"pretext.kind=mae,{cell}"]), change(resolve("digits"), settings))


def test_a_job_is_done_when_pretraining_and_probes_have_results(tmp_path: Path) -> None:
    job = Job("x", Config(), "f" * 12, ("knn",))
    (tmp_path / job.fingerprint / "probes" / job.probe_name("knn")).mkdir(parents=True)
    (tmp_path / job.fingerprint / "result.json").write_text("{}")
    assert not job.is_done(tmp_path)
    (tmp_path / job.fingerprint / "probes" / job.probe_name("knn") / "result.json").write_text("{}")
    assert job.is_done(tmp_path)


def test_trainings_that_miss_probes_only_are_told_apart(tmp_path: Path) -> None:
    jobs = [Job(name, Config(), name * 12, ("knn",)) for name in "abc"]
    assert told_done(jobs, tmp_path) == "3 trainings, 0 done already"
    for place in (tmp_path / ("a" * 12), *(stage.path for stage in jobs[1].stages(tmp_path))):
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text("{}")
    assert told_done(jobs, tmp_path) == "3 trainings, 1 done already, 1 to be probed only"


def test_a_plan_of_some_seeds_has_their_trainings_and_the_same_directory() -> None:
    whole = plan(STUDIES["mask-token"], Config(), seeds=4)
    part = whole.of_seeds(3, 1)
    assert (whole.seeds, part.seeds) == (4, 2)
    assert {job.config.train.seed for job in part.jobs} == {trial.seed for trial in part.record.trials} == {1, 2}
    assert part.directory == whole.directory


class Runs:
    """Stands in for the work on plans: keeps the cells and seeds of each round, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.rounds: list[list[str]] = []
        self.failing = failing

    def __call__(self, plans: list[Plan], *more: object) -> dict[str, str]:
        labels = [job.label for each in plans for job in each.jobs]
        self.rounds.append(labels)
        return {label: "NaN" for label in labels if label == self.failing}


def until(runs: Runs, fail_fast: bool, needed: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run_studies, "run_plans", runs)
    studies = [Study(name, "", (Cell({"mask.ratio": 0.5}), Cell({"mask.ratio": 0.75}))) for name in needed]
    plans = [make_plan(study, Config(), 6, lambda data: "digest", tmp_path) for study in studies]
    return run_until(
        lambda now: now.seeds >= needed[now.record.name], plans, 2, Executor("cpu", 1), fail_fast, Console(quiet=True)
    )


def test_seeds_are_added_one_at_a_time_to_the_studies_that_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs()
    done, failures = until(runs, False, {"a": 2, "b": 4}, tmp_path, monkeypatch)
    assert [each.seeds for each in done] == [2, 4]
    assert failures == {}
    assert [sorted({label.split(", ")[1] for label in labels}) for labels in runs.rounds] == [
        ["seed 0", "seed 1"],
        ["seed 2"],
        ["seed 3"],
    ]
    assert {label[0] for labels in runs.rounds[1:] for label in labels} == {"b"}
    assert {record.name: len(record.trials) for _, record in find_studies(tmp_path)} == {"a": 4, "b": 8}


def test_no_more_seeds_are_added_than_there_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = until(Runs(), False, {"a": 99}, tmp_path, monkeypatch)
    assert [each.seeds for each in done] == [6]


def test_a_failed_training_is_not_tried_again_with_every_seed_that_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(failing="a 0.5, seed 0")
    _, failures = until(runs, False, {"a": 4}, tmp_path, monkeypatch)
    assert failures == {"a 0.5, seed 0": "NaN"}
    assert [labels.count("a 0.5, seed 0") for labels in runs.rounds] == [1, 0, 0]


def test_a_study_that_stops_at_its_first_failure_adds_no_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(failing="a 0.5, seed 0")
    until(runs, True, {"a": 4}, tmp_path, monkeypatch)
    assert len(runs.rounds) == 1


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        (product(["mask.ratio=0.4,0.5"]), "no cell of ratio is the base config"),
        (product(["mask.ratio=0.75"]), "or there is no other"),
        (STUDIES["wall-clock"], "wall-clock is not probed"),
    ],
)
def test_a_precision_needs_differences_from_a_default(study: Study, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_comparable([plan(study, Config())], [])


def test_a_precision_is_about_all_cells() -> None:
    with pytest.raises(UserError, match="leave out --only"):
        check_comparable([plan(STUDIES["mask-ratio"], Config())], ["0.5"])


def test_tasks_on_clips_and_on_images_are_never_in_one_study() -> None:
    on_images, on_clips = (
        {str(cell.config.pretext.kind) for cell in plan_cells(OWN["pretext"], resolve(preset))}
        for preset in ("digits", "moving-digits")
    )
    assert on_clips == {"cvrl", "video_mae", "supervised", "random"}
    assert on_images & on_clips == {"supervised", "random"}
    notes = plan(OWN["pretext"], resolve("moving-digits")).notes
    assert any(
        "study pretext: rotation is left out on this base config: pretext.kind=rotation: " in note for note in notes
    )
