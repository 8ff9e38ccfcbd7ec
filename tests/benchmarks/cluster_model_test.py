import dataclasses

import pytest

from impala.benchmarks import cluster_model

# Numbers that are easily multiplied: an unroll is 400 frames.
COSTS = cluster_model.Costs(
  unroll_length=100,
  trajectory_bytes=2_000_000,
  parameter_bytes=5_000_000,
  learner_trajectory=0.004,
  learner_fetch=0.002,
  actor_trajectory=0.003,
  actor_fetch=0.007,
  encoding=0.0032,
  reduction=0.01,
)
CLUSTER = cluster_model.Cluster(
  actor_step=0.01,
  learner_rate=128_000,
  action_repeats=4,
  batch_size=32,
  environments_per_process=1,
  bandwidth=1e9,
  round_trip=0.001,
  transport_cores=1,
)


def test_each_limit_by_hand():
  limits = cluster_model.limits(COSTS, CLUSTER, learners=1, actors=100)
  # A step takes 10 ms; an exchange 3 + 7 of the actor, 4 + 2 of the learner,
  # 7 on the wire and 1 there and back.
  assert limits == pytest.approx(
    {
      'actors': 100 * 400 / 1.024,
      'update': 128_000,
      'transport': 400 / 0.0061,
      'network in': 400 / 0.002,
      'network out': 400 / 0.005,
    }
  )


def test_an_all_reduce_takes_time_and_network():
  # A batch of each takes 100 ms; an all-reduce of two 10 + 5 + 1.
  limits = cluster_model.limits(COSTS, CLUSTER, learners=2, actors=1000)
  assert limits['update'] == pytest.approx(2 * 12_800 / 0.116)
  assert limits['network in'] == pytest.approx(2 * 400 / (0.002 + 0.005 / 32))


def test_one_learner_reduces_nothing():
  assert cluster_model.reduction_seconds(COSTS, CLUSTER, 1) == 0


def test_ring_share_tends_to_twice_the_parameters():
  assert [cluster_model.ring_share(n) for n in (1, 2, 4, 8)] == [
    0,
    1,
    1.5,
    1.75,
  ]


@pytest.mark.parametrize(
  ('environments', 'learners', 'actors', 'fetches'),
  [
    (1, 1, 48, 1),  # More actors than unrolls in a batch: always newer ones.
    (1, 1, 16, 0.5),  # Each sends two unrolls between updates.
    (1, 4, 64, 0.5),
    (16, 1, 500, 1 / 16),  # One for all environments of a process.
  ],
)
def test_fetches_per_unroll(environments, learners, actors, fetches):
  cluster = dataclasses.replace(CLUSTER, environments_per_process=environments)
  assert cluster_model.fetches_per_unroll(
    cluster, learners, actors
  ) == pytest.approx(fetches)


def test_predicts_the_least_and_names_it():
  few = cluster_model.predict(COSTS, CLUSTER, learners=1, actors=10)
  assert few['limit'] == 'actors'
  assert few['frames_per_second'] == few['limits']['actors']
  many = cluster_model.predict(COSTS, CLUSTER, learners=1, actors=1000)
  assert many['limit'] == 'transport'
  assert many['frames_per_second'] == round(400 / 0.0061)


def test_what_is_needed_is_what_limits():
  rate = cluster_model.limits(COSTS, CLUSTER, 1, 100)['transport']
  assert cluster_model.needs(COSTS, CLUSTER, 100, rate)['transport_cores'] == 1
  rate = cluster_model.limits(COSTS, CLUSTER, 1, 100)['network out']
  assert cluster_model.needs(COSTS, CLUSTER, 100, rate)['gigabits_out'] == 8


def test_learners_without_actors_speed_nothing_up():
  rows = cluster_model.speedup(COSTS, CLUSTER, learners=8, actors=10)
  assert rows['with_these_actors'] == pytest.approx(1, abs=0.05)
  assert 6 < rows['with_enough_actors'] <= 8


def test_costs_of_a_measured_row():
  row = {
    'network': 'deep',
    'unroll_length': 100,
    'trajectory_bytes': 1,
    'parameter_bytes': 2,
    'inference_step_cpu_milliseconds': 3.0,
    **{
      f'{name}_cpu_milliseconds': 2.0
      for name in (
        'learner_trajectory',
        'learner_fetch',
        'actor_trajectory',
        'actor_fetch',
        'encoding',
        'reduction',
      )
    },
  }
  costs = cluster_model.Costs.from_row(row)
  assert (costs.parameter_bytes, costs.encoding) == (2, 0.002)
