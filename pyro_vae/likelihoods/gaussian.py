"""Real values with normal noise."""

from __future__ import annotations

from .located import Located


class Gaussian(Located):
    """Real values: log p(x_k) = -(x_k - m_k)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2.

    With ``loc`` and ``scale`` it is the standardised (x_k - loc_k) / scale_k that has mean m_k and
    deviation sigma, and that the networks of guides see: what the model draws and predicts, and
    the bound, are in the units of x all the same (log p(x_k) has a further -log scale_k). Tables
    whose columns differ in scale need it.

    Sigma sets how much a squared error counts against the KL, and is learnt by the bound itself;
    beta, the weight of the KL, stays a number of its own.

    Source: "Simple and Effective VAE Training with Calibrated Decoders", Rybkin, Daniilidis,
    Levine (2021).

    Args:
        sigma: the standard deviation: a positive number; "learned", one parameter; "optimal", the
            closed form; "per_pixel", one parameter per element; "predicted", sigma(z) from the
            decoder; or an object of one of these kinds, such as ``LearnedSigma(initial=0.5)``.
        loc: what is subtracted from x, a number or (*event_shape), such as the mean of the
            training data. Default: nothing.
        scale: what it is divided by, positive, likewise. Default: nothing.

    Attributes:
        noise: the object that gives sigma.
        loc, scale: as given, in tensors, or None.

    Shapes:
        features (..., *event_shape), means; with "predicted" (..., *event_shape, 2), mean and log
        sigma; result of batch shape (..., *event_shape).

    Raises:
        ValueError: sigma is none of these; a loc that is not finite, a scale that is not positive
            and finite.

    Example:
        >>> import torch
        >>> Gaussian(sigma=2.0)(torch.zeros(1)).stddev
        tensor([2.])
        >>> Gaussian(sigma=2.0, loc=[5.0], scale=[100.0])(torch.zeros(1)).stddev
        tensor([200.])
        >>> [name for name, _ in Gaussian(sigma="learned").named_parameters()]
        ['noise.raw']
    """
