"""The panel in a kernel: clicks come while it trains, and cells that are run meanwhile."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest

import pyro_vae

jupyter_client = pytest.importorskip("jupyter_client", reason="pip install 'pyro_vae[notebooks]'")
pytest.importorskip("ipykernel", reason="pip install 'pyro_vae[notebooks]'")
pytest.importorskip("ipywidgets", reason="pip install 'pyro_vae[notebooks]'")

SECONDS = 120
BEGIN = """
import json
import pyro
import torch
from pyro_vae import data, guides, likelihoods, models, notebook

d = data.load(torch.rand(400, 6, generator=torch.Generator().manual_seed(0)), binarize=None)


def panel():
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(0.5), hidden=(8,))
    return notebook.Panel({"VAE": vae}, {"bottom-up": guides.BottomUp}, d, batch_size=16)


def inside(box):
    return [w for c in box.children for w in (inside(c) if hasattr(c, "children") else [c])]


p = panel()
controls = {w.description: w for w in inside(p.widgets()) if hasattr(w, "description")}
controls["epochs"].value = 100_000
print(json.dumps({name: controls[name].model_id for name in ("Train", "Stop")}))
"""
# Random numbers of a person's own, and a program that Pyro runs by itself
CELL = """
before = p.trainer.step
drawn = torch.randn(3), pyro.sample("z", pyro.distributions.Normal(0.0, 1.0).expand([4]))
import time
time.sleep(0.2)
print(json.dumps([before, p.trainer.step]))
"""
END = """
class Stop:
    def on_step_end(self, trainer, **kwargs):
        if trainer.step == p.trainer.step:
            q.stop()


q = panel()
q.train(100_000, callbacks=[Stop()])
pairs = zip(p.model.state_dict().values(), q.model.state_dict().values(), strict=True)
print(json.dumps([p.trainer.step, q.trainer.step, all(torch.equal(a, b) for a, b in pairs)]))
"""


class Kernel:
    """A kernel that runs cells and gets clicks."""

    def __init__(self, client):
        self.client = client

    def run(self, cell):
        """The line of JSON that a cell prints; what a run says meanwhile may stand around it."""
        said = []

        def hear(message):
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        reply = self.client.execute_interactive(cell, timeout=SECONDS, output_hook=hear)
        assert reply["content"]["status"] == "ok", reply["content"]
        answers = []
        for line in "".join(said).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                answers.append(json.loads(line))
        (answer,) = answers
        return answer

    def click(self, button):
        content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
        message = self.client.session.msg("comm_msg", content)
        self.client.shell_channel.send(message)


@pytest.fixture
def kernel():
    path = [str(Path(pyro_vae.__file__).parent.parent), os.environ.get("PYTHONPATH")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    manager, client = jupyter_client.manager.start_new_kernel(env=environment)
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_stop_is_heard_and_cells_do_not_disturb_the_run(kernel):
    buttons = kernel.run(BEGIN)
    kernel.click(buttons["Train"])
    deadline = time.monotonic() + SECONDS
    while kernel.run("print(p.trainer.step)") < 20:
        assert time.monotonic() < deadline
    for _ in range(3):
        before, after = kernel.run(CELL)
        assert before == after, "a run rests while a cell is run"
    kernel.click(buttons["Stop"])
    while kernel.run("print(json.dumps(controls['Train'].disabled))"):
        assert time.monotonic() < deadline
    stopped, by_calls, equal = kernel.run(END)
    assert stopped == by_calls > 20 and equal
