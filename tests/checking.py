"""What runs in a notebook's kernel beside its cells: assertions about what they have found."""

import inspect
import runpy


class Checks:
    """The functions ``check_...`` of a file, whose parameters are names of a notebook.

    Each is called once, as soon as all of its names are there; those that ``wait`` have not been.

    Args:
        path: the file; None for no checks.
    """

    def __init__(self, path):
        found = {} if path is None else runpy.run_path(path)
        self.waiting = {n: check for n, check in found.items() if n.startswith("check_")}

    def run(self, names):
        """Call those whose parameters are among these names."""
        for name, check in list(self.waiting.items()):
            wanted = inspect.signature(check).parameters
            if wanted.keys() <= names.keys():
                del self.waiting[name]
                check(**{k: names[k] for k in wanted})
