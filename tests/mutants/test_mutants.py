import builtins
import keyword
import re

import pytest

from exchange.config import PROJECT
from tests.mutants.catalogue import MUTANTS, Mutant

# Names, and attributes of ``self``; those of others may be what a library gives them.
NAME = re.compile(r"(?:(?<![\w.])|(?<=\bself\.))[A-Za-z_]\w*\b(?![\"'])")
KNOWN = {*dir(builtins), *keyword.kwlist}


def unknown_names(mutant: Mutant, text: str) -> set[str]:
    """Return what a planted bug names and its file does not."""
    return set(NAME.findall(mutant.new)) - set(re.findall(r"\w+", text)) - KNOWN


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_still_fits_the_code(mutant: Mutant) -> None:
    text = (PROJECT / mutant.path).read_text()

    assert text.count(mutant.old) == 1
    compile(text.replace(mutant.old, mutant.new), mutant.path, "exec")
    assert unknown_names(mutant, text) == set()
    assert all((PROJECT / test.partition("::")[0]).exists() for test in mutant.tests)


def test_no_two_mutants_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_that_names_what_is_gone_is_refused() -> None:
    dud = Mutant("a dud", "exchange/matcher/matcher.py", "pass", "self._gone(messages)", ())

    assert unknown_names(dud, (PROJECT / dud.path).read_text()) == {"_gone"}
