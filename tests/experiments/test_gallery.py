import matplotlib.image
import pytest

from pyro_vae.experiments import gallery as experiment

ROOT_ROWS = 12  # of the README's table of systems


def test_there_is_a_picture_for_each_system():
    assert len(experiment.PICTURES) == ROOT_ROWS


@pytest.mark.parametrize("name", experiment.PICTURES)
def test_a_picture_shows_something_and_is_small(name, tmp_path, capsys):
    argv = ["--quick", "--data", "digits", "--systems", name, "--out", str(tmp_path)]
    assert experiment.main([*argv, "--threads", "1"]) == 0
    path = tmp_path / f"{name}.png"
    assert capsys.readouterr().out.strip() == str(path)
    assert path.stat().st_size < 150_000
    pixels = matplotlib.image.imread(path)
    assert pixels[..., 3].min() == 1  # opaque: legible on a dark page, too
    assert pixels[..., :3].std() > 0.05 and pixels.shape[1] < 1000
