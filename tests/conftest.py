import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before anybody imports triton: kernels run on the CPU


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
