from diffpo_jax.workdir import provenance


def test_run_info_names_code_and_packages():
    info = provenance.run_info("data 1")
    assert info["versions"]["jax"].count(".") >= 2
    assert info["commit"]
    assert info["mesh"] == "data 1"


def test_the_recorded_command_can_be_given_again(monkeypatch):
    main = provenance.__file__.replace("workdir/provenance.py", "main.py")
    monkeypatch.setattr("sys.argv", [main, "--config=configs/sudoku.py"])
    command = provenance.run_info("")["command"]
    assert command == ["python", "-m", "diffpo_jax.main", "--config=configs/sudoku.py"]
    monkeypatch.setattr("sys.argv", ["/elsewhere/sweep.py", "-x"])
    assert provenance.run_info("")["command"] == ["sweep.py", "-x"]
