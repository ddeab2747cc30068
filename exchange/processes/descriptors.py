"""How many files and sockets this process may have open."""

import resource


def descriptors(wanted: int) -> int:
    """Raise the soft limit to ``wanted`` as far as the hard one lets, and return what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max(soft, wanted)
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # some kernels have a lower limit of their own
        return soft
    return raised
