"""What a notebook shows of an error: the person's own frames and the message."""

import functools
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, data, diagnostics, guides, likelihoods, models
from pyro_vae.ground.tracebacks import shorten_in

ultratb = pytest.importorskip("IPython.core.ultratb", reason="pip install 'pyro_vae[notebooks]'")


class Shell:
    """What the handler of a shell uses, and the traceback that is shown."""

    custom_exceptions = ()

    def __init__(self, mode="Context"):
        self.InteractiveTB = ultratb.AutoFormattedTB(mode, "nocolor")
        shorten_in(self)

    def set_custom_exc(self, kinds, handler):
        self.custom_exceptions, self.handler = kinds, handler

    def showtraceback(self, shown, tb_offset, running_compiled_code):
        self.text = "\n".join(self.InteractiveTB.structured_traceback(*shown))

    def run(self, cell):
        try:
            cell()
        except self.custom_exceptions as error:
            self.handler(self, type(error), error, error.__traceback__)
            assert error.__traceback__ is sys.last_traceback
            return self.text, error
        raise AssertionError("no error")


def frames(text):
    return [line for line in text.splitlines() if line.startswith("File ")]


# No frame of its own
vae = functools.partial(models.VAE, (6,), 2, likelihood=likelihoods.Gaussian(), hidden=())
X = torch.zeros(20, 6)
MISTAKES = {
    "constructor": lambda: vae(hidden=-1),
    "trainer": lambda: Trainer(v := vae(), guides.BottomUp(v), beta=-1),
    "fit": lambda: Trainer(v := vae(), guides.BottomUp(v)).fit(X[:, :5], epochs=1),
    "fit without epochs": lambda: Trainer(v := vae(), guides.BottomUp(v)).fit(X),
    "evaluate": lambda: diagnostics.evaluate(v := vae(), guides.BottomUp(v), X[:, :5]),
    "load": lambda: data.load("mnits"),
    "call": lambda: vae()(X[:, :5]),
    "sample": lambda: vae().sample(0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_frame_and_the_message(mistake):
    text, error = Shell().run(MISTAKES[mistake])
    # That of ``run`` stands for the shell's own, the other is the cell
    assert len(frames(text)) == 2 and frames(text)[1].count("test_tracebacks.py") == 1
    assert text.rstrip().endswith(str(error))
    while error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next
    assert "pyro_vae" in error.__traceback__.tb_frame.f_code.co_filename, "the error is whole"


class Wrong(nn.Module):
    """A decoder that fails when it is given as many data as there are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 6)

    def forward(self, z):
        return self.layer(z if len(z) < len(X) else z[:, :1])


def test_frames_of_a_persons_own_programs_stay():
    model = vae(decoder=Wrong())
    trainer = Trainer(model, guides.BottomUp(model))
    text, _ = Shell().run(lambda: trainer.fit(X, epochs=1, progress=False))
    assert all("test_tracebacks.py" in frame for frame in frames(text))
    assert "in Wrong.forward(" in frames(text)[-1]
    assert "mat1 and mat2 shapes cannot be multiplied" in text


def test_causes_are_short_too():
    text, error = Shell().run(lambda: vae(decoder=nn.Linear(3, 6)))
    # The message tells the cause, which is of torch alone
    assert text.count(str(error.__cause__)) == 1 and len(frames(text)) == 2
    assert "direct cause" not in text
    text, error = Shell().run(lambda: vae(decoder=nn.Sequential(Broken())))
    assert error.__cause__.__traceback__.tb_next is not None
    assert "direct cause" in text and "in Broken.forward(" in frames(text)[0]


class Broken(nn.Module):
    """A decoder that fails always."""

    def forward(self, z):
        return z @ torch.zeros(5, 6)


def test_mistakes_of_the_library_stay_whole(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.loading._find", int)
    text, _ = Shell().run(lambda: data.load("mnist"))
    assert "in load(" in frames(text)[2]


def test_errors_of_others_stay_whole():
    assert "linear.py" in Shell().run(lambda: nn.Linear(2, 3)(torch.zeros(4)))[0]


def test_a_person_may_ask_for_all():
    text, _ = Shell("Verbose").run(MISTAKES["load"])
    assert len(frames(text)) > 2 and "loading.py" in text


def test_a_handler_of_a_persons_own_stays():
    shorten_in(None)
    # Another would be an error, as this shell takes none
    shorten_in(SimpleNamespace(custom_exceptions=(ValueError,)))


CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
for cell in ("import pyro_vae", "pyro_vae.modles", "%tb"):
    shell.run_cell(cell, store_history=True)
"""


def test_importing_the_package_in_a_shell_is_enough(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CELLS],
        capture_output=True,
        text=True,
        check=True,
        env={"IPYTHONDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    short, full = done.stdout.split("AttributeError: module 'pyro_vae' has no attribute")[:2]
    assert "Cell In[2], line 1\n----> 1 pyro_vae.modles" in short and "File " not in short
    assert "Cell In[2], line 1\n----> 1 pyro_vae.modles" in full and "__init__.py" in full
