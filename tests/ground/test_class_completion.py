"""What a notebook offers behind the dot of a class."""

from types import SimpleNamespace

import pyro.distributions as dist
import pytest
from pyro.nn import PyroModule

import pyro_vae
from pyro_vae import guides, likelihoods, models, schedules
from pyro_vae.ground.completing import complete_in, offered

completer = pytest.importorskip(
    "IPython.core.completer", reason="pip install 'pyro_vae[notebooks]'"
)


class Mine(guides.Guide, PyroModule):
    """A guide that has a metaclass of Pyro's."""

    def of_mine(self):
        """A method."""


NAMES = {
    "guides": guides,
    "models": models,
    "pyro_vae": pyro_vae,
    "Mine": Mine,
    "dist": dist,
    "vae": models.VAE((3,), 2, likelihood=likelihoods.Gaussian(), hidden=()),
}


@pytest.fixture(params=[True, False], ids=["jedi", "plain"])
def complete(request):
    found = completer.IPCompleter(namespace=NAMES, use_jedi=request.param)
    complete_in(SimpleNamespace(user_ns=NAMES, Completer=found))

    def complete(text):
        with completer.provisionalcompleter():
            return {text[: c.start] + c.text for c in found.completions(text, len(text))}

    return complete


def test_a_class_offers_what_is_meant(complete):
    wanted = {"encode", "forward", "leading", "parents", "push_to_hub", "to_safetensors"}
    assert complete("guides.Ladder.") == {f"guides.Ladder.{name}" for name in wanted}
    assert complete("help(pyro_vae.guides.Ladder.e") == {"help(pyro_vae.guides.Ladder.encode"}
    assert "Mine.of_mine" in complete("Mine.") and "Mine.parameters" not in complete("Mine.")


def test_all_else_is_completed_as_before(complete):
    assert "guides.Ladder.__init__" in complete("guides.Ladder.__")
    assert "dist.Normal.log_prob" in complete("dist.Normal.")
    assert {"vae.parameters", "vae.sample"} <= complete("vae.")
    assert "models.VAE" in complete("models.")
    assert not complete("guides.Lader.")


@pytest.mark.parametrize("room", sorted({*pyro_vae.__all__} - {"__version__"}))
def test_classes_offer_nothing_of_torch(room):
    module = getattr(pyro_vae, room)
    for name in getattr(module, "__all__", ()):
        names = offered(getattr(module, name))
        assert not {"add_module", "of_file", "inside", "extra_repr", "named_parameters"} & {*names}
        assert {*names} <= {*dir(getattr(module, name))}


def test_constructors_of_classes_and_nothing_of_other_things():
    assert "standardized" in offered(likelihoods.Gaussian)
    assert offered(schedules.WarmUp) == ["end", "epochs", "start", "steps"]
    assert offered(dist.Normal) == offered(NAMES["vae"]) == offered(guides) == []


def test_a_shell_without_completion_has_none():
    complete_in(None)
    complete_in(SimpleNamespace())


def test_a_shell_without_matchers_stays_as_it_is(monkeypatch):
    monkeypatch.delattr(completer, "context_matcher")
    complete_in(SimpleNamespace(user_ns={}, Completer=object()))


def test_any_name_may_be_an_attribute_of_ones_own_class():
    class Odd(guides.Guide):
        inside = 3

    assert "inside" not in offered(guides.Guide) and "encode" in offered(Odd)
