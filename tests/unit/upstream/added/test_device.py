import pytest
import torch

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

from kit.upstream.added.device import current_device, custom_bwd, custom_fwd, synchronize


def test_the_device_is_deepspeeds():
    assert torch.device(current_device()).type in ("cpu", "cuda")
    synchronize()


def test_autograd_functions_are_decorated_for_it():
    class Double(torch.autograd.Function):
        @staticmethod
        @custom_fwd
        def forward(ctx, value):
            return 2 * value

        @staticmethod
        @custom_bwd
        def backward(ctx, gradient):
            return 2 * gradient

    value = torch.ones(1, device=current_device(), requires_grad=True)
    Double.apply(value).backward()
    assert value.grad.item() == 2
