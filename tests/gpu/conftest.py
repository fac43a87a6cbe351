"""These tests need a GPU; where there is none they are skipped."""

import pytest


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
