"""Axis 1: which index does a token get?

What is unusual here:
- Ids are computed inside the model, from the tokens themselves, so `generate` works on plain text.
- An id of `ABSENT` (-1) means "this token has no place"; every encoding treats that as a case of its own.
- Nothing is a loop or depends on values, so everything compiles; all tensors are (batch, sequence).
- Random draws are per sequence, in training only, from torch's global generator. Evaluation is deterministic.
- An id that a token gets must not change when tokens are appended behind it, or cached keys would go stale. The one
  exception is stated where it occurs: `significance` reads a most-significant-first number from its right end, so such
  numbers belong into the prompt, complete.

To add one: write a frozen dataclass with a `__call__`, decorate it with `@position_ids("name")`. Its fields become keys
of a pair in `PositionalConfig.positions`. The contract tests find it by themselves.

This file is uploaded beside every checkpoint: it imports nothing but torch and the standard library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch

T = TypeVar("T")

ABSENT = -1
OTHER, DIGIT, SEPARATOR, FILLER = 0, 1, 2, 3


@dataclass(frozen=True)
class Tokens:
    """What ids are read from. Every tensor is (B, S) unless said otherwise.

    Attributes:
        ids: token ids, or None where the caller gave embeddings (then only the shape of `real` is known).
        kind: OTHER, DIGIT, SEPARATOR or FILLER; a filler (a space or a hint letter inside a number) is skipped over.
        answer: True at the token behind which the answer begins ("=").
        real: False on padding.
        reverse: which numbers are written least significant digit first: "none", "answer" or "all".
        answer_width: (m, c): an answer that is not reversed has m * longest operand + c digits; None if unknown.
    """

    ids: torch.Tensor | None
    kind: torch.Tensor | None
    answer: torch.Tensor | None
    real: torch.Tensor
    reverse: str = "none"
    answer_width: tuple[int, int] | None = None


POSITION_IDS: dict[str, type["PositionIds"]] = {}


@dataclass(frozen=True, kw_only=True)
class PositionIds:
    """Base: `__call__(tokens, draw)` gives ids (B, S); `draw` is True in training, where random ids are drawn."""

    from_tokens: ClassVar[bool] = True  # False: known from lengths alone, so `inputs_embeds` will do
    can_be_absent: ClassVar[bool] = True
    whole: ClassVar[bool] = True  # False: ids are real numbers
    rises: ClassVar[bool] = False  # True: no token has a smaller id than a token before it
    needs: ClassVar[str | None] = None  # the field of the config without which these ids mean nothing

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        raise NotImplementedError


def enter(registry: dict[str, type[T]], name: str) -> Callable[[type[T]], type[T]]:
    """A decorator that enters a class in a registry under `name`, once."""

    def decorate(cls: type[T]) -> type[T]:
        if name in registry:
            raise ValueError(f"{name!r} is registered twice")
        registry[name] = cls
        return cls

    return decorate


def position_ids(name: str) -> Callable[[type[PositionIds]], type[PositionIds]]:
    """Enter a class in the registry of position ids under `name`."""
    return enter(POSITION_IDS, name)


def _slots(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def _offset(ids: torch.Tensor, max_offset: int, draw: bool) -> torch.Tensor:
    """Add to every present id of a sequence one draw from 0 ... max_offset, so that large ids are trained too."""
    if not draw or not max_offset:
        return ids
    shift = torch.randint(0, max_offset + 1, (ids.shape[0], 1), device=ids.device)
    return torch.where(ids == ABSENT, ids, ids + shift)


def _sorted_draws(real: torch.Tensor, max_length: int) -> torch.Tensor:
    """A sorted random subset of 0 ... max_length - 1 for every row of (B, S), without replacement."""
    length = real.shape[1]
    if length > max_length:
        raise ValueError(f"{length} tokens need {length} distinct ids, max_length is {max_length}: raise max_length")
    noise = torch.rand(real.shape[0], max_length, device=real.device)
    return noise.topk(length, dim=1).indices.sort(dim=1).values


@position_ids("sequential")
@dataclass(frozen=True, kw_only=True)
class Sequential(PositionIds):
    """0, 1, 2, ... over the real tokens; left padding does not count."""

    from_tokens: ClassVar[bool] = False
    can_be_absent: ClassVar[bool] = False
    rises: ClassVar[bool] = True

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        return (tokens.real.long().cumsum(1) - 1).clamp(min=0)


@position_ids("randomized")
@dataclass(frozen=True, kw_only=True)
class Randomized(Sequential):
    """A sorted random subset of a longer range (Ruoss et al. 2023, arXiv 2305.16843), one draw for each sequence.

    Evaluation spreads the tokens evenly, as if every sequence had `eval_length` tokens, so that cached keys keep their
    ids while a sequence grows; longer sequences run on past `max_length`.
    """

    max_length: int = 2048
    eval_length: int = 512

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        if draw:
            return _sorted_draws(tokens.real, self.max_length)
        return super().__call__(tokens, draw) * self.max_length // self.eval_length


@position_ids("random_float")
@dataclass(frozen=True, kw_only=True)
class RandomFloat(Sequential):
    """Sorted real numbers drawn evenly from [0, max_value) (random float sampling, arXiv 2602.14050).

    Evaluation spaces the tokens evenly over the same range, as if every sequence had `eval_length` tokens.
    """

    whole: ClassVar[bool] = False
    max_value: float = 512.0
    eval_length: int = 512

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        if draw:
            return torch.rand(tokens.real.shape, device=tokens.real.device).sort(dim=1).values * self.max_value
        return super().__call__(tokens, draw).float() * (self.max_value / self.eval_length)


@dataclass(frozen=True)
class _Runs:
    """The numbers of a sequence: maximal runs of digits, fillers skipped. All (B, S)."""

    digit: torch.Tensor  # bool
    boundary: torch.Tensor  # bool: ends a run
    index: torch.Tensor  # at a digit: 1, 2, ... from the left end of its run
    rest: torch.Tensor  # at a digit: ..., 2, 1: digits left in its run, itself counted
    before: torch.Tensor  # at a boundary: length of the run that it ends, 0 if none
    behind: torch.Tensor  # at a boundary: length of the run that it opens, 0 if none
    opener: torch.Tensor  # slot of the boundary before this token, its own slot excluded; 0 where there is none


def _runs(kind: torch.Tensor) -> _Runs:
    digit, boundary = kind == DIGIT, (kind != DIGIT) & (kind != FILLER)
    count = digit.long().cumsum(1)
    total = count[:, -1:]
    # Exclusive scans: the value at the last boundary before a slot, and at the first one behind it.
    seen = torch.where(boundary, count, 0).cummax(1).values
    last = torch.cat([torch.zeros_like(total), seen[:, :-1]], 1)
    coming = torch.where(boundary, count, total).flip(1).cummin(1).values.flip(1)
    following = torch.cat([coming[:, 1:], total], 1)
    spots = torch.where(boundary, _slots(kind), 0).cummax(1).values
    opener = torch.cat([torch.zeros_like(total), spots[:, :-1]], 1)
    return _Runs(digit, boundary, count - last, following - count + 1, count - last, following - count, opener)


@position_ids("abacus")
@dataclass(frozen=True, kw_only=True)
class Abacus(PositionIds):
    """1, 2, 3, ... inside each run of digits (McLeish et al. 2024, arXiv 2405.17399), no place elsewhere.

    Written for numbers with the least significant digit first. `max_offset` is the paper's k, drawn for each sequence.
    """

    needs: ClassVar[str | None] = "digit_token_ids"
    max_offset: int = 0

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None
        runs = _runs(tokens.kind)
        return _offset(torch.where(runs.digit, runs.index, ABSENT), self.max_offset, draw)


@position_ids("significance")
@dataclass(frozen=True, kw_only=True)
class Significance(PositionIds):
    """Place value: digits of equal weight share an id, units are 1 (position coupling, Cho et al. 2024, 2405.20671).

    A separator sits one place beyond the number it bounds: before a most-significant-first number one above its top
    digit, before a reversed number 0, behind a reversed number one above its top digit. Other tokens have no place.
    `$12+34=640$` with reverse="answer" has the ids 3 2 1 3 2 1 0 1 2 3 4.

    A most-significant-first number is read from its right end, so its ids look ahead: it must stand complete in the
    prompt. In the answer such a number is counted down from `answer_width` instead, which is known from the prompt; its
    sign, a separator with which it begins, has the place of the opener.
    """

    needs: ClassVar[str | None] = "digit_token_ids"
    max_offset: int = 0

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None and tokens.answer is not None
        runs = _runs(tokens.kind)
        openers = {"none": torch.zeros_like(tokens.answer), "answer": tokens.answer, "all": runs.boundary}
        opens_reversed = openers[tokens.reverse]
        in_reversed = opens_reversed.gather(1, runs.opener) | (tokens.reverse == "all")

        place = torch.where(in_reversed, runs.index, runs.rest)
        bound = torch.where(runs.before > 0, 0, ABSENT)  # behind a most-significant-first number
        bound = torch.where(runs.behind > 0, runs.behind + 1, bound)  # before one
        if tokens.answer_width is not None and tokens.reverse == "none":
            times, plus = tokens.answer_width
            longest = torch.where(runs.boundary, runs.before, 0).cummax(1).values
            width = times * longest + plus
            sign = tokens.answer.roll(1, 1) & (tokens.kind == SEPARATOR)
            sign[:, 0] = False
            opens_answer = tokens.answer | sign
            in_answer = opens_answer.gather(1, runs.opener) & runs.digit
            place = torch.where(in_answer, width.gather(1, runs.opener) - runs.index + 1, place).clamp(min=ABSENT)
            bound = torch.where(opens_answer, width + 1, bound)
        bound = torch.where(opens_reversed, 0, bound)
        # Behind a reversed number comes last, the answer's own opener excepted: it is what the first step looks from.
        bound = torch.where(in_reversed & (runs.before > 0) & ~tokens.answer, runs.before + 1, bound)

        ids = torch.where(tokens.kind == SEPARATOR, bound, torch.where(runs.digit, place, ABSENT))
        return _offset(ids, self.max_offset, draw)


@position_ids("operand")
@dataclass(frozen=True, kw_only=True)
class Operand(PositionIds):
    """Which number of the expression: 1, 2, ... at digits, a separator counts with the number behind it.

    The second level of position coupling for several operands (Cho et al. 2025, arXiv 2410.15787).
    """

    needs: ClassVar[str | None] = "digit_token_ids"

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None
        runs = _runs(tokens.kind)
        begun = (runs.digit & (runs.index == 1)).long().cumsum(1)
        return torch.where(runs.digit, begun, torch.where(tokens.kind == SEPARATOR, begun + 1, ABSENT))


@position_ids("interleaved")
@dataclass(frozen=True, kw_only=True)
class Interleaved(PositionIds):
    """Numbers in the order in which running totals need them, every total opened by a token that opens answers.

    The first number is 0, those behind it 1, 3, 5, ..., the totals 2, 4, 6, ...: a total is made of what stands at
    distances 2 and 1, however many numbers there are. A separator counts with the number behind it; the one before the
    first number has no place. Without a token that opens answers there are no totals.
    `$12+34+56=46=102` has the ids - 0 0 1 1 1 3 3 3 2 2 2 4 4 4 4.
    """

    needs: ClassVar[str | None] = "digit_token_ids"
    max_offset: int = 0

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None and tokens.answer is not None
        runs = _runs(tokens.kind)
        begun = (runs.digit & (runs.index == 1)).long().cumsum(1) + (tokens.kind == SEPARATOR).long()
        totals = tokens.answer.long().cumsum(1)
        ids = torch.where(totals > 0, 2 * totals, (2 * begun - 3).clamp(min=0))
        before = (tokens.kind == SEPARATOR) & (begun == 1)
        ids = torch.where((runs.digit | (tokens.kind == SEPARATOR)) & ~before, ids, ABSENT)
        return _offset(ids, self.max_offset, draw)


@position_ids("occurrence")
@dataclass(frozen=True, kw_only=True)
class Occurrence(PositionIds):
    """1, 2, 3, ... at the first, second, third occurrence of the same digit in its number; no place elsewhere.

    `caac=a` has the ids 1 1 2 2 - 1. Attention weighs shares and does not count; with these ids counting is matching.
    """

    needs: ClassVar[str | None] = "digit_token_ids"

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None and tokens.ids is not None
        runs = _runs(tokens.kind)
        # Equal for equal digits of one number alone; what is no digit (padding may have the id of one) is set apart.
        kinds = torch.where(runs.digit, runs.opener * (tokens.ids.max() + 1) + tokens.ids, -1)
        ordered, order = kinds.sort(dim=1, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        slots = _slots(kinds)
        counts = slots - torch.where(first, slots, 0).cummax(1).values + 1
        return torch.where(runs.digit, torch.empty_like(counts).scatter(1, order, counts), ABSENT)


@position_ids("segment")
@dataclass(frozen=True, kw_only=True)
class Segment(PositionIds):
    """0, 1, 2, ... since the last separator: the place inside a clause, which its separator closes."""

    needs: ClassVar[str | None] = "separator_token_ids"
    can_be_absent: ClassVar[bool] = False

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None
        slots = _slots(tokens.real)
        ends = torch.where((tokens.kind == SEPARATOR) | ~tokens.real, slots + 1, 0).cummax(1).values
        return slots - torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)


@position_ids("clause")
@dataclass(frozen=True, kw_only=True)
class Clause(PositionIds):
    """Number of the segment: how many separators stand before the token."""

    needs: ClassVar[str | None] = "separator_token_ids"
    can_be_absent: ClassVar[bool] = False
    rises: ClassVar[bool] = True

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.kind is not None
        separator = ((tokens.kind == SEPARATOR) & tokens.real).long()
        return separator.cumsum(1) - separator


@position_ids("token")
@dataclass(frozen=True, kw_only=True)
class Token(PositionIds):
    """The token itself: equal tokens have equal ids."""

    can_be_absent: ClassVar[bool] = False

    def __call__(self, tokens: Tokens, draw: bool) -> torch.Tensor:
        assert tokens.ids is not None
        return tokens.ids
