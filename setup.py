"""What setup.cfg cannot say: the README of a built package, whose links lead out of it.

``PYRO_VAE_URL`` names where the repository is read, for instance https://host/owner/pyro_vae.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"(!?)\[((?:!\[[^]]*\]\([^)]*\)|[^]])*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute(text: str, url: str) -> str:
    """The Markdown ``text`` with each link into the repository at ``url``."""

    def outward(match: re.Match[str]) -> str:
        image, label, path = match.groups()
        room = "raw" if image else "blob"
        return f"{image}[{absolute(label, url)}]({url.rstrip('/')}/{room}/HEAD/{path})"

    return LINK.sub(outward, text)


def described(url: str) -> dict[str, object]:
    """The arguments of ``setup`` that depend on ``url``."""
    if not url:
        sys.stderr.write(
            "README: its links stay relative; set PYRO_VAE_URL to where the repository is read\n"
        )
        return {}
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    pages = {"Source": url, "Changes": f"{url}/blob/HEAD/CHANGELOG.md", "Issues": f"{url}/issues"}
    return {"url": url, "project_urls": pages, "long_description": absolute(readme, url)}


if __name__ == "__main__":
    setup(**described(os.environ.get("PYRO_VAE_URL", "").rstrip("/")))
