"""A call that trace functions see in a task that goes on."""


def resumed() -> None:
    """Be called in a parked task's greenlet when it goes on, while a trace function is set.

    A tracer that keeps books for each greenlet (``coverage``) looks at which one is current when a
    function is called and when it returns. A task that goes on inside a call of ours shows neither, and
    its next lines would be taken for those of the greenlet that ran before.
    """
