"""A program of several modalities of unlike kinds: a sequence, text, a signal, a picture."""

import pyro
import pyro.distributions as dist
import torch
from modalities import batch
from torch import nn

from pyro_vae import likelihoods, models

SHAPES = {"motion": (4, 3), "text": (5,), "sound": (2, 8), "picture": (1, 8, 8)}
TOKENS = 5


class Media(nn.Module):
    """Each modality is linear in z but for the text, a word after the other."""

    kind = {"motion": "sequence", "text": "tokens", "sound": "signal", "picture": "image"}

    def __init__(self):
        super().__init__()
        sizes = {n: torch.Size(shape).numel() for n, shape in SHAPES.items() if n != "text"}
        self.loc = nn.ModuleDict({name: nn.Linear(2, size) for name, size in sizes.items()})
        self.decoder = models.SequenceDecoder(SHAPES["text"], 2, outputs=TOKENS, width=8)
        self.tokens = likelihoods.Tokens(TOKENS)

    def forward(self, motion=None, text=None, sound=None, picture=None):
        numbers = {"motion": motion, "sound": sound, "picture": picture}
        prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", batch(text, *numbers.values())):
            z = pyro.sample("z", prior)
            for name, value in numbers.items():
                shape = SHAPES[name]
                p = dist.Normal(self.loc[name](z).unflatten(-1, shape), 0.5).to_event(len(shape))
                pyro.sample(name, p, obs=value)
            pyro.sample("text", self.decoder.distribution(self.tokens, z), obs=text)


def media(n=8):
    """Some data; every second text is short."""
    torch.manual_seed(1)
    found = {name: torch.randn(n, *shape) for name, shape in SHAPES.items()}
    found["text"] = torch.randint(1, TOKENS, (n, *SHAPES["text"])).float()
    found["text"][::2, 2:] = 0
    return found
