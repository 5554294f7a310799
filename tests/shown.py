"""What people see."""


def as_html(value):
    """What a notebook shows of a value."""
    return value._repr_html_()
