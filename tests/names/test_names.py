"""Every public name of the tutorial's list imports and has a test file; the tool that replaces them can tell."""

import pytest
from names_table import ROOT, Name, read_names

NAMES = read_names()


@pytest.mark.parametrize("name", NAMES, ids=[f"{name.path}-{name.test}" for name in NAMES])
def test_it_imports_and_is_pinned(name: Name) -> None:
    found = name.load()
    assert callable(found)
    for method in name.methods:
        assert hasattr(found, method), f"{name.path} has no {method}"
    assert (ROOT / name.test.split("::", maxsplit=1)[0]).is_file()


def test_no_name_is_listed_twice_for_one_test() -> None:
    keys = [(name.path, name.test) for name in NAMES]
    assert len(keys) == len(set(keys))
