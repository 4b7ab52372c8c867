"""A test that notices; pytest runs it only when it is named."""

import nervex.utils


def test_it() -> None:
    assert nervex.utils.flatten_dict({"a": 1}) == {"a": 1}
