import math

import pytest

from mae.training.schedule import lr_at, peak_lr


def test_the_learning_rate_warms_up_peaks_and_ends_at_zero() -> None:
    rates = [lr_at(epoch, 3.0, 10, 110) for epoch in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0, 1.5, 3, 1.5, 0], abs=1e-9)
    assert math.isclose(lr_at(1, 1.0, 0, 1), 0, abs_tol=1e-9)


def test_a_quarter_of_the_decay_is_a_quarter_of_a_half_cosine() -> None:
    assert lr_at(35, 2.0, 10, 110) == pytest.approx(1 + math.sqrt(0.5))


def test_warm_up_to_the_very_end_ends_at_the_peak() -> None:
    assert lr_at(10, 3.0, 10, 10) == 3.0


def test_the_rate_without_warm_up_begins_at_the_peak() -> None:
    assert lr_at(0, 3.0, 0, 10) == 3.0


def test_the_paper_pretrains_at_a_rate_of_0_0024() -> None:
    assert peak_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)  # table 8: batches of 4096
