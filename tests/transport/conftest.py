import sys
from pathlib import Path

for folder in ("transport", "collective"):  # what these tests share with each other, and with those of programs
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
