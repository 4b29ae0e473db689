"""The benchmarks of models, training and their costs, at sizes of seconds: what they count is what they say."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import torch

from benchmarks import costs, models, trainer, utilization
from hf_tasks import train
from hf_tasks.recipe import build_config, load_recipe


def test_exponents_are_those_of_power_laws_whatever_is_constant_below() -> None:
    law = {size: 3 * size**1.7 for size in (16, 32, 64)}
    assert costs.exponent({2: 100.0, 4: 100.0, 8: 100.0, **law}) == 1.7
    assert costs.exponent({1: 9.0, 2: 5.0, 4: 5.0}) == 0
    assert costs.curve(law, {16: 7.0, 32: 14.0, 64: 28.0})["exponents"] == {"seconds": 1.7, "peak_mib": 1.0}


def test_costs_grow_as_the_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "import sys; n = int(sys.argv[1]); print([n, n / 1000, n**0.5])"
    for name, value in {
        "FOLDER": tmp_path, "LENGTHS": [32, 64, 128], "BATCHES": [1, 2, 4], "ROUNDS": 1,
        "DATA": [10, 100, 1000], "MAKER": told,
    }.items():  # fmt: skip
        monkeypatch.setattr(costs, name, value)
    monkeypatch.setitem(models.SIZES, "cpu", {"hidden": 32, "inner": 32, "layers": 1, "heads": 4, "tokens": 1})
    monkeypatch.setattr(sys, "argv", ["costs"])
    costs.main()
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "costs.json").read_text())
    assert {"command", "hardware", "versions", "shape", "rows_by_length", "length_by_batch"} < {*result}
    by_length, by_batch, data = result["curves"].values()
    assert {*by_length} == {*by_batch} == {*costs.NAMES}
    assert [*by_length[costs.ALIKE]["seconds"]] == ["32", "64", "128"]
    assert data["addition"]["exponents"] == {"seconds": 1.0, "peak_mib": 0.5}
    # Attention on CPU keeps no scores, but the mask has one for each pair of tokens and head.
    plain, mask = (by_length[name]["peak_mib"] for name in (costs.ALIKE, "significance+clipped"))
    assert 0.9 < by_length[costs.ALIKE]["exponents"]["peak_mib"] < 1.05
    assert mask["128"] - plain["128"] > costs.ROWS * 4 * 128**2 * 4 / 2**20
    assert by_batch[costs.ALIKE]["peak_mib"]["4"] == plain["64"]


def test_data_are_made_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", "300"])
    monkeypatch.setattr(datasets, "disable_progress_bars", lambda: None)
    exec(costs.MAKER, {})  # what a process of its own runs, without its imports
    rows, seconds, mib = json.loads(capsys.readouterr().out)
    assert rows == 300 and seconds > 0 and mib >= 0


def test_flops_are_those_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilization, "FOLDER", tmp_path)
    monkeypatch.setattr(utilization, "SIDES", {"cpu": [32, 64]})
    monkeypatch.setattr(utilization, "ROUNDS", 1)
    monkeypatch.setattr(sys, "argv", ["utilization", "--batch", "3"])
    utilization.main()
    result = json.loads((tmp_path / "utilization.json").read_text())
    assert result["command"] == "python -m benchmarks.utilization --batch 3"
    config = build_config(load_recipe("multiplication"), "significance+operand")
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size) + hidden * config.vocab_size
    length = result["length"]
    # Twice each weight forward and four times backward; scores and mixing take 2 hidden a pair of tokens, and thrice.
    assert result["flops_per_step"] == 3 * length * (6 * weights + 12 * layers * hidden * length)
    assert result["flops_of_optimizer"] > 0
    way, fastest = result["ways"]["eager"], result["peak_flops_per_second"]["fastest product"]
    assert fastest == pytest.approx(max(result["flops_per_second_of_products"].values()), rel=1e-3)
    assert way["utilization"] == {"fastest product": pytest.approx(way["flops_per_second"] / fastest, rel=1e-3)}
    assert way["flops_per_second"] == pytest.approx(1000 * result["flops_per_step"] / way["milliseconds"]["step"], 1e-3)
    assert {*way["milliseconds"]} == {"step", "forward+backward", "optimizer"}


def test_no_rows_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["utilization", "--batch", "0"])
    with pytest.raises(SystemExit):
        utilization.main()
    assert "--batch 0: give 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("script", [costs, models, utilization])
@pytest.mark.parametrize(
    ("given", "told"), [("cuda", "torch finds no GPU for 'cuda' here"), ("tpu", "'tpu' is neither")]
)
def test_a_device_that_is_not_here_is_refused(
    script: ModuleType, given: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", given])
    with pytest.raises(SystemExit):
        script.main()
    assert f"argument --device: {told}" in capsys.readouterr().err


def test_a_product_counts_twice_its_cube() -> None:
    a = torch.ones(8, 8)
    assert utilization.flops(lambda: a @ a) == 2 * 8**3


def test_peak_memory_is_of_what_is_held_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(2**18)

    assert models.peak_mib(one_after_the_other, "cpu") == 1
    assert models.peak_mib(lambda: [torch.empty(2**18) for _ in range(3)], "cpu") == 3


def test_generation_holds_at_least_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"hidden": 64, "inner": 64, "layers": 1, "heads": 2, "tokens": 256}
    monkeypatch.setattr(models, "SIZES", {"cpu": size})
    monkeypatch.setattr(models, "NEW", 4)
    monkeypatch.setattr(models, "ROUNDS", 1)
    pairs = {f"ours, {name}": models.PAIRS[name] for name in (models.ALIKE, "sequential+cope")}
    monkeypatch.setattr(models, "all_runs", lambda device, _: {n: models.ours(p, device) for n, p in pairs.items()})
    (found,) = models.measure("cpu", 128, "generation").values()
    assert {*found} == {"tokens_per_second", "peak_mib", "ratios"}
    cache = 2 * models.GENERATED * 124 * size["hidden"] * 4 / 2**20
    rotary, cope = (found["peak_mib"][name] for name in pairs)
    # CoPE has numbers for each pair of tokens.
    assert cache < rotary < cope < 20 * cache


def test_a_run_is_trained_with_all_that_runs_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["data.size=200", "trainer.per_device_train_batch_size=16", "trainer.logging_steps=2"]
    monkeypatch.setattr(trainer, "SETTINGS", [*trainer.SETTINGS, *small])
    monkeypatch.setattr(trainer, "STEPS", 4)
    monkeypatch.setattr(trainer, "ROUNDS", 1)
    monkeypatch.setattr(trainer, "RESULT", tmp_path / "trainer.json")
    by_trainer, seal = trainer.by_trainer, train.seal
    callbacks: list[set[str]] = []
    sealed: list[str] = []

    def watched(made: Any) -> tuple[float, float]:
        callbacks.append({type(one).__name__ for one in made.callback_handler.callbacks})
        return by_trainer(made)

    def counted(checkpoint: Path, processes: int) -> None:
        sealed.append(checkpoint.name)
        seal(checkpoint, processes)

    monkeypatch.setattr(trainer, "by_trainer", watched)
    monkeypatch.setattr(train, "seal", counted)
    trainer.main()
    run, alone = sorted(callbacks[-2:], key=lambda names: "Seal" not in names)
    assert run - alone == {"Throughput", "Stopwatch", "Seal"} and not alone - run
    assert not any(name in run for name in ("Bar", "PrinterCallback", "ProgressCallback"))
    assert sealed == ["checkpoint-4"] * 2  # of the warm-up and the round, by the run alone
    result = json.loads((tmp_path / "trainer.json").read_text())
    milliseconds = result["milliseconds_per_step"]
    assert [*milliseconds] == ["run", "Trainer", "bare loop"]
    assert result["ratio"] == pytest.approx(milliseconds["Trainer"] / milliseconds["bare loop"], rel=0.01)
    assert result["ratio_of_run"] == pytest.approx(milliseconds["run"] / milliseconds["bare loop"], rel=0.01)
