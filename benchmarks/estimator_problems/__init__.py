"""Problems with known answers for estimators, one a file.

Each has `TITLE`, `QUESTION`, `measure(name)` (what one estimator does, as JSON), `table(found)` (Markdown) and
`plot(found, figure)`; `found` maps the names of estimators to what `measure` returned.
"""

from __future__ import annotations

from types import ModuleType

from estimator_problems import arms, curvature, factored, parity, polynomial, quadratic

PROBLEMS: dict[str, ModuleType] = {
    "quadratic": quadratic,
    "curvature": curvature,
    "factored": factored,
    "parity": parity,
    "arms": arms,
    "polynomial": polynomial,
}
