from pyro_vae.experiments import NAMES
from pyro_vae.experiments import beta as experiment


def test_quick_run_writes_table_curve_and_sheets(tmp_path, capsys):
    argv = ["--quick", "--out", str(tmp_path), "--threads", "1", "--betas", "0.5", "8"]
    assert experiment.main(argv) == 0
    text = (tmp_path / "table.md").read_text()
    low, high = (
        dict(zip(cells(text.splitlines()[0]), cells(line), strict=True))
        for line in text.splitlines()
        if line.startswith(("| 0.5", "| 8"))
    )
    # A larger weight on the rate buys a lower rate with a larger distortion
    assert float(high["KL"]) < float(low["KL"])
    assert float(high["reconstruction"]) < float(low["reconstruction"])
    for row in (low, high):
        assert (
            abs(float(row["ELBO"].split()[0]) - float(row["reconstruction"]) + float(row["KL"]))
            < 0.02
        )
    # Without beta 1 there is nothing to compare with
    assert low["ELBO - beta 1"] == high["ELBO - beta 1"] == "-"
    assert text in capsys.readouterr().out
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert len(list((tmp_path / "rows").glob("*-traversals.png"))) == 2
    assert "beta" in NAMES


def test_data_without_factors_have_a_curve_and_no_scores(tmp_path):
    argv = ["--quick", "--data", "digits", "--betas", "1", "4", "--out", str(tmp_path)]
    assert experiment.main([*argv, "--threads", "1"]) == 0
    text = (tmp_path / "table.md").read_text()
    head, _, one, four, *_ = text.splitlines()
    found = dict(zip(cells(head), cells(one), strict=True))
    assert {found[name] for name in experiment.SCORES} == {"-"}
    # With more beta the bound without it is worse, and by the same data that is certain
    mean, error = cells(four)[cells(head).index("ELBO - beta 1")].split(" +- ")
    assert float(mean) < -3 * float(error) < 0
    assert "data digits" in text


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]
