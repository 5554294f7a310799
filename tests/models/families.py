"""Guides of other families than those that most tests have."""

from pyro_vae import guides

FAMILIES = {
    "full covariance": guides.FullCovariance,
    "flow": guides.Flow,
    "point mass": guides.Delta,
    "in parts": lambda vae: guides.Composed(
        guides.BottomUp(vae, sites=["z1"]), guides.FullCovariance(vae, sites=["z2"])
    ),
}
