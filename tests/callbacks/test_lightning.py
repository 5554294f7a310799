"""The pair in a ``LightningModule``, as the documentation of ``infer.TraceELBO`` has it."""

import inspect
import textwrap

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import guides, infer, likelihoods
from pyro_vae.models import VAE

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
EPOCHS = 2


@pytest.fixture
def lightning():
    with pytest.MonkeyPatch.context() as patch:
        # What it imports warns of its own future
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        return pytest.importorskip("lightning")


def documented(lightning):
    """The class in the documentation."""
    _, _, code = inspect.getdoc(infer.TraceELBO).partition("Lightning's::\n")
    code = textwrap.dedent(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    names = {"lightning": lightning, "infer": infer, "torch": torch}
    exec(code, names)
    return names["Pair"]


def pair():
    torch.manual_seed(0)
    vae = VAE((6,), (3, 2), likelihood=likelihoods.Gaussian("learned"), hidden=(8,))
    return vae, guides.BottomUp(vae)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*log_every_n_steps")
def test_lightning_trains_the_pair_as_our_own_steps_do(lightning, tmp_path):
    losses = []

    class Seeded(documented(lightning)):
        # Lightning draws numbers of its own between the steps
        def training_step(self, batch, index):
            torch.manual_seed(index)
            loss = super().training_step(batch, index)
            losses.append(loss.item())
            return loss

    loader = DataLoader(TensorDataset(X), batch_size=8)
    module = Seeded(*pair())
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, loader)
    vae, guide = pair()
    svi = infer.SVI(vae, guide, loss=infer.TraceELBO(reduction="mean"))
    ours = []
    for _ in range(EPOCHS):
        for index, x in enumerate(X.split(8)):
            torch.manual_seed(index)
            ours.append(float(svi.step(x)))
    assert losses == pytest.approx(ours, rel=1e-5)
    # With the same random numbers in each epoch
    assert sum(ours[3:]) < sum(ours[:3])
    for mine, other in zip(vae.parameters(), module.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert trainer.callback_metrics["validation.elbo"].isfinite()
