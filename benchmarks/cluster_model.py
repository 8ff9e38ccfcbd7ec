"""Frames a second of a cluster, from what things cost and what is assumed.

Pure functions. The least of five limits: what actors make, what learners update
with, what their transport takes in CPU time, and what the network carries to
and from each.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one of each: bytes, or seconds of CPU time."""

  unroll_length: int
  trajectory_bytes: int
  parameter_bytes: int
  learner_trajectory: float
  learner_fetch: float
  actor_trajectory: float
  actor_fetch: float
  encoding: float  # Of the parameters, once an update.
  reduction: float  # Of each of two learners.

  @classmethod
  def from_row(cls, row):
    """From a result of unit_costs.py."""
    values = {
      name.removesuffix('_cpu_milliseconds'): value / 1e3
      for name, value in row.items()
      if name.endswith('_cpu_milliseconds')
    }
    values = {**row, **values}
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Cluster:
  """What is assumed; seconds, bytes and frames."""

  actor_step: float
  learner_rate: float
  action_repeats: int
  batch_size: int
  environments_per_process: int
  bandwidth: float
  round_trip: float
  transport_cores: float

  @classmethod
  def from_values(cls, values, network):
    """From values by the names of `assumptions`."""
    return cls(
      values[f'actor_step_milliseconds_{network}'] / 1e3,
      values[f'learner_frames_per_second_{network}'],
      values['action_repeats'],
      values['batch_size'],
      values['environments_per_process'],
      values['network_gigabits'] * 1e9 / 8,
      values['round_trip_milliseconds'] / 1e3,
      values['transport_cores'],
    )


def fetches_per_unroll(cluster: Cluster, learners: int, actors: int) -> float:
  """At most one a message, and one a process and update."""
  an_update = actors / (learners * cluster.batch_size)
  return min(1.0, an_update) / cluster.environments_per_process


def ring_share(learners: int) -> float:
  """Of the parameters, what each of a ring sends and receives."""
  return 2 * (learners - 1) / learners


def reduction_seconds(costs: Costs, cluster: Cluster, learners: int) -> float:
  """How long an all-reduce takes; two learners have a share of one."""
  seconds_of_all = costs.reduction + costs.parameter_bytes / cluster.bandwidth
  messages = (learners - 1) * cluster.round_trip  # 2 (n - 1), one way each.
  return ring_share(learners) * seconds_of_all + messages


def per_unroll(costs: Costs, cluster: Cluster, learners: int, actors: int):
  """What an unroll is to a learner: CPU seconds, bytes in, bytes out."""
  fetches = fetches_per_unroll(cluster, learners, actors)
  reduced = ring_share(learners) * costs.parameter_bytes / cluster.batch_size
  cpu = (
    costs.learner_trajectory
    + fetches * costs.learner_fetch
    + costs.encoding / cluster.batch_size
  )
  return (
    cpu,
    costs.trajectory_bytes + reduced,
    fetches * costs.parameter_bytes + reduced,
  )


def limits(
  costs: Costs, cluster: Cluster, learners: int, actors: int
) -> dict[str, float]:
  """Returns the frames/s that each part allows, by name."""
  frames = costs.unroll_length * cluster.action_repeats
  fetches = fetches_per_unroll(cluster, learners, actors)
  cpu, incoming, outgoing = per_unroll(costs, cluster, learners, actors)
  moved = costs.trajectory_bytes + fetches * costs.parameter_bytes
  exchange = (
    costs.actor_trajectory
    + fetches * costs.actor_fetch
    + costs.learner_trajectory
    + fetches * costs.learner_fetch
    + moved / cluster.bandwidth
    + cluster.round_trip / cluster.environments_per_process
  )
  batch = cluster.batch_size * frames
  update = batch / cluster.learner_rate + reduction_seconds(
    costs, cluster, learners
  )
  return {
    'actors': actors
    * frames
    / (costs.unroll_length * cluster.actor_step + exchange),
    'update': learners * batch / update,
    'transport': learners * cluster.transport_cores * frames / cpu,
    'network in': learners * cluster.bandwidth * frames / incoming,
    'network out': learners * cluster.bandwidth * frames / outgoing,
  }


def predict(costs: Costs, cluster: Cluster, learners: int, actors: int) -> dict:
  """Returns frames/s, what limits them, and each limit."""
  each = limits(costs, cluster, learners, actors)
  limit = min(each, key=each.get)
  return {
    'learners': learners,
    'actors': actors,
    'frames_per_second': round(each[limit]),
    'limit': limit,
    'limits': {name: round(value) for name, value in each.items()},
  }


def needs(costs: Costs, cluster: Cluster, actors: int, rate: float) -> dict:
  """Returns what one learner's transport needs for `rate` frames/s."""
  cpu, incoming, outgoing = per_unroll(costs, cluster, 1, actors)
  unrolls = rate / (costs.unroll_length * cluster.action_repeats)
  return {
    'transport_cores': round(unrolls * cpu, 1),
    'gigabits_in': round(unrolls * incoming * 8e-9, 1),
    'gigabits_out': round(unrolls * outgoing * 8e-9, 1),
  }


def speedup(costs: Costs, cluster: Cluster, learners: int, actors: int):
  """Of learners beside one: with these actors, and with enough of them."""

  def ratio(actors):
    one, several = (
      min(limits(costs, cluster, n, actors).values()) for n in (1, learners)
    )
    return round(several / one, 2)

  return {
    'learners': learners,
    'actors': actors,
    'with_these_actors': ratio(actors),
    'with_enough_actors': ratio(math.inf),
  }
