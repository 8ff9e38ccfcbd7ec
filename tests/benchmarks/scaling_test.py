import dataclasses
import pathlib

from impala.benchmarks import cluster_model, scaling

_TABLE1 = pathlib.Path(__file__).parents[2] / 'paper' / 'table1_throughput.csv'


def test_rows_of_table_1():
  rows = scaling.table1(_TABLE1)
  assert [int(row['cpus']) for row in rows] == [150, 375, 500]


def test_table_1s_actors_are_what_was_assumed_from_it():
  each = {
    'inference_step_cpu_milliseconds': 1.0,
    'update_step_cpu_milliseconds': 1.0,
  }
  assumed = scaling.assumptions({'shallow': each, 'deep': each})
  values = {name: value for name, (value, _) in assumed.items()}
  cluster = cluster_model.Cluster.from_values(values, 'shallow')
  nothing = [0.0] * (len(dataclasses.fields(cluster_model.Costs)) - 3)
  costs = cluster_model.Costs(100, 2_000_000, 5_000_000, *nothing)
  costs = dataclasses.replace(costs, learner_trajectory=0.001)
  for row in scaling.table1(_TABLE1):
    beside = scaling.beside_table1(costs, cluster, row)
    assert 0.9 < beside['limits']['actors'] / beside['paper'] < 1.1
