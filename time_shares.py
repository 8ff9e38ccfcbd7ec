"""What learner and actors spend their time on, and so what limits a run."""

from impala import actor_pool


def time_shares(
  totals: actor_pool.Totals,
  since: actor_pool.Totals,
  waiting: float,
  working: float,
  elapsed: float,
) -> dict[str, float]:
  """Returns shares of time between 0 and 1, and the mean inference batch.

  Args:
    totals: Of the actors, at the end of an interval.
    since: The same at its beginning.
    waiting: Seconds that the learner waited for batches.
    working: Seconds that it learned.
    elapsed: Seconds of the interval.
  """
  spent = actor_pool.Totals(
    *(a - b for a, b in zip(totals, since, strict=True))
  )
  acting = max(elapsed * totals.actors, 1e-9)
  # A wait counts when it ends, and may have begun before the interval did.
  return {
    'batch_fill': spent.batched_rows / max(spent.batches, 1),
    'learner_wait': waiting / max(waiting + working, 1e-9),
    'actor_wait': _share(spent.blocked_seconds, acting),
    'environment_wait': _share(spent.environment_seconds, acting),
    'inference_wait': _share(spent.inference_seconds, acting),
  }


def limiting_factor(
  learner_wait: float,
  actor_wait: float,
  environment_wait: float,
  inference_wait: float,
) -> str:
  """Says in one sentence what limits a run, from its shares of time."""
  if actor_wait > learner_wait:
    what = 'the learner'
  elif inference_wait > environment_wait:
    what = 'inference'
  else:
    what = 'the environments'
  return (
    f'Limited by {what}: the learner waited {learner_wait:.0%} of its time for '
    f'batches; the actors spent {environment_wait:.0%} of theirs on '
    f'environments, {inference_wait:.0%} on inference and {actor_wait:.0%} '
    'waiting for the learner.'
  )


def _share(seconds, of):
  # Remote actors that were restarted count from 0 again.
  return min(max(seconds / of, 0.0), 1.0)
