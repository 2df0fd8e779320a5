"""What upstream's ``megatron/data/helpers.cpp`` computes for Spark's training data, by numpy."""

import numpy as np
import numpy.typing as npt


def build_sample_idx(
    sizes: npt.NDArray[np.int32],
    doc_idx: npt.NDArray[np.int32],
    seq_length: int,
    num_epochs: int,
    tokens_per_epoch: int,
) -> npt.NDArray[np.int64]:
    """Where samples begin, when all documents of all epochs stand in one row.

    A sample has ``seq_length`` tokens and the one after, with which the next sample begins.

    Args:
        sizes: tokens of each document: [documents].
        doc_idx: the documents in the order in which they are read, over all epochs.
        tokens_per_epoch: the sum of the sizes of an epoch's documents.

    Returns:
        [samples + 1, 2]: an index into ``doc_idx``, and a token of that document.
    """
    samples = (num_epochs * tokens_per_epoch - 1) // seq_length
    ends = np.cumsum(sizes[doc_idx], dtype=np.int64)
    starts = np.arange(samples + 1, dtype=np.int64) * seq_length
    documents = np.searchsorted(ends, starts, side="right")
    documents[0] = 0  # even if it is empty
    offsets = starts - np.where(documents > 0, ends[documents - 1], 0)
    return np.stack([documents, offsets], axis=1)


def build_blending_indices(
    dataset_index: npt.NDArray[np.uint8],
    dataset_sample_index: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    num_datasets: int,
    size: int,
    verbose: bool,
) -> None:
    """Choose, sample by sample, the dataset that lags its weight most.

    Args:
        dataset_index: is filled with the dataset of each sample: [size].
        dataset_sample_index: is filled with the sample's number in that dataset: [size].
        weights: of the datasets; their sum is 1: [num_datasets].
        verbose: print the shares reached.
    """
    taken = [0] * num_datasets
    shares = weights.tolist()
    for sample in range(size):
        lags = [share * max(sample, 1) - count for share, count in zip(shares, taken, strict=True)]
        chosen = lags.index(max(lags))
        dataset_index[sample] = chosen
        dataset_sample_index[sample] = taken[chosen]
        taken[chosen] += 1
    if verbose:
        print(" > sample ratios:", *(f"{count / size:.6f}" for count in taken), flush=True)
