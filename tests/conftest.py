from __future__ import annotations

import sys
from pathlib import Path

# So that `import tests.media` works however pytest is started.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
