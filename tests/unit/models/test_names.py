"""Names that users' programs import."""

import subprocess
import sys


def test_the_name_of_before_registers_spark_too():
    program = """
import kit.spark
from transformers import AutoConfig
assert AutoConfig.for_model("iflytekspark").__class__ is kit.spark.SparkConfig
"""
    subprocess.run([sys.executable, "-c", program], check=True)
