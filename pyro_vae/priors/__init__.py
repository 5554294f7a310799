"""What stands for p(z): fitted after training, or learned with the rest.

A prior is a module whose ``forward()`` returns a distribution; ``handlers.replace_prior`` puts it
at the top latent of any model, and ``model.sample(n, prior=...)`` draws from it once.
"""

from .code_prior import CodePrior

__all__ = ["CodePrior"]
