"""spark-kit: iFlytekSpark-13B on one affordable GPU, with proof of the memory it takes."""

__version__ = "0.1.0"
