"""The handwritten digits that the demo model was trained and is measured on.

1,797 pictures of 8x8 pixels from scikit-learn (`load_digits`, the test part of the UCI Optical Recognition of
Handwritten Digits set), split once, stratified by digit: every fifth is held out. The split is shipped as
`digits.npz`; run this file (needs scikit-learn) to make it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "digits.npz"
SEED = 20


def load_digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (float32 `[N, 1, 8, 8]`, 0..1) and labels (int64 `[N]`) of `part`: "train" or "test"."""
    with np.load(DATA, allow_pickle=False) as data:
        pictures = data[f"{part}_pictures"].astype(np.float32) / 16.0
        return pictures[:, None], data[f"{part}_labels"].astype(np.int64)


def make() -> None:
    """Write `digits.npz` from scikit-learn's copy."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    pictures, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    parts = train_test_split(pictures, labels, test_size=0.2, random_state=SEED, stratify=labels)
    names = ("train_pictures", "test_pictures", "train_labels", "test_labels")
    np.savez_compressed(DATA, **dict(zip(names, parts, strict=True)))


if __name__ == "__main__":
    make()
