"""The index names a test for each fault, and each test is there."""

import re
from pathlib import Path

import tests.faults as faults

ROOT = Path(__file__).parents[2]
ENTRIES = re.findall(r"^\* (\d+) .*: (\S+)$", faults.__doc__ or "", flags=re.MULTILINE)


def test_every_fault_has_a_test() -> None:
    assert {int(number) for number, _ in ENTRIES} == set(range(1, 44))


def test_every_test_that_is_named_exists_and_every_one_here_is_named() -> None:
    here = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    defined = set(re.findall(r"^def (test_\w+)", here, flags=re.MULTILINE))
    named = {test for _, test in ENTRIES if "::" not in test}
    assert named == defined
    for file, test in (entry.split("::") for _, entry in ENTRIES if "::" in entry):
        assert f"def {test}(" in (ROOT / file).read_text()
