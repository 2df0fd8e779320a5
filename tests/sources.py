"""What the tests of sources share: a small file, its pointer, and sets of such files."""

import hashlib
import os

from kit.weights.catalogue import WeightSet, read_catalogue

CONTENT = os.urandom(5000)
SHA = hashlib.sha256(CONTENT).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA}\nsize 5000\n".encode()
WEIGHTS = read_catalogue().weights["spark-13b-chat"]
CHECKPOINT = "mp_rank_00_model_states.pt"
PATH = "iFlytekSpark_13B_chat_fp32/mp_rank_00_model_states.pt"


def weights(files: dict[str, str]) -> WeightSet:
    return WeightSet("tiny", "", files, ("s",), WEIGHTS.licence, None, None, 0)
