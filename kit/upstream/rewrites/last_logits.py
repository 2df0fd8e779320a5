"""Scores of the last position only, where nobody asked for those of the prompt."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="last-logits",
    group="memory-serving",
    why="the head computes scores for every position of the prompt, in bf16 and again in fp32, "
    "11.8 GB at 32768 tokens, and one row of them is used",
    retire_when="upstream computes the scores that it samples from",
    edits={
        "megatron/text_generation/generation.py": (
            Text(
                "forward_step = ForwardStep(model, batch_size, max_sequence_length)",
                "forward_step = ForwardStep(model, batch_size, max_sequence_length)\n"
                "    forward_step.inference_params.last_logits_only = not return_output_log_probs",
            ),
        ),
        "megatron/model/iFlytekSpark_model.py": (
            Text(
                "lm_output = post_language_model_processing(",
                "if getattr(inference_params, 'last_logits_only', False):\n"
                "                lm_output = lm_output[-1:]\n"
                "            lm_output = post_language_model_processing(",
            ),
        ),
    },
)
