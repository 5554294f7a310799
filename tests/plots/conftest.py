"""No picture is shown, and none changes a setting."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

pytest.register_assert_rewrite("drawn")


@pytest.fixture(autouse=True)
def nothing_shown(monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("a picture called plt.show")

    monkeypatch.setattr(plt, "show", show)
    settings = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == settings
    plt.close("all")
