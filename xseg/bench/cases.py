"""The cases of `xseg bench`; references have the algorithm of the published code."""

from xseg.bench.chain import chain_case
from xseg.bench.explanations import explanation_cases
from xseg.bench.files import file_cases
from xseg.bench.guidance import guidance_cases
from xseg.bench.loading import loading_case
from xseg.bench.measure import Case
from xseg.bench.multiscale import multiscale_case
from xseg.bench.perturbations import perturbation_case
from xseg.bench.refinement import refinement_cases
from xseg.bench.scoring import scoring_cases
from xseg.device import cores
from xseg.errors import UsageError


def cases(only: str = "") -> list[Case]:
    """The cases that can run here, those against a peer only where it is installed.

    Args:
        only: part of the names wanted.

    Raises:
        UsageError: no case has such a name.
    """
    every = [
        *refinement_cases(),
        perturbation_case(),
        *file_cases(),
        *scoring_cases(),
        *explanation_cases(),
        multiscale_case(96, 128),
        *([chain_case(24), loading_case(8)] if cores() > 1 else []),
        *guidance_cases(),
    ]
    found = [case for case in every if only in case.name]
    if not found:
        names = "; ".join(case.name for case in every)
        raise UsageError(f"--only {only}: no case has this in its name", f"part of one of: {names}")
    return found
