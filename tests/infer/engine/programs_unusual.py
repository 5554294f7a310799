"""Networks that read values, or compute in ways that a recorded graph might get wrong.

Each function returns a network (n, 6) -> (n, 8), and what a person does between two steps.
"""

import copy

import numpy as np
import torch
from programs_stateful import Between, nothing
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

READING = {
    "selection_shape": lambda h, x: h * x[x > 0].shape[0],
    "selection_numel": lambda h, x: h * x[x > 0].numel(),
    "selection_by_bytes": lambda h, x: h * len(x[(x > 0).byte()]),
    "length_of_nonzero": lambda h, x: h * len(x.clamp(min=0).nonzero()),
    "where_of_one_argument": lambda h, x: h * len(torch.where(x > 0)[0]),
    "masked_select": lambda h, x: h * x.masked_select(x > 0).shape[0],
    "unique_shape": lambda h, x: h * x.round().unique().shape[0],
    "unique_consecutive": lambda h, x: h * len(torch.unique_consecutive(x.round())),
    "repeat_interleave": lambda h, x: h * len(x[:, 0].repeat_interleave((x[:, 0] > 0).long() + 1)),
    "bincount": lambda h, x: h * len(torch.bincount((4 * x[:, 0].abs()).long())),
    "branch_on_a_list": lambda h, x: h if x[0].tolist()[0] > 0 else 2 * h,
    "branch_on_an_array": lambda h, x: h if x.detach().numpy()[0, 0] > 0 else 2 * h,
    "branch_on_asarray": lambda h, x: h if np.asarray(h.detach()).sum() > 0 else 2 * h,
    "branch_on_item": lambda h, x: h if h.sum().item() > 0 else 2 * h,
    "branch_on_bool": lambda h, x: h if h.sum() > 0 else 2 * h,
    "branch_on_equal": lambda h, x: h if torch.equal(x[:1] > 0, x[-1:] > 0) else 2 * h,
    "branch_on_allclose": lambda h, x: h if torch.allclose(x[:1], x[-1:], atol=2) else 2 * h,
    "branch_on_contains": lambda h, x: h if 1 in x[:4, :2].round() else 2 * h,
    "branch_on_text": lambda h, x: h if "-" in f"{x[0, 0]}" else 2 * h,
    "branch_on_dlpack": lambda h, x: h if np.from_dlpack(x)[0, 0] > 0 else 2 * h,
    "branch_on_storage": lambda h, x: h if x.untyped_storage()[3] % 2 else 2 * h,
    "branch_on_a_copy": lambda h, x: h if copy.deepcopy(x).sum() > 0 else 2 * h,
    "index_of_a_list": lambda h, x: h * [1.0, 2.0][(x[0, 0] > 0).long()],
    "range_of_a_tensor": lambda h, x: h * len(range((x > 0).sum())),
    "tensor_split": lambda h, x: h * len(x.tensor_split((x > 0).sum().view(1))[0]),
    "one_hot": lambda h, x: h * F.one_hot((4 * x[:, 0].abs()).long()).shape[1],
}
PROGRAMS = {
    name: lambda f=f: (Between(lambda self, h, x: f(h, x)), nothing) for name, f in READING.items()
}


def program(function):
    """Of a network."""
    PROGRAMS[function.__name__] = lambda: (function(), nothing)
    return function


@program
def backward_that_reads():
    class Clipped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient if gradient.numpy().sum() > 0 else 2 * gradient

    return Between(lambda self, h, x: Clipped.apply(h))


@program
def reentrant_checkpoint():
    class Net(Between):
        def forward(self, x):
            dummy = torch.ones(1, requires_grad=True)
            run = lambda x, dummy: self.second(self.first(x).tanh()) * dummy  # noqa: E731
            return checkpoint(run, x, dummy, use_reentrant=True)

    return Net(None)


@program
def reentrant_checkpoint_of_the_input():
    class Net(Between):
        def forward(self, x):
            x = x.detach().requires_grad_()
            return checkpoint(lambda x: self.second(self.first(x)), x, use_reentrant=True)

    return Net(None)


@program
def checkpoint_without_reentrance():
    def between(self, h, x):
        return checkpoint(lambda h: self.second(h).tanh(), h, use_reentrant=False)

    return Between(between)


class Recurrent(nn.Module):
    def __init__(self, layer, *, packed=False):
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, x):
        sequence = x[..., None]
        if self.packed:
            lengths = (x > 0).sum(1).clamp(min=1)
            sequence = rnn.pack_padded_sequence(
                sequence, lengths, batch_first=True, enforce_sorted=False
            )
        hidden = self.layer(sequence)[1]
        return (hidden[0] if isinstance(hidden, tuple) else hidden)[-1]


@program
def lstm():
    return Recurrent(nn.LSTM(1, 8, 2, batch_first=True, dropout=0.1))


@program
def gru():
    return Recurrent(nn.GRU(1, 8, batch_first=True))


