"""A small sample of fuzzing, the same at every run, and what fuzzing once found. `make fuzz` goes on."""

import contextlib

import pytest

from tests.fuzz import contract, corpus
from tests.fuzz.hostile import HOSTILE, Hostile
from tests.fuzz.targets import TARGETS, Target, samples
from vzfs.errors import FormatError

COUNT = 200
"""Mutations of each target."""

NEVER_REFUSE = {"zarr", "words", "location", "head"}
"""Targets that look at every refusal themselves."""

PATIENCE = 3
"""What costs more than it should costs ten times as much, and tests run beside each other."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_damaged_files_are_a_model_or_an_error(target: Target) -> None:
    """A damaged file, text or reply gives a model that is safe to use, or an error of one line, soon."""
    outcomes = [
        contract.check(target.run, data, patience=PATIENCE) for data in samples(target, COUNT)
    ]
    assert len(outcomes) == COUNT
    assert len({type(outcome) for outcome in outcomes}) > 1 or target.name in NEVER_REFUSE


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_sound_files_decode(target: Target) -> None:
    """What the damage starts from is sound, so that the damage is what is seen."""
    outcomes = [contract.check(target.run, data) for data in target.seeds()]
    assert outcomes
    assert outcomes.count(None) > len(outcomes) // 2


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
def test_hostile_files_cost_little(hostile: Hostile) -> None:
    """A file made to cost time or memory takes a second for a mebibyte, and a bounded multiple of it."""
    data, run = hostile.make(), TARGETS[hostile.target].run
    contract.check(run, data, patience=PATIENCE)
    if hostile.memory is None:
        return
    with contract.memory(hostile.memory), contextlib.suppress(*contract.EXPECTED):
        run(data)


@pytest.mark.parametrize(
    ("target", "data", "words"),
    [
        ("config", rb'virtual_chunk_containers: {a: {url_prefix: "s3://b/\uD800"}}', "not Unicode"),
        ("config", rb'virtual_chunk_containers: {"s3://b/\uDFFF": 1}', "not Unicode"),
        ("config", b"[" + b"[]," * 80_000 + b"]", "parts"),
        ("snapshot", corpus.long_paths(), "two nodes at"),
    ],
)
def test_what_fuzzing_found_is_refused(target: str, data: bytes, words: str) -> None:
    """Texts that are no Unicode, parts without end, and names without end in an error are refused."""
    error = contract.check(TARGETS[target].run, data)
    assert isinstance(error, FormatError)
    assert words in error.what


@pytest.mark.parametrize("path", sorted(corpus.REGRESSIONS.glob("*-*")), ids=lambda path: path.name)
def test_inputs_that_once_broke_a_decoder_no_longer_do(path) -> None:
    """An input that fuzzing once broke a decoder with is a model or an error."""
    target, _, _ = path.name.partition("-")
    contract.check(TARGETS[target].run, path.read_bytes())


def test_the_contract_sees_what_breaks_it() -> None:
    """Another exception, an error of two lines, and memory beyond the limit do not pass."""

    def two_lines(_: bytes) -> None:
        raise FormatError("corrupt-metadata", "one\ntwo")

    with pytest.raises(contract.BrokenContractError, match="not one line"):
        contract.check(two_lines, b"")
    with pytest.raises(ValueError, match="invalid literal"):
        contract.check(int, b"x")
    with pytest.raises(contract.BrokenContractError, match="MiB"), contract.memory(2**20):
        bytearray(2**21)
    with pytest.raises(contract.BrokenContractError, match="take"):
        contract.check(lambda _: sum(range(10**6)), b"", patience=0.001)
