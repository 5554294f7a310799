"""How coherent translations between digits and their labels are, by each guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from modalities import batch
from torch import nn
from torch.nn.functional import cross_entropy

from pyro_vae import Trainer, data, guides, infer

KINDS = (guides.ProductOfExperts, guides.MixtureOfExperts, guides.MixtureOfProducts)
SEEDS = 3


class Digits(nn.Module):
    """Images of 8 x 8, learned noise, and their labels, from 10 latents."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 64))
        self.label = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 10))
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def forward(self, image=None, label=None):
        with pyro.plate("data", batch(image, label)):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            p = dist.Normal(self.image(z), self.log_sigma.exp()).to_event(1)
            pyro.sample("image", p, obs=image)
            pyro.sample("label", dist.Categorical(logits=self.label(z)), obs=label)


def classifier(train, seed):
    """Trained on images, those with the noise of the model among them."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(400):
        adam.zero_grad()
        noisy = train["image"] + 0.15 * torch.randn_like(train["image"])
        cross_entropy(network(noisy), train["label"]).backward()
        adam.step()
    return network.eval()


def coherence(kind, train, test, judge, seed):
    torch.manual_seed(seed)
    model = Digits()
    guide = kind(["image", "label"], model=model, like=train, hidden=(128,))
    trainer = Trainer(model, guide, elbo=infer.SubsetELBO(), lr=2e-3, seed=seed)
    trainer.fit(train, epochs=60, batch_size=100, progress=False)
    to_label = infer.translate(model, guide, image=test["image"], to="label", samples=5)
    to_image = infer.translate(model, guide, label=test["label"], to="image", samples=5)
    drawn = infer.sample(model, test)
    return [
        to_label.coherence(test["label"]).value,
        to_image.coherence(test["label"], judge).value,
        infer.coherence(drawn["image"], drawn["label"], judge).value,
    ]


def row(name, found):
    error = found.std(0) / SEEDS**0.5
    cells = [f"{100 * m:.1f} +- {100 * e:.1f}" for m, e in zip(found.mean(0), error, strict=True)]
    return f"{name:>18}  " + "  ".join(cells)


@pytest.mark.slow
def test_translations_agree_with_labels_far_beyond_chance(capsys):
    d = data.load("digits")
    train, test = ({"image": part.x.flatten(1), "label": part.y} for part in (d.train, d.test))
    judges = [classifier(train, seed) for seed in range(SEEDS)]
    right = torch.tensor(
        [float((j(test["image"]).argmax(1) == test["label"]).float().mean()) for j in judges]
    )
    lines, found = (
        ["", f"classifier {right.tolist()}", "image to label, label to image, joint, %"],
        {},
    )
    for kind in KINDS:
        runs = [coherence(kind, train, test, judges[s], s) for s in range(SEEDS)]
        found[kind] = torch.tensor(runs)
        lines.append(row(kind.__name__, found[kind]))
    with capsys.disabled():
        print("\n".join(lines))
    for kind in KINDS:
        to_label, to_image, joint = found[kind].mean(0)
        # One of ten agrees by chance
        assert to_label > 0.65 and to_image > 0.4 and joint > 0.4
    # As published: single labels tell a product less
    product, mixture = (found[kind][:, 1] for kind in KINDS[:2])
    assert (mixture - product).min() > 0.2
