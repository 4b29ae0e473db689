"""Sharpness: against exact Hessians and known limits; training does not notice; the edge of stability is found."""

from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from hf_tasks import UserError
from hf_tasks.analysis.sharpness import SharpnessCallback, largest_eigenvalue, sharpness, step_sizes

ROWS = torch.arange(24).reshape(4, 6) % 11
BATCH = {"input_ids": ROWS, "labels": ROWS}


def gpt2(**fields: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, **special, **fields))


def exact(loss: torch.Tensor, parameters: list[Any]) -> torch.Tensor:
    """The Hessian, one row after the other."""
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in gradient]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize("size", [1, 2, 30])
def test_lanczos_finds_the_largest_eigenvalue(size: int) -> None:
    torch.manual_seed(size)
    matrix = torch.randn(size, size, dtype=torch.float64)
    matrix = matrix + matrix.T
    found = largest_eigenvalue(lambda x: matrix @ x, torch.randn(size, dtype=torch.float64), 60, 1e-9)
    assert found == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-6)


def test_a_repeated_or_zero_eigenvalue_ends_the_search() -> None:
    assert largest_eigenvalue(lambda x: 3.0 * x, torch.randn(5)) == pytest.approx(3.0)
    assert largest_eigenvalue(lambda x: 0.0 * x, torch.randn(5)) == 0.0
    weight = torch.ones(3, requires_grad=True)
    assert sharpness(weight.sum(), [weight]) == 0.0


def test_against_the_exact_hessian_of_a_transformer() -> None:
    """Scaled, too: the eigenvalues of S H are those of S^1/2 H S^1/2."""
    model = gpt2(attn_implementation="eager").eval()
    parameters = [*model.parameters()]
    hessian = exact(model(**BATCH).loss, parameters)
    found = sharpness(model(**BATCH).loss, parameters, tolerance=1e-6)
    assert found == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-4)
    steps = [torch.rand_like(parameter) for parameter in parameters]
    scaled = parameters_to_vector(steps)[:, None] * hessian
    found = sharpness(model(**BATCH).loss, parameters, steps, tolerance=1e-6)
    assert found == pytest.approx(torch.linalg.eigvals(scaled).real.max().item(), rel=1e-4)


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.6, dampening=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_is_the_edge_of_stability(name: str) -> None:
    """On the quadratic c w^2 / 2, steps shrink below the limit and grow above it. What Adam divides by is held."""
    for relative in (0.97, 1.03):
        weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = OPTIMIZERS[name]([weight])
        weight.grad = torch.ones_like(weight)
        optimizer.step()  # Adam has no state before
        state = optimizer.state[weight]
        if "step" in state:
            state["step"].fill_(1e6)  # its averages are corrected for no beginning any more
        known = step_sizes(optimizer, [weight])
        assert known is not None
        (step,), limit = known
        curvature = relative * limit / float(step)
        assert sharpness(curvature * weight**2 / 2, [weight], [step]) / limit == pytest.approx(relative)
        held = state["exp_avg_sq"].clone() if "exp_avg_sq" in state else None
        with torch.no_grad():
            weight.fill_(1.0)
        for _ in range(2000):
            weight.grad = (curvature * weight).detach()
            if held is not None:  # so that it is what it was when the step has moved it
                second = optimizer.param_groups[0]["betas"][1]
                state["exp_avg_sq"].copy_((held - (1 - second) * weight.grad**2) / second)
            optimizer.step()
            size = float(weight.detach().abs())
            if size > 1e3:  # far from where the update above is exact
                break
        assert size < 1e-3 if relative < 1 else size > 1e3


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.Adam(p),  # before its first step
        lambda p: torch.optim.RMSprop(p),
        lambda p: torch.optim.SGD([{"params": p[:1], "momentum": 0.5}, {"params": p[1:]}], lr=0.1),
        lambda p: torch.optim.SGD(p[:1], lr=0.1),  # thawed behind its back
    ],
)
def test_no_limit_is_made_up(optimizer: Any) -> None:
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    assert step_sizes(optimizer(weights), weights) is None


