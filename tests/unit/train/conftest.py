import pytest


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps one state a process, with the precision of whoever asked first."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