@program
def packed_lstm():
    return Recurrent(nn.LSTM(1, 8, batch_first=True), packed=True)


@program
def packed_gru():
    return Recurrent(nn.GRU(1, 8, batch_first=True), packed=True)


@program
def orthogonal():
    net = Between(lambda self, h, x: h)
    parametrizations.orthogonal(net.second)
    return net


@program
def weight_norm():
    net = Between(lambda self, h, x: h)
    parametrizations.weight_norm(net.second)
    return net


@program
def spectral_norm():
    net = Between(lambda self, h, x: h)
    parametrizations.spectral_norm(net.second)
    return net


@program
def spectral_norm_by_a_hook():
    net = Between(lambda self, h, x: h)
    nn.utils.spectral_norm(net.second)
    return net


@program
def moving_average_of_weights():
    def average(self, h, x):
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.first.parameters(), strict=True):
                mean.lerp_(weight, 0.1)
        return h + self.mean(x)

    net = Between(average)
    net.mean = copy.deepcopy(net.first).requires_grad_(False)
    return net


@program
def moving_average_by_data():
    def average(self, h, x):
        self.mean.weight.data = 0.9 * self.mean.weight.data + 0.1 * self.first.weight.data
        return h + self.mean(x)

    net = Between(average)
    net.mean = copy.deepcopy(net.first).requires_grad_(False)
    return net


@program
def tied_weights():
    net = Between(lambda self, h, x: self.tied(self.second(h)))
    net.tied = nn.Linear(8, 8)
    net.tied.weight = net.second.weight
    return net


@program
def embedding():
    net = Between(lambda self, h, x: h + self.table((x[:, 0] > 0).long()))
    net.table = nn.Embedding(2, 8)
    return net


@program
def sparse_embedding():
    net = Between(lambda self, h, x: h + self.table((x[:, 0] > 0).long()))
    net.table = nn.Embedding(2, 8, sparse=True)
    return net


@program
def stochastic_depth():
    return Between(lambda self, h, x: h + torch.bernoulli(torch.full((len(h), 1), 0.5)) * h.tanh())


@program
def stochastic_depth_by_a_branch():
    return Between(lambda self, h, x: h if torch.rand(()) < 0.5 else h.tanh())


@program
def weight_standardisation():
    def standardised(self, h, x):
        weight = self.second.weight
        weight = (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-5)
        return F.linear(h, weight, self.second.bias)

    return Between(standardised)


@program
def attention():
    net = Between(lambda self, h, x: self.heads(h[None], h[None], h[None])[0][0])
    net.heads = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    return net


@program
def transformer_layer():
    net = Between(lambda self, h, x: self.layer(h.view(len(h), 2, 4)).flatten(1))
    net.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return net


@program
def vectorised_map():
    return Between(lambda self, h, x: torch.vmap(lambda row: row * row.norm())(h))


@program
def jacobian():
    def between(self, h, x):
        return h + torch.vmap(torch.func.grad(lambda row: row.sin().sum()))(h)

    return Between(between)


@program
def double_backward():
    def between(self, h, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(
                self.first(inner).tanh().sum(), inner, create_graph=True
            )
        return h + slope.square().sum(1, keepdim=True)

    return Between(between)


@program
def batch_norm_of_all_steps():
    net = Between(lambda self, h, x: self.norm(h))
    net.norm = nn.BatchNorm1d(8, momentum=None)
    return net


@program
def in_place():
    return Between(lambda self, h, x: h.clone().mul_(2).add_(x.sum(1, keepdim=True)).relu_())


@program
def masked_assignment():
    def between(self, h, x):
        h = h.clone()
        h[h < 0] = 0.1
        return h

    return Between(between)


@program
def selection_summed():
    return Between(lambda self, h, x: h + h[h > 0].sum())


@program
def sorted_hidden_units():
    return Between(lambda self, h, x: h.sort(1).values.cumsum(1))


@program
def fourier_transform():
    return Between(lambda self, h, x: torch.fft.irfft(torch.fft.rfft(h) * 2, n=8))


@program
def gumbel_softmax():
    return Between(lambda self, h, x: F.gumbel_softmax(h, tau=0.5, hard=True))


@program
def dropout_and_rrelu():
    return Between(lambda self, h, x: F.rrelu(F.dropout(h, 0.3), training=True))


@program
def hook_on_a_gradient_in_forward():
    def between(self, h, x):
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient * 2)
        return h

    return Between(between)


@program
def data_changed_in_place():
    class Net(Between):
        def forward(self, x):
            return super().forward(x.clamp_(max=0.5))

    return Net(lambda self, h, x: h)


@program
def double_precision_inside():
    return Between(lambda self, h, x: h.double().cumprod(1).float())


@program
def default_type_changed_inside():
    def between(self, h, x):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return (h * torch.ones(8)).float()
        finally:
            torch.set_default_dtype(before)

    return Between(between)
