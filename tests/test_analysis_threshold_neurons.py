"""Threshold neurons: the step size at which b leaves, against algebra and the paper's threshold.

Golden values of the mean model (d = 200, from A = 0.3) are of an earlier, separate implementation: shared/guide/facts-
training.md 2: 0 to 0.95 of the threshold; -0.0200, -0.0723, -0.262, -0.498 at 1.05, 1.2, 2 and 4 times it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_tasks import UserError
from hf_tasks.analysis.threshold_neurons import (
    expected_relu,
    figure_of,
    main,
    measure,
    resting_bias,
    threshold,
    train_mean_model,
    train_neurons,
)
from hf_tasks.cards import results_markdown


def test_the_threshold_of_the_figure() -> None:
    assert threshold(200) == pytest.approx(6.28e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("ratio", "bias"), [(0.5, 0), (0.8, 0), (0.95, 0), (1.05, -0.0200), (1.2, -0.0723), (2, -0.262), (4, -0.498)]
)
def test_the_mean_model_rests_where_algebra_has_it(ratio: float, bias: float) -> None:
    found = train_mean_model(ratio * threshold(200), steps=50_000)
    assert found == pytest.approx(bias, abs=6e-4)
    assert found == pytest.approx(resting_bias(ratio * threshold(200), 200), abs=0.004)


def test_expected_relu_against_a_sum() -> None:
    """The integral of max(z + b, 0) by the normal density, as a Riemann sum; its derivative by differences."""
    z = np.linspace(-12, 12, 400_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    for bias in (-2.0, -0.3, 0.0, 1.5):
        value, slope = expected_relu(bias)
        assert value == pytest.approx(float(np.maximum(z + bias, 0) @ density), abs=1e-7)
        assert slope == pytest.approx((expected_relu(bias + 1e-5)[0] - expected_relu(bias - 1e-5)[0]) / 2e-5, abs=1e-6)


def test_of_neurons_the_bias_is_flat_below_the_threshold_and_falls_beyond_it() -> None:
    below, edge, beyond = (train_neurons(ratio * threshold(100), 0, 100)[0] for ratio in (0.5, 0.9, 2.0))
    assert abs(below - edge) < 0.03 and beyond < edge - 0.2


def test_a_step_size_must_be_positive() -> None:
    with pytest.raises(UserError, match="step size 0 must be positive"):
        resting_bias(0, 200)


def test_the_command_leaves_results_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_tasks.analysis.threshold_neurons.RATIOS", (4.0, 8.0))
    output = tmp_path / "not" / "there"
    main(["--output", str(output), "--seeds", "0", "1"])
    results = json.loads((output / "results.json").read_text())
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
    table = results_markdown(results)
    assert "| length | rows | mean model | threshold neurons |" in table
    assert "| bias, step size 4.0 | 1 | -0.50 (-0.50) |" in table
    again = measure((4.0, 8.0), [0, 1])
    assert again["runs"] == results["runs"]
    assert len(figure_of(results).axes[0].lines) == 4
