"""Names for the array types of this room.

What belongs here: types. What does not: values or functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Int16 = NDArray[np.int16]
Bools = NDArray[np.bool_]
