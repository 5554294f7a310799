"""Models whose decoder sees a label."""

import pytest
import torch
from pyro import poutine
from test_vae import deep
from torch.nn.functional import one_hot

from pyro_vae.guides import BottomUp


class TestCondition:
    @pytest.fixture
    def vae(self):
        return deep(condition=3)

    @pytest.mark.parametrize(
        ("y", "got"),
        [
            (None, r"integer labels of shape \(4,\), got none: pass y="),
            (torch.zeros(4), r"integer labels of shape \(4,\), got torch.float32 \(4,\)"),
            (torch.zeros(3, dtype=int), r"integer labels of shape \(4,\), got torch.int64 \(3,\)"),
            (torch.zeros(4, 1, dtype=int), r"integer labels of .*, got torch.int64 \(4, 1\)"),
            (torch.tensor([0, 1, 2, 3]), "labels from 0 to 2, got 0 to 3"),
            (torch.tensor([0, 1, 2, -1]), "labels from 0 to 2, got -1 to 2"),
        ],
    )
    def test_bad_labels(self, vae, y, got):
        for program in (vae, BottomUp(vae)):
            with pytest.raises(ValueError, match=f"conditional on 3 classes, expected {got}"):
                program(torch.zeros(4, 6), y=y)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_labels_of_any_integer_type(self, vae, dtype):
        z, y = torch.randn(3, 4), torch.tensor([0, 2, 1])
        mean = vae.decode({"z1": z}, y=y.to(dtype)).mean
        assert torch.equal(mean, vae.decoder(z, one_hot(y, 3)))

    def test_the_label_changes_every_conditional_but_the_prior(self, vae):
        traces = []
        for label in (0, 1):
            with torch.random.fork_rng():
                traces.append(poutine.trace(vae).get_trace(y=torch.full((5,), label)))
        means = [[t.nodes[s]["fn"].mean for t in traces] for s in ("z2", "z1", "x")]
        assert [torch.equal(a, b) for a, b in means] == [True, False, False]

    def test_one_label_for_all_samples(self, vae):
        with torch.random.fork_rng():
            x = vae.sample(5, y=2)
        assert torch.equal(vae.sample(5, y=torch.full((5,), 2)), x)

    def test_the_number_of_data_follows_the_labels(self, vae):
        assert vae(y=torch.zeros(4, dtype=int)).shape == (4, 6)

    @pytest.mark.parametrize("y", [2, [0, 1, 2], torch.arange(3)])
    def test_labels_are_refused_without_condition(self, y):
        vae = deep()
        for use in (
            lambda: vae.sample(3, y=y),
            lambda: vae.decode({"z1": torch.zeros(3, 4)}, y=y),
        ):
            with pytest.raises(ValueError, match=r"y: expected none, .* leave y out"):
                use()

    def test_labels_that_reach_a_program_without_condition_are_ignored(self):
        vae, x = deep(), torch.randn(3, 6)
        traces = []
        for y in (None, torch.arange(3)):
            with torch.random.fork_rng():
                traces.append(poutine.trace(vae).get_trace(x, y=y))
        assert traces[0].log_prob_sum() == traces[1].log_prob_sum()

    def test_negative_number_of_classes(self):
        with pytest.raises(ValueError, match="condition: expected the number of classes, got -1"):
            deep(condition=-1)
