"""Times how long importing nerveX and asking for help take.

python benchmarks/startup.py
"""

import subprocess
import sys
import time

from common import save, spread

COMMANDS = {
    "import nervex": [sys.executable, "-c", "import nervex"],
    "from nervex import serial_pipeline": [sys.executable, "-c", "from nervex import serial_pipeline"],
    "import torch (for comparison)": [sys.executable, "-c", "import torch"],
    "nervex --help": [sys.executable, "-m", "nervex", "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    figures = {}
    for name, command in COMMANDS.items():
        seconds(command)  # caches
        figures[name] = spread([seconds(command) for _ in range(7)])
        print(f"{name:<36} {figures[name]} s")
    print(save("startup", {"unit": "s", "runs": 7, "figures": figures}))


if __name__ == "__main__":
    main()
