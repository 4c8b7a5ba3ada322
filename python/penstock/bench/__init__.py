"""``penstock bench``: what penstock costs beside its peers, measured in one run.

The command imports this package; ``import penstock`` does not. ``command`` is the command itself. ``rows``
has the questions and their goals, ``peers`` who may answer them; a side is a process (``side``, and
``serve`` at its other end) or Go's program (``go_side``), and answers with the functions of ``work``.
``measure`` takes the samples, ``table`` and ``report`` show them as text and as JSON, ``machine`` says
where they were taken, and ``progress`` how far they are.
"""
