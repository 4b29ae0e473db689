"""Sharpness, and how near to the edge of stability it is: the curvature that the optimizer meets while a model trains.

- The largest eigenvalue of the Hessian of the loss on one fixed batch, by Lanczos on products of Hessian and vector.
  They take the second derivative of attention, which the fused kernels lack (pytorch#116350): here attention is eager.
- On a quadratic with Hessian H, the steps x' = x - S m, m' = beta m + (1 - tau) H x are stable while no eigenvalue of
  S^1/2 H S^1/2 is above 2 (1 + beta) / (1 - tau). S holds the learning rate of every parameter over what its gradient
  is divided by. `relative_sharpness` is the largest eigenvalue over this limit, so that 1 is the edge of stability for
  SGD (without momentum: sharpness = 2 / learning rate; Ahn et al. 2022, arXiv 2212.07469), for SGD with momentum, and
  for Adam. Clipping and weight decay are not looked at. Where steps are of another kind (Nesterov, Muon, AMSGrad) it is
  left out.
- Training does not notice: modes, gradients, attention implementation and random states are as before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from hf_tasks.analysis.forward import looking_into, own_randomness
from hf_tasks.errors import UserError

Batch = dict[str, Any]


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 30, tolerance: float = 1e-3
) -> float:
    """The largest eigenvalue of a symmetric matrix that is known by its products, by the Lanczos method.

    Args:
        product: vector (n,) -> matrix times vector.
        start: (n,), any vector that is not orthogonal to the eigenvector; it need not have length 1.
        iterations: most products.
        tolerance: relative change between two products at which to stop.

    Returns:
        the largest Ritz value, which comes from below; NaN if a product is not finite.
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    found = float("nan")
    for _ in range(min(iterations, len(start))):
        rest = product(basis[-1])
        if not rest.isfinite().all():  # a run that has diverged
            return float("nan")
        diagonal.append(rest @ basis[-1])
        for _ in range(2):  # once leaves rounding errors that grow into copies of the eigenvalue
            for vector in basis:
                rest = rest - (rest @ vector) * vector
        ritz = torch.diag(torch.stack(diagonal))
        if beside:
            sides = torch.stack(beside)
            ritz = ritz + torch.diag(sides, 1) + torch.diag(sides, -1)
        before, found = found, torch.linalg.eigvalsh(ritz.double().cpu())[-1].item()
        length = rest.norm()
        if abs(found - before) <= tolerance * abs(found) or length <= 1e-12 * abs(found):
            break
        beside.append(length)
        basis.append(rest / length)
    return found


def sharpness(
    loss: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[Tensor | float] | None = None,
    iterations: int = 30,
    tolerance: float = 1e-3,
) -> float:
    """The largest eigenvalue of the Hessian H of a loss, or of S^1/2 H S^1/2.

    Args:
        loss: with its graph, which is kept.
        parameters: float32 or float64 tensors that it depends on.
        steps: S, for every parameter a tensor of its shape or a number; None: 1.
        iterations, tolerance: as in `largest_eigenvalue`.
    """
    parameters = list(parameters)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    if not flat.requires_grad:  # of a linear loss
        return 0.0
    scale = None
    if steps is not None:
        roots = [torch.as_tensor(s, device=p.device) ** 0.5 for s, p in zip(steps, parameters, strict=True)]
        scale = torch.cat([root.to(p.dtype).expand_as(p).flatten() for root, p in zip(roots, parameters, strict=True)])

    def product(vector: Tensor) -> Tensor:
        vector = vector if scale is None else vector * scale
        parts = torch.autograd.grad(flat, parameters, vector, retain_graph=True, materialize_grads=True)
        output = torch.cat([part.flatten() for part in parts])
        return output if scale is None else output * scale

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(flat), generator=generator, dtype=flat.dtype).to(flat.device)
    return largest_eigenvalue(product, start, iterations, tolerance)


def step_sizes(optimizer: Any, parameters: Sequence[Tensor]) -> tuple[list[Tensor | float], float] | None:
    """S for every parameter, and the largest eigenvalue of S^1/2 H S^1/2 at which steps are stable.

    Args:
        optimizer: of torch, or accelerate's wrapper of one.
        parameters: some of its parameters.

    Returns:
        None where no such limit is known: other optimizers than SGD, Adam and AdamW in their plain forms, Adam before
        its first step, groups whose momenta differ, or a parameter that the optimizer does not have.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    found: list[Tensor | float] = []
    limits = set()
    for parameter in parameters:
        group = groups.get(id(parameter))
        if group is None:
            return None
        if type(optimizer) is torch.optim.SGD and not group["nesterov"]:
            found.append(group["lr"])
            limits.add(2 * (1 + group["momentum"]) / (1 - (group["dampening"] if group["momentum"] else 0)))
        elif type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and not group["amsgrad"]:
            state, (beta, second) = optimizer.state.get(parameter), group["betas"]
            if not state:
                return None
            count = float(state["step"])
            divisor = (state["exp_avg_sq"] / (1 - second**count)).sqrt() + group["eps"]
            found.append(group["lr"] / (1 - beta**count) / divisor)
            limits.add(2 * (1 + beta) / (1 - beta))
        else:
            return None
    return (found, limits.pop()) if len(limits) == 1 else None


class SharpnessCallback(TrainerCallback):
    """Logs `sharpness` and, where there is one, `relative_sharpness` every so many steps of a `Trainer`.

    Both are of the step that comes next. One look takes a forward and a backward pass and for each figure some ten
    products, of which each costs about as much again. The graph of the whole batch is held in memory, and for every
    product a vector as large as all trained parameters.

    Args:
        batch: what the model's `forward` takes, labels included.
        every: steps between looks.
        loss: (model, batch) -> loss; None: `model(**batch).loss`.

    Raises:
        UserError: `every` is not positive; when training begins: weights or activations are in half precision, in which
            curvature drowns.
    """

    def __init__(
        self,
        batch: Batch,
        every: int = 100,
        loss: Callable[[Any, Batch], Tensor] | None = None,
    ) -> None:
        if every < 1:
            raise UserError(f"every={every}: give a number of steps, 1 or more")
        self.batch, self.every, self.loss = batch, every, loss or _own_loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.bf16 or args.fp16:
            raise UserError("sharpness needs float32: set bf16 and fp16 to false, or leave it out")
        for name, parameter in kwargs["model"].named_parameters():
            if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
                raise UserError(
                    f"{name} is of {parameter.dtype}, and sharpness needs float32: load the model with "
                    "dtype=torch.float32, or leave the callback out"
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            found = self.look(kwargs["model"], kwargs.get("optimizer"))
            state.log_history.append({"step": state.global_step, **found})

    def look(self, model: Any, optimizer: Any = None) -> dict[str, float]:
        """`sharpness` of a model now and, if an optimizer is given that has a limit, `relative_sharpness`."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        batch = {name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in self.batch.items()}
        with own_randomness(model), looking_into(model, maps=True), torch.enable_grad():
            loss = self.loss(model, batch)
            found = {"sharpness": sharpness(loss, parameters)}
            known = None if optimizer is None else step_sizes(optimizer, parameters)
            if known is not None:
                steps, limit = known
                found["relative_sharpness"] = sharpness(loss, parameters, steps) / limit
        return found


def _own_loss(model: Any, batch: Batch) -> Tensor:
    return model(**batch).loss
