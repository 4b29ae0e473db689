"""The counting ceiling: how often a model is right that counts the elements of a path but does not follow it.

Such a model sees which element stands at the root, for the root alone hangs on a constant; of the others it knows the
multiset, and answers with the likeliest product. As the path grows it knows the product up to the commutator subgroup
alone, so the limit is 1 / |[G, G]|: 1 for abelian groups.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hf_tasks.analysis.intervals import mean_interval
from hf_tasks.tasks import Task
from hf_tasks.tasks.groups import Action, Group, get_action, get_group

MOST_STATES = 2**20  # (multiset, last element, product) up to which the ceiling is enumerated
LONGEST = 12  # elements whose orders are all gone through for one sampled multiset
ORDERS = 4000  # sampled for one multiset that is longer


@dataclass(frozen=True)
class Ceiling:
    """Accuracy of the best counter.

    Attributes:
        value, ci95: if `exact`, both ends are the value. Else a mean over sampled multisets and its interval; for
            more than `LONGEST` elements orders are sampled too, and the ends are those of a lower and an upper bound.
        limit: of long paths, if the group acts on itself. chance: of guessing.
    """

    value: float
    ci95: tuple[float, float]
    exact: bool
    limit: float | None
    chance: float


def has_ceiling(task: Task) -> bool:
    """Whether the sentences of a task are made of paths of group elements, for which a ceiling is known."""
    return "group" in task.parameters() and task.parameters().get("graph") == "path"


@lru_cache(maxsize=256)  # the models of a recipe mostly share a task, and sampling takes seconds
def task_ceiling(task: Task, clauses: int, seed: int = 0) -> Ceiling:
    """`counting_ceiling`, of 100 samples, for the group and the action of a task that `has_ceiling`."""
    parameters = task.parameters()
    group = get_group(parameters["group"])
    return counting_ceiling(group, get_action(group, parameters["action"]), clauses, 100, seed)


def counting_ceiling(group: Group, action: Action, clauses: int, samples: int = 400, seed: int = 0) -> Ceiling:
    """The ceiling for the last of so many clauses on a path, the root included, all elements equally likely.

    Args:
        samples, seed: multisets drawn where there are too many to be enumerated.
    """
    order, points, free = group.order, action.table.shape[1], clauses - 1
    # The value of the root is known. Which it is makes no difference where the group acts on itself.
    starts = [group.identity] if action.regular else range(points)
    # (starts, elements, points): 1 where the element takes the start to the point.
    ends = np.stack([np.eye(points)[action.table[:, x]] for x in starts])
    limit = 1 / group.commutator_order() if action.regular else None
    if free == 0 or math.comb(free + order - 2, free - 1) * order**2 <= MOST_STATES:
        value = float(_guessed(_enumerated(group, free), ends).sum())
        return Ceiling(value, (value, value), True, limit, 1 / points)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, order, (samples, free))
    if free <= LONGEST:
        lower = upper = np.array([_guessed(_all_orders(group, row)[None], ends)[0] for row in drawn])
    else:
        bounds = [_bounds(_some_orders(group, row, rng), order, ends) for row in drawn]
        lower, upper = np.array(bounds).T
    (mean, low, _), (_, _, high) = mean_interval(lower), mean_interval(upper)
    return Ceiling(float(mean), (float(low), min(1.0, float(high))), False, limit, 1 / points)


def _guessed(products: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(M, order) masses of products -> (M,), the mass of the likeliest point, a mean over starts."""
    return (products @ ends).max(-1).mean(0)


def _enumerated(group: Group, count: int) -> np.ndarray:
    """(multisets, order): the probability of each multiset together with each product."""
    members, masses = np.zeros((1, 0), np.int64), np.eye(group.order)[[group.identity]]
    for _ in range(count):
        longer = [np.sort(np.insert(members, 0, g, axis=1), axis=1) for g in range(group.order)]
        # g times an old product: the column of a new product w is that of g^-1 w.
        moved = [masses[:, group.table[inverse]] / group.order for inverse in group.inverses]
        members, places = np.unique(np.concatenate(longer), axis=0, return_inverse=True)
        masses = np.zeros((len(members), group.order))
        np.add.at(masses, places.ravel(), np.concatenate(moved))
    return masses


def _all_orders(group: Group, elements: np.ndarray) -> np.ndarray:
    """(order,) the distribution of the product over all orders of these elements, subset by subset."""
    count = len(elements)
    subsets = np.arange(2**count)
    sizes = np.bitwise_count(subsets)
    masses = np.zeros((2**count, group.order))
    masses[0, group.identity] = 1
    for size in range(1, count + 1):
        for i, inverse in enumerate(group.inverses[elements]):
            chosen = subsets[(sizes == size) & (subsets >> i & 1 == 1)]
            masses[chosen] += masses[chosen ^ (1 << i)][:, group.table[inverse]] / size
    return masses[-1]


def _some_orders(group: Group, elements: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(ORDERS,) products of these elements in random orders."""
    mixed = elements[rng.random((ORDERS, len(elements))).argsort(1)]
    products = mixed[:, 0]
    for column in mixed.T[1:]:
        products = group.table[column, products]
    return products


def _bounds(products: np.ndarray, order: int, ends: np.ndarray) -> tuple[float, float]:
    """What half of the orders guesses, tried on the other half; and the largest share in all, which is biased up."""
    halves = np.stack([np.bincount(half, minlength=order) / len(half) for half in np.split(products, 2)]) @ ends
    guess = halves[:, 0].argmax(-1)
    return float(halves[np.arange(len(ends)), 1, guess].mean()), float(halves.mean(1).max(-1).mean())
