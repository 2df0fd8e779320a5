import pytest
import torch

from kit.upstream.added.without_apex import amp_C, multi_tensor_applier

TENSORS = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]], dtype=torch.bfloat16)]


def test_norm_over_all_tensors_and_of_each():
    overflow = torch.zeros(1, dtype=torch.int32)
    total, each = multi_tensor_applier(amp_C.multi_tensor_l2norm, overflow, [TENSORS], True)
    assert total.tolist() == [13.0]
    assert each.tolist() == [5.0, 12.0]
    total, each = multi_tensor_applier(amp_C.multi_tensor_l2norm, overflow, [TENSORS], False)
    assert each is None
    empty, _ = multi_tensor_applier(amp_C.multi_tensor_l2norm, overflow, [[]])
    assert empty.tolist() == [0.0]


@pytest.mark.parametrize(("value", "overflown"), [(2.0, 0), (float("inf"), 1), (float("nan"), 1)])
def test_scaled_into_other_tensors(value, overflown):
    overflow = torch.zeros(1, dtype=torch.int32)
    source, target = [torch.tensor([value, 1.0])], [torch.zeros(2, dtype=torch.bfloat16)]
    multi_tensor_applier(amp_C.multi_tensor_scale, overflow, [source, target], 0.5)
    assert overflow.item() == overflown
    assert target[0][1] == 0.5
