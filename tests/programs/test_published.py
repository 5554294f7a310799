"""Published shapes go through everything, or are refused in one line."""

import pytest
from published import PUBLISHED, REFUSED
from published.uses import USES

CELLS = [(name, use) for name in PUBLISHED for use in USES]


@pytest.mark.parametrize(("name", "use"), [c for c in CELLS if c not in REFUSED])
def test_a_published_pair_goes_through(name, use, tmp_path):
    USES[use](PUBLISHED[name], tmp_path)


@pytest.mark.parametrize(("name", "use"), [c for c in CELLS if c in REFUSED])
def test_what_is_refused_is_refused_in_one_line(name, use, tmp_path):
    with pytest.raises((ValueError, TypeError, RuntimeError)) as told:
        USES[use](PUBLISHED[name], tmp_path)
    assert str(told.value) == REFUSED[name, use]
    assert "\n" not in REFUSED[name, use]
