"""Which parameter is trained by what, and Muon beside AdamW in one optimizer.

Golden values: `torch.optim.Muon` and `torch.optim.AdamW` of PyTorch, each on its own parameters.
"""

import copy

import pytest
import torch

from hf_tasks.adapters import add_adapter
from hf_tasks.errors import UserError
from hf_tasks.models import PositionalConfig, PositionalForCausalLM
from hf_tasks.optimizer import MuonAdamW, build_optimizer, parameter_groups
from hf_tasks.recipe import load_recipe, training_arguments

SETTINGS = ["optimizer=muon", "encoding_lr_multiplier={clipped: 30.0}", "trainer.weight_decay=0.1"]


def small_model() -> PositionalForCausalLM:
    torch.manual_seed(0)
    pairs = [{"ids": "sequential", "encoding": "clipped", "clip": 2}, {"ids": "sequential", "encoding": "fire"}]
    return PositionalForCausalLM(
        PositionalConfig(vocab_size=11, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, positions=pairs, qkv_conv_kernel=3)
    )  # fmt: skip


def recipe_of(*settings: str):
    return load_recipe("addition-extrapolation", "cpu", list(settings))


def steps_of(model: PositionalForCausalLM, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        ids = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(seed))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("settings", [[], SETTINGS], ids=["adamw", "muon"])
def test_every_parameter_is_in_one_group(settings: list[str]) -> None:
    model, recipe = small_model(), recipe_of(*settings)
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    assert any(group["muon"] for group in groups) == bool(settings)


def test_muon_trains_the_matrices_of_layers_alone() -> None:
    model, recipe = small_model(), recipe_of(*SETTINGS)
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    chosen = {id(parameter) for group in groups if group["muon"] for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    ends = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    assert len(names) == 2 * len(ends), names
    assert all(name.endswith(tuple(f"{end}.weight" for end in ends)) for name in names), names


@pytest.mark.parametrize("settings", [[], SETTINGS], ids=["adamw", "muon"])
def test_matrices_have_a_learning_rate_of_their_own(settings: list[str]) -> None:
    model = small_model()
    recipe = recipe_of(*settings, "matrix_lr_multiplier=0.25", "trainer.learning_rate=0.004")
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if "norm" in name or "embed" in name or name.endswith("bias"):
            assert rates[id(parameter)] == 0.004, name
        elif name.endswith("proj.weight"):
            assert rates[id(parameter)] == 0.001, name
    with pytest.raises(UserError, match="matrix_lr_multiplier must be positive, not 0"):
        recipe_of("matrix_lr_multiplier=0")


def test_its_steps_are_those_of_both_optimizers_alone() -> None:
    together, apart, recipe = small_model(), small_model(), recipe_of(*SETTINGS)
    args = training_arguments(recipe, "unused", 0)
    steps_of(together, build_optimizer(together, recipe, args), range(5))

    groups = parameter_groups(apart, recipe, args)
    by = {m: [{k: v for k, v in g.items() if k != "muon"} for g in groups if g["muon"] is m] for m in (True, False)}
    muon = torch.optim.Muon(by[True], adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(by[False], betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    for seed in range(5):
        ids = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(seed))
        apart(input_ids=ids, labels=ids).loss.backward()
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
    for (name, one), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_an_adapter_of_the_head_is_left_to_adamw() -> None:
    recipe, section = recipe_of(*SETTINGS), {"method": "lora", "r": 2, "target_modules": ["q_proj", "lm_head"]}
    model = add_adapter(small_model(), section, "here")
    groups = parameter_groups(model, recipe, training_arguments(recipe, "unused", 0))
    by_muon = {id(p) for group in groups if group["muon"] for p in group["params"]}
    trained = {name: id(p) in by_muon for name, p in model.named_parameters() if p.requires_grad}
    assert any("lm_head" in name for name in trained)
    assert {name for name, muon in trained.items() if muon} == {name for name in trained if ".q_proj." in name}


@pytest.mark.parametrize("muon", [True, False])
def test_one_of_the_two_may_have_nothing_to_train(muon: bool) -> None:
    weight = torch.nn.Parameter(torch.eye(3))
    optimizer = MuonAdamW([{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "muon": muon}])
    weight.square().sum().backward()
    optimizer.step()
    assert not torch.equal(weight, torch.eye(3))


def test_a_loaded_state_goes_on_bitwise() -> None:
    recipe = recipe_of(*SETTINGS)
    args = training_arguments(recipe, "unused", 0)
    model = small_model()
    optimizer = build_optimizer(model, recipe, args)
    steps_of(model, optimizer, range(3))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    steps_of(model, optimizer, range(3, 6))

    resumed = small_model()
    resumed.load_state_dict(weights)
    again = build_optimizer(resumed, recipe, args)
    again.load_state_dict(state)
    steps_of(resumed, again, range(3, 6))
    for (name, one), other in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_schedule_reaches_both() -> None:
    model, recipe = small_model(), recipe_of(*SETTINGS)
    optimizer = build_optimizer(model, recipe, training_arguments(recipe, "unused", 0))
    assert isinstance(optimizer, MuonAdamW)
    before = copy.deepcopy(model.state_dict())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    steps_of(model, optimizer, range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown optimizer in addition-extrapolation 'mouon'.*'muon'.*trainer\.optim"):
        recipe_of("optimizer=mouon")
