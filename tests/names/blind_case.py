"""A test that notices nothing; pytest runs it only when it is named."""

import nervex.utils


def test_it() -> None:
    nervex.utils.flatten_dict({"a": 1})
