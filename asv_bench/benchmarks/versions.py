"""Lets a benchmark run on versions of penstock that lack what it measures: asv then shows n/a."""

from operator import attrgetter

import penstock


def has(name):
    """Whether this penstock has something of that name, which may have dots."""
    try:
        attrgetter(name)(penstock)
    except AttributeError:
        return False
    return True


def needs(*names):
    """Skip the benchmark being set up unless this penstock has each of ``names``, `BufferPool.warm` say."""
    # asv_runner is there wherever asv measures; whoever else imports the modules beside this one has none.
    from asv_runner.benchmarks.mark import SkipNotImplemented

    missing = [name for name in names if not has(name)]
    if missing:
        raise SkipNotImplemented(f"this penstock has no {', '.join(missing)}")
