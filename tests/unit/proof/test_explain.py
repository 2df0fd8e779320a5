from kit.memory.timeline import Timeline
from kit.proof.explain import explain, ratio_remark
from kit.units import GIB
from tests.timelines import RUN, TIMELINE, sample


def test_every_figure_and_where_it_comes_from():
    assert "\n".join(explain(TIMELINE)) == (
        """\
spark, native engine on cuda:0: 5 samples in 4.0 s from 2026-01-02T03:04:05+00:00
host RAM: the most at once was 2.00 GiB, reached after 1.0 s, phase weights
  of it 1.50 GiB private, 0.50 GiB of mapped files, which the kernel can drop
  starting   up to 1.00 GiB
  weights    up to 2.00 GiB, 1.00 GiB more
  planned 3.00 GiB; measured 0.67 of the plan: 1.00 GiB under, more than its tolerance of 10%
    plan: runtime              3.00 GiB
  budget 4.00 GiB: 2.00 GiB below
VRAM: the most at once was 27.00 GiB, reached after 3.0 s, phase prefill
  of it 26.50 GiB in torch's pool, 0.50 GiB CUDA context and kernels
  weights    up to 25.00 GiB
  prefill    up to 27.00 GiB, 2.00 GiB more
  planned 28.00 GiB; measured 0.96 of the plan, within its tolerance of 10%
    plan: weights             25.00 GiB
    plan: KV cache             2.00 GiB
  budget 30.00 GiB: 3.00 GiB below"""
    )


def test_a_few_bytes_more_are_no_news():
    samples = (sample(0, "serving", GIB), sample(1, "stopping", GIB + 4096))
    lines = explain(Timeline(RUN, samples))
    assert "host RAM: the most at once was 1.00 GiB, reached after 0.0 s, phase serving" in lines
    assert not any("stopping" in line for line in lines)


def test_a_breach_is_loud():
    lines = explain(Timeline(RUN, (sample(0, "prefill", 5 * GIB),)))
    assert "  budget 4.00 GiB: 1.00 GiB OVER" in lines


def test_no_gpu_no_word_of_one():
    lines = explain(Timeline(RUN, (sample(0, "prefill", GIB),)))
    assert not any("VRAM" in line for line in lines)


def test_both_ways_off():
    assert ratio_remark(3 * GIB, 2 * GIB).startswith("1.50 of the plan: 1.00 GiB over")
    assert ratio_remark(GIB, 2 * GIB).startswith("0.50 of the plan: 1.00 GiB under")
    assert "within" in ratio_remark(21 * GIB, 20 * GIB)
