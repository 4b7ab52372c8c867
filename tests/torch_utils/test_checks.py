"""The sentences that say which shape, dtype, range or name was expected."""

import pytest
import torch

from nervex.torch_utils.checks import check_index, check_last_dim, check_name, check_range, check_shape
from nervex.utils.errors import ConfigError, SpecError


def test_each_says_what_it_got_and_what_it_expected():
    with pytest.raises(SpecError, match=r"f: 'x' has shape \[2, 3\], expected \['any', 4\]"):
        check_shape("f", "x", torch.ones(2, 3), (None, 4))
    with pytest.raises(SpecError, match=r"f: 'x' has shape \[2, 3\], expected \[\.\.\., 4\]"):
        check_last_dim("f", "x", torch.ones(2, 3), 4)
    with pytest.raises(SpecError, match=r"f: 'x' has shape \[\], expected \[\.\.\., 4\]"):
        check_last_dim("f", "x", torch.tensor(1.0), 4)
    with pytest.raises(
        SpecError, match=r"f: 'x' is torch.float32, expected an integer tensor; cast it with \.long\(\)"
    ):
        check_index("f", "x", torch.ones(2))
    with pytest.raises(SpecError, match=r"f: 'x' has values from -1 to 4, expected 0 to 3"):
        check_range("f", "x", torch.tensor([-1, 4]), 0, 4)
    with pytest.raises(ConfigError, match=r"unknown kind 'ad'; did you mean 'add'\? \(known: None, add, cover\)"):
        check_name("kind", "ad", (None, "add", "cover"))


def test_what_fits_passes():
    check_shape("f", "x", torch.ones(2, 3), (None, 3))
    check_last_dim("f", "x", torch.ones(2, 3), 3)
    check_index("f", "x", torch.ones(2, dtype=torch.uint8))
    check_range("f", "x", torch.tensor([0, 3]), 0, 4)
    check_range("f", "x", torch.empty(0, dtype=torch.int64), 0, 4)
    check_name("kind", None, (None, "add"))
