#!/usr/bin/env python3
"""Make digits.bin from the digits.csv.gz of a scikit-learn wheel.

usage: make_digits.py

Downloads the wheel with pip (no dependencies, nothing is installed) into a temporary folder, reads
sklearn/datasets/data/digits.csv.gz and writes digits.bin beside this script. README.md has the layout.
"""
import glob, gzip, os, subprocess, sys, tempfile, zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
MEMBER = "sklearn/datasets/data/digits.csv.gz"


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, "scikit-learn"],
            check=True,
        )
        (wheel,) = glob.glob(os.path.join(folder, "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(MEMBER)).decode("ascii")
    rows = [[int(float(cell)) for cell in line.split(",")] for line in text.split()]
    assert len(rows) == 1797, f"expected 1797 rows, found {len(rows)}"
    for number, row in enumerate(rows):
        assert len(row) == 65 and max(row[:64]) <= 16 and min(row) >= 0 and row[64] <= 9, f"row {number}: {row}"
    target = os.path.join(HERE, "digits.bin")
    with open(target + ".partial", "wb") as file:
        file.write(b"".join(bytes([row[64], *row[:64]]) for row in rows))
    os.replace(target + ".partial", target)
    print(f"{len(rows)} digits in {target}")


if __name__ == "__main__":
    main()
