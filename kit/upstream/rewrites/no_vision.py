"""The vision models are imported where they are used."""

from kit.upstream.rewrite import Rewrite, Text

_IMPORT = "from megatron.model.vision.knn_monitor import compute_feature_bank"

REWRITE = Rewrite(
    name="no-vision",
    group="portability",
    why="training on images is imported by all, and brings in torchvision",
    retire_when="upstream imports them where it trains on images",
    edits={
        "megatron/training.py": (
            Text(_IMPORT, "# kit: vision is imported where it is used"),
            Text(
                "compute_feature_bank(model)",
                f"{_IMPORT}\n        compute_feature_bank(model)",
            ),
        ),
    },
)
