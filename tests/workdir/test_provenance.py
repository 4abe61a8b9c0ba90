from diffpo_jax.workdir import provenance


def test_run_info_names_code_and_packages():
    info = provenance.run_info("data 1")
    assert info["versions"]["jax"].count(".") >= 2
    assert info["commit"]
    assert info["mesh"] == "data 1"
