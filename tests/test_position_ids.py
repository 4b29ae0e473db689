"""Position ids against definitions written a second time: as loops over characters, from the papers and the design.

Random expressions come from hypothesis, with fillers, other tokens and left padding mixed in.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.models import POSITION_IDS, PositionalModel
from hf_tasks.models.position_ids import ABSENT, Tokens, position_ids

SEPARATORS = "+*=^$"
TEXTS = st.text("0123456789+*= abc^$", min_size=1, max_size=24).map(lambda text: text.rjust(26, "_"))


def ids_of(tiny_model: Callable[..., Any], encode: Callable[..., Any], name: str, *texts: str, **fields: Any) -> list:
    model = tiny_model((name, "none"), num_hidden_layers=1, **fields)
    tokens = encode(*texts)
    return model.structural_ids(tokens, (tokens != 19).long())[..., 0].tolist()


# ----------------------------------------------------------------------------------------------------------------------
# significance


def bounds(text: str) -> list[int]:
    """Where numbers end: at anything but digits and fillers."""
    return [i for i, symbol in enumerate(text) if not symbol.isdigit() and symbol != " "]


def places(text: str, reverse: str, answer_width: tuple[int, int] | None = None) -> list[int]:
    """Place values from the design's words, one token at a time.

    Digits of equal weight share an id, units are 1; most-significant-first runs are read from their right end, reversed
    runs from their left. The separator before a most-significant-first number sits one place above its top digit, the
    one before a reversed number at 0, the one behind a reversed number one above its top; others have no place. A plain
    answer of known width is counted down from its opener, and a separator that opens it stands where "=" does.
    """
    walls = bounds(text)
    ids = []
    for i, symbol in enumerate(text):
        opener = max((wall for wall in walls if wall < i), default=-1)
        end = min((wall for wall in walls if wall > i), default=len(text))
        before = sum(c.isdigit() for c in text[opener + 1 : i])
        behind = sum(c.isdigit() for c in text[i + 1 : end])
        signed = opener >= 1 and text[opener - 1] == "=" and text[opener] in SEPARATORS
        answer = opener >= 0 and (text[opener] == "=" or (signed and reverse == "none"))
        backwards = reverse == "all" or (reverse == "answer" and answer)
        counted_down = reverse == "none" and answer_width is not None

        def width(until: int) -> int:
            assert answer_width is not None
            numbers = text[: until + 1].replace(" ", "")
            for wall in set(numbers) - set("0123456789"):
                numbers = numbers.replace(wall, "|")
            return answer_width[0] * max(len(number) for number in numbers.split("|")) + answer_width[1]

        if symbol.isdigit():
            place = before + 1 if backwards else behind + 1
            if answer and counted_down:
                place = max(width(opener) - before, ABSENT)
        elif symbol not in SEPARATORS:
            place = ABSENT
        elif before and backwards and symbol != "=":
            place = before + 1
        elif reverse == "all" or (reverse == "answer" and symbol == "="):
            place = 0
        elif counted_down and (symbol == "=" or text[max(i - 1, 0)] == "="):
            place = width(i) + 1
        elif behind:
            place = behind + 1
        else:
            place = 0 if before else ABSENT
        ids.append(place)
    return ids


@pytest.mark.parametrize("reverse", ["none", "answer", "all"])
@pytest.mark.parametrize("answer_width", [None, [1, 1], [2, 0]])
def test_significance_equals_the_parser(
    reverse: str, answer_width: list[int] | None, tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    fields = {"reversed_numbers": reverse, "answer_width": answer_width}
    model = tiny_model(("significance", "none"), num_hidden_layers=1, **fields)
    width = None if answer_width is None else (answer_width[0], answer_width[1])

    @settings(deadline=None, max_examples=60)
    @given(st.lists(TEXTS, min_size=1, max_size=8))
    def check(texts: list[str]) -> None:
        tokens = encode(*texts)
        got = model.structural_ids(tokens, (tokens != 19).long())[..., 0].tolist()
        assert got == [places(text, reverse, width) for text in texts]

    check()


@pytest.mark.parametrize(
    ("text", "reverse", "ids"),
    [
        # The example of the docstring and of the design.
        ("$12+34=640", "answer", [3, 2, 1, 3, 2, 1, 0, 1, 2, 3]),
        # Position coupling, Cho et al. 2024 (arXiv 2405.20671): 653 + 049 = 0702, the answer reversed. Its
        # digits of one significance share an id; the design then puts the separators one place beyond.
        ("$653+049=2070$", "answer", [4, 3, 2, 1, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]),
        # Natural widths: every separator bounds the number behind it.
        ("$7+934=149", "answer", [2, 1, 4, 3, 2, 1, 0, 1, 2, 3]),
        # Everything reversed (McLeish et al. 2024 write 123 + 45 = 168 so).
        ("$321+54=861$", "all", [0, 1, 2, 3, 4, 1, 2, 0, 1, 2, 3, 4]),
        # Fillers are skipped over and have no place of their own.
        ("$1 2+3  4=64", "answer", [3, 2, ABSENT, 1, 3, 2, ABSENT, ABSENT, 1, 0, 1, 2]),
        # A number that is not bounded by a separator is read all the same, the other tokens have no place.
        ("a12b", "none", [ABSENT, 2, 1, ABSENT]),
    ],
)
def test_significance_of_known_texts(
    text: str, reverse: str, ids: list[int], tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    assert ids_of(tiny_model, encode, "significance", text, reversed_numbers=reverse) == [ids]


def test_significance_counts_a_plain_answer_down(tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    fields = {"reversed_numbers": "none", "answer_width": [1, 1]}
    grown = [ids_of(tiny_model, encode, "significance", "$12+934=0946"[:n], **fields)[0] for n in range(8, 13)]
    assert grown[-1] == [3, 2, 1, 4, 3, 2, 1, 5, 4, 3, 2, 1]
    assert all(grown[-1][: len(ids)] == ids for ids in grown), "an id changed while the answer grew"


def test_significance_of_a_sign_is_that_of_the_opener(
    tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    fields = {"reversed_numbers": "none", "answer_width": [1, 0]}
    grown = [ids_of(tiny_model, encode, "significance", "$012+934=+922"[:n], **fields)[0] for n in range(9, 14)]
    assert grown[-1] == [4, 3, 2, 1, 4, 3, 2, 1, 4, 4, 3, 2, 1]
    assert all(grown[-1][: len(ids)] == ids for ids in grown), "an id changed while the answer grew"


@pytest.mark.parametrize("reverse", ["answer", "all"])
def test_significance_of_a_growing_reversed_answer_is_stable(
    reverse: str, tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    text = "$12+934=6490$"
    whole = ids_of(tiny_model, encode, "significance", text, reversed_numbers=reverse)[0]
    for n in range(text.index("=") + 1, len(text)):
        assert ids_of(tiny_model, encode, "significance", text[:n], reversed_numbers=reverse)[0] == whole[:n]


# ----------------------------------------------------------------------------------------------------------------------
# The others, by loops


def abacus(text: str) -> list[int]:
    """McLeish et al. 2024 (arXiv 2405.17399): 1, 2, 3, ... inside each run of digits; their 0 elsewhere is ABSENT."""
    ids, count = [], 0
    for symbol in text:
        if symbol.isdigit():
            count += 1
        elif symbol != " ":
            count = 0
        ids.append(count if symbol.isdigit() else ABSENT)
    return ids


def operand(text: str) -> list[int]:
    """Cho et al. 2025 (arXiv 2410.15787): which number; a separator goes with the number behind it."""
    ids, number, inside = [], 0, False
    for symbol in text:
        if symbol.isdigit():
            number, inside = number + (not inside), True
        elif symbol != " ":
            inside = False
        ids.append(number if symbol.isdigit() else number + 1 if symbol in SEPARATORS else ABSENT)
    return ids


def interleaved(text: str) -> list[int]:
    """Numbers of a sum 0, 1, 3, 5, ..., and 2, 4, ... those that "=" opens; a separator goes with what is behind it."""
    ids = []
    for i, number in enumerate(operand(text)):
        totals = text[: i + 1].count("=")
        first = text[i] in SEPARATORS and number == 1
        place = 2 * totals if totals else max(2 * number - 3, 0)
        ids.append(ABSENT if first or number == ABSENT else place)
    return ids


def occurrence(text: str) -> list[int]:
    """How often the digit has occurred in its number, itself counted; spaces do not end a number."""
    ids, number = [], ""
    for symbol in text:
        if symbol.isdigit():
            number += symbol
        elif symbol != " ":
            number = ""
        ids.append(number.count(symbol) if symbol.isdigit() else ABSENT)
    return ids


def segment(text: str) -> list[int]:
    """The index since the last separator, which itself still belongs to its clause."""
    ids, index = [], 0
    for symbol in text:
        ids.append(index)
        index = 0 if symbol in SEPARATORS + "_" else index + 1
    return ids


def clause(text: str) -> list[int]:
    return [sum(symbol in SEPARATORS for symbol in text[:i]) for i in range(len(text))]


def sequential(text: str) -> list[int]:
    return [max(0, sum(symbol != "_" for symbol in text[: i + 1]) - 1) for i in range(len(text))]


@pytest.mark.parametrize("definition", [abacus, operand, interleaved, occurrence, segment, clause, sequential])
def test_ids_equal_their_loops(
    definition: Callable[[str], list[int]], tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    model = tiny_model((definition.__name__, "none"), num_hidden_layers=1)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(TEXTS, min_size=1, max_size=8))
    def check(texts: list[str]) -> None:
        tokens = encode(*texts)
        got = model.structural_ids(tokens, (tokens != 19).long())[..., 0].tolist()
        assert got == [definition(text) for text in texts]

    check()


def test_totals_are_one_and_two_from_what_they_are_made_of(
    tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    text = "$12+34+56=46=102"
    (ids,) = ids_of(tiny_model, encode, "interleaved", text, reversed_numbers="all")
    assert ids == [ABSENT, 0, 0, 1, 1, 1, 3, 3, 3, 2, 2, 2, 4, 4, 4, 4]
    for n in range(text.index("="), len(text)):
        assert ids_of(tiny_model, encode, "interleaved", text[:n], reversed_numbers="all")[0] == ids[:n]
    (padded,) = ids_of(tiny_model, encode, "interleaved", f"___{text}$", reversed_numbers="all")
    assert padded == [*[ABSENT] * 3, *ids, 4]


def test_occurrences_of_the_docstrings_string() -> None:
    kind = torch.tensor([[1, 1, 1, 1, 2, 1]])  # caac=a, whose characters are the digits
    tokens = Tokens(torch.tensor([[3, 1, 1, 3, 9, 1]]), kind, kind == 2, kind > 0)
    assert POSITION_IDS["occurrence"]()(tokens, False).tolist() == [[1, 1, 2, 2, ABSENT, 1]]
    # Padding that has a digit's id is none: one slot before a number, whose opener it is.
    kind = torch.tensor([[0, 1, 1, 1]])
    padded = Tokens(torch.tensor([[3, 3, 1, 3]]), kind, kind == 2, kind > 0)
    assert POSITION_IDS["occurrence"]()(padded, False).tolist() == [[ABSENT, 1, 1, 2]]


def test_token_ids_are_the_tokens(tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    assert ids_of(tiny_model, encode, "token", "^1a+1") == [[17, 1, 14, 10, 1]]


# ----------------------------------------------------------------------------------------------------------------------
# Random ids

DRAWN = [
    ("randomized", {"max_length": 64, "eval_length": 16}),
    ("random_float", {"max_value": 64.0, "eval_length": 16}),
]


@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_random_ids_are_drawn_per_sequence_sorted_and_distinct(
    name: str, options: dict, tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    model = tiny_model((name, "none", options)).model
    tokens = encode(*["^12+34=64"] * 200)
    ids = model.structural_ids(tokens, draw=True)[..., 0]
    assert ids.shape == tokens.shape
    assert (ids.diff(dim=1) > 0).all()
    assert ids.min() >= 0 and ids.max() < 64
    assert len({tuple(row) for row in ids.tolist()}) == 200
    # An even draw of 9 out of the range: the mean of all ids is its middle. 1800 ids, standard error about 0.5.
    assert ids.float().mean().item() == pytest.approx(32, abs=2.5)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("name", "options"), [*DRAWN, *((name, {"max_offset": 50}) for name in ("abacus", "significance", "interleaved"))]
)
def test_training_draws_from_torchs_generator_and_evaluation_does_not(
    name: str, options: dict, use_cache: bool, tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    model, tokens = tiny_model((name, "sinusoidal", options)), encode("^12+34=64")

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(tokens, use_cache=use_cache).logits

    assert torch.equal(logits(1), logits(2))
    model.train()
    assert torch.equal(logits(1), logits(1))
    assert not torch.allclose(logits(1), logits(2), atol=1e-3)


def test_randomized_evaluation_spreads_evenly(tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    for name, options in DRAWN:
        model = tiny_model((name, "none", options))
        assert model.structural_ids(encode("^12+3"))[0, :, 0].tolist() == [0, 4, 8, 12, 16]


def test_more_tokens_than_distinct_ids_are_refused(tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    model = tiny_model(("randomized", "rotary", {"max_length": 4})).train()
    with pytest.raises(ValueError, match="9 tokens need 9 distinct ids, max_length is 4"):
        model(encode("^12+34=64"))


def test_offsets_shift_present_ids_by_one_draw_a_sequence(
    tiny_model: Callable[..., Any], encode: Callable[..., Any]
) -> None:
    for name in ("abacus", "significance", "interleaved"):
        model = tiny_model((name, "none", {"max_offset": 7})).model
        tokens = encode(*["a12+34=64"] * 300)
        plain, drawn = (model.structural_ids(tokens, draw=draw)[..., 0].expand(300, 9) for draw in (False, True))
        present = plain != ABSENT
        assert torch.equal(drawn == ABSENT, ~present)
        shifts = [set(row.tolist()) for row in (drawn - plain).masked_fill(~present, -9)]
        shifts = [row - {-9} for row in shifts]
        assert all(len(row) == 1 for row in shifts)
        assert set.union(*shifts) == set(range(8))


# ----------------------------------------------------------------------------------------------------------------------
# The registry


@pytest.mark.parametrize("name", sorted(POSITION_IDS))
def test_ids_declare_what_they_are(name: str, tiny_model: Callable[..., Any], encode: Callable[..., Any]) -> None:
    model = tiny_model((name, "none"))
    tokens = encode("_a1 2b+34=64$", "__^a1 2b+=64$")
    ids = model.structural_ids(tokens, (tokens != 19).long())[..., 0]
    entry = POSITION_IDS[name]
    assert (ids.min() < 0) == entry.can_be_absent
    assert ids.is_floating_point() != entry.whole
    if entry.from_tokens:
        with pytest.raises(ValueError, match=f"'{name}' are read from tokens"):
            model.model.structural_ids(None, inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize("name", [name for name, entry in POSITION_IDS.items() if entry.needs])
def test_ids_refuse_a_config_without_their_tokens(name: str, tiny_config: Callable[..., Any]) -> None:
    needs = str(POSITION_IDS[name].needs)
    with pytest.raises(ValueError, match=f"{name} x none reads {needs}, which is empty: .*from_tokenizer"):
        tiny_config((name, "none"), **{needs: None})


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        position_ids("abacus")(POSITION_IDS["abacus"])


@given(texts=st.lists(TEXTS, min_size=2, max_size=2), draw=st.booleans())
@settings(deadline=None, max_examples=30)
def test_ids_that_rise_never_fall(texts: list[str], draw: bool, tiny_model: Callable[..., Any], encode: Any) -> None:
    tokens = encode(*texts)
    rising = [name for name, entry in POSITION_IDS.items() if entry.rises]
    assert {"sequential", "randomized", "random_float", "clause"} == set(rising)
    model = tiny_model(*((name, "none") for name in rising), num_hidden_layers=1, kind=PositionalModel)
    for ids in model.structural_ids(tokens, (tokens != 19).long(), draw=draw).unbind(-1):
        for row, real in zip(ids, tokens != 19, strict=True):
            assert (row[real].diff() >= 0).all() and (row[real] >= 0).all()
