"""Lets a benchmark run on versions of penstock that lack what it measures: asv then shows n/a."""

import penstock


def needs(*names):
    """Skip the benchmark being set up unless this penstock has every one of ``names``."""
    # asv_runner is there wherever asv measures; whoever else imports the modules beside this one has none.
    from asv_runner.benchmarks.mark import SkipNotImplemented

    missing = [name for name in names if not hasattr(penstock, name)]
    if missing:
        raise SkipNotImplemented(f"this penstock has no {', '.join(missing)}")
