"""Names for the array types of this room.

What belongs here: aliases that make signatures readable. What does not: anything that runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
C64 = npt.NDArray[np.complex64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]
