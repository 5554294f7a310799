"""Published shapes go through everything, or are refused in one line."""

import re
import warnings

import pytest
from published import CELLS, PUBLISHED, REFUSED, TOLD, UNBUILT, UNTRAINED
from published.uses import USES, loss_of, made, told
from published_page import PAGE, page

from pyro_vae.infer import UntrainedWarning, check_pair

# One of each kind; the others take minutes
QUICK = (
    *("vae", "cvae", "ss_vae_M2", "prodlda", "cevae", "dmm", "sparse_gamma_def", "matrix"),
    *("eight_schools", "robust regression", "gplvm", "gmm", "neutra"),
)


def of_each(cells):
    return [pytest.param(*c, marks=[] if c[0] in QUICK else pytest.mark.slow) for c in cells]


@pytest.fixture
def untrained(name):
    """No warning of parameters without a gradient where there are such."""
    with warnings.catch_warnings():
        if name in UNTRAINED:
            warnings.simplefilter("ignore", UntrainedWarning)
        yield


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("name", "use"), of_each(c for c in CELLS if c not in REFUSED | TOLD))
def test_a_published_pair_goes_through(name, use, tmp_path):
    USES[use](PUBLISHED[name], tmp_path)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("name", "use"), of_each(TOLD))
def test_what_is_told_is_told_in_one_line(name, use, tmp_path):
    with pytest.warns(UserWarning) as warned:
        USES[use](PUBLISHED[name], tmp_path)
    others = [w for w in warned if not issubclass(w.category, UntrainedWarning)]
    assert {str(warning.message) for warning in others} == {TOLD[name, use]}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("name", "use"), of_each(REFUSED))
def test_what_is_refused_is_refused_in_one_line(name, use, tmp_path):
    with pytest.raises((ValueError, TypeError, RuntimeError)) as refused:
        USES[use](PUBLISHED[name], tmp_path)
    assert str(refused.value) == REFUSED[name, use]
    assert "\n" not in REFUSED[name, use]


# What the checker calls a use
TOOLS = {
    "elbo_terms, evaluate": "elbo_terms",
    "importance": "importance",
    "collapse": "collapse",
    "save, resume": "checkpoint",
}


@pytest.mark.parametrize("name", QUICK)
def test_the_checker_tells_what_goes_through(name):
    pair = made(PUBLISHED[name])
    if (name, "elbo_terms") in REFUSED:
        with pytest.raises(ValueError, match=re.escape(REFUSED[name, "elbo_terms"])):
            check_pair(pair.model, pair.guide, pair.data, **told(pair))
        return
    tools = check_pair(pair.model, pair.guide, pair.data, **told(pair)).tools
    assert not (pair.minibatches and tools["fit, minibatches"])
    for tool, use in TOOLS.items():
        assert (tools[tool] == "") == ((name, use) not in REFUSED), (tool, tools[tool])
    assert (tools["guides of the library"] == "") == ((name, "BottomUp") not in UNBUILT)
    if loss_of(pair) is None:
        assert (tools["engine='graph'"] == "") == ((name, "graph") not in REFUSED | TOLD)


def test_the_page_has_the_table_that_these_tests_find():
    assert PAGE.read_text() == page()


@pytest.mark.parametrize(
    "program", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
)
def test_the_program_of_the_page_runs(program, capsys):
    exec(compile(program, str(PAGE), "exec"), {})
    assert "ELBO" in capsys.readouterr().out