def trainer(model: Any, tmp_path: Any, rows: list[dict], callbacks: list[Any], **settings: Any) -> Trainer:
    settings = {"max_steps": 4, "learning_rate": 0.1, "logging_steps": 1, "report_to": "none", **settings}
    settings |= {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=len(rows), **settings)
    return Trainer(model, args, train_dataset=rows, callbacks=callbacks)  # type: ignore[arg-type]


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_training_does_not_notice(optim: str, tmp_path: Any) -> None:
    """With dropout, which takes random numbers, and under sdpa, which has no second derivative."""
    rows = [{"input_ids": row, "labels": row} for row in ROWS]
    ends = []
    for watched in (False, True):
        model = gpt2(resid_pdrop=0.3)
        assert model.config._attn_implementation == "sdpa"
        callbacks = [SharpnessCallback(BATCH, every=2)] if watched else []
        running = trainer(model, tmp_path, rows, callbacks, optim=optim, lr_scheduler_type="constant")
        running.train()
        assert model.config._attn_implementation == "sdpa" and model.training
        ends.append(parameters_to_vector(model.parameters()))
        logged = [entry for entry in running.state.log_history if "sharpness" in entry]
        assert [entry["step"] for entry in logged] == ([2, 4] if watched else [])
        assert all(entry["sharpness"] > 0 and entry["relative_sharpness"] > 0 for entry in logged)
    assert torch.equal(*ends)


def test_full_batch_descent_comes_to_the_edge(tmp_path: Any) -> None:
    """Through the Trainer, by gradient descent on all rows: sharpness rises to 2 / learning rate, and stays."""
    torch.manual_seed(0)
    special: Any = {"pad_token_id": 0, "num_labels": 1}
    config = BertConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=8, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, **special)  # fmt: skip
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 12, (24, 5), generator=generator)
    targets = torch.randn(24, generator=generator)
    rows = [{"input_ids": t, "labels": y} for t, y in zip(tokens, targets, strict=True)]
    callback = SharpnessCallback({"input_ids": tokens, "labels": targets}, every=50)
    running = trainer(model, tmp_path, rows, [callback], max_steps=1500, learning_rate=0.1, optim="sgd",
                      lr_scheduler_type="constant", max_grad_norm=0.0, logging_steps=500)  # fmt: skip
    running.train()
    relative = [entry["relative_sharpness"] for entry in running.state.log_history if "sharpness" in entry]
    assert relative[0] < 0.7
    late = torch.tensor(relative[-8:])
    assert 0.9 < late.mean() < 1.1, relative


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_a_run_that_diverges_goes_on(tmp_path: Any) -> None:
    rows = [{"input_ids": row, "labels": row} for row in ROWS]
    running = trainer(gpt2(), tmp_path, rows, [SharpnessCallback(BATCH, every=4)], max_steps=8, learning_rate=1e6,
                      optim="sgd", max_grad_norm=0.0)  # fmt: skip
    running.train()
    last = [entry["sharpness"] for entry in running.state.log_history if "sharpness" in entry]
    assert len(last) == 2 and last[-1] != last[-1]


def test_looks_are_counted_in_steps() -> None:
    with pytest.raises(UserError, match="every=0: give a number of steps, 1 or more"):
        SharpnessCallback(BATCH, every=0)


def test_half_precision_is_refused(tmp_path: Any) -> None:
    rows = [{"input_ids": row, "labels": row} for row in ROWS]
    with pytest.raises(UserError, match=r"transformer.wte.weight is of torch.bfloat16, and sharpness needs float32"):
        trainer(gpt2().bfloat16(), tmp_path, rows, [SharpnessCallback(BATCH)]).train()
    with pytest.raises(UserError, match="sharpness needs float32: set bf16 and fp16 to false"):
        trainer(gpt2(), tmp_path, rows, [SharpnessCallback(BATCH)], bf16=True).train()
