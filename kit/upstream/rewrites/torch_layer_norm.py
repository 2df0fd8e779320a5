"""LayerNorm by torch."""

from kit.upstream.rewrite import Definition, Rewrite, Text

REWRITE = Rewrite(
    name="torch-layer-norm",
    group="portability",
    why="upstream's LayerNorm needs kernels of apex on a GPU; off it, another class takes its "
    "place, which does not know its arguments. torch's own kernel computes the same, with "
    "statistics in fp32",
    retire_when="upstream's LayerNorm works without apex on every device",
    edits={
        "megatron/model/__init__.py": (Text("get_accelerator().device_name() == 'cuda'", "True"),),
        "megatron/model/fused_layer_norm.py": (
            Text(
                "from apex.normalization.fused_layer_norm import FusedLayerNormAffineFunction",
                "# kit: no apex",
            ),
            Text('importlib.import_module("fused_layer_norm_cuda")', "None"),
            Definition(
                "MixedFusedLayerNorm.forward",
                """
                def forward(self, input):
                    scale = self.weight
                    if self.apply_layernorm_1p:
                        scale = 1 + scale
                    norm = torch.nn.functional.layer_norm
                    return norm(input, self.normalized_shape, scale, self.bias, self.eps)
                """,
            ),
        ),
    },
)
