import json
from pathlib import Path

from models.specs import parameter_count
from training.fingerprint import order_digest, run_json
from training.schedule import digest as rates_digest
from training.schedule import learning_rates
from training.state import digest
from training.world import World

SETTINGS = {"framework": "none", "device": "cpu", "threads": 1}


def test_run_json_says_what_the_run_was(open_tiny) -> None:
    run = open_tiny(world=World(0, 0, 2, 2, (0,), "torchrun"), accumulation=3, eager=True)
    content = json.loads(json.dumps(run_json(run, run.start, SETTINGS), allow_nan=False))
    assert content["recipe"] == run.recipe.as_dict()
    assert content["recipe_id"] == run.recipe.recipe_id
    assert (content["workers"], content["accumulation"], content["micro_batches"]) == (2, 3, 6)
    assert content["parameter_count"] == parameter_count(run.recipe.model)
    assert content["precision"] == "float64"
    assert content["digests"] == {
        "data": run.train_source.fingerprint,
        "sample_order": order_digest(run.recipe, run.train_source.num_samples),
        "learning_rates": rates_digest(learning_rates(run.recipe)),
        "initial_parameters": digest({**run.start.parameters, **run.start.buffers}),
    }
    (segment,) = content["segments"]
    assert segment["first_step"] == 0
    assert (segment["strategy"], segment["launcher"], segment["eager"]) == ("torch-single", "torchrun", True)
    assert segment["settings"] == SETTINGS
    assert segment["versions"]["numpy"]
    assert segment["hardware"]["host"]
    assert segment["command"]
    assert segment["started_unix_s"] > 1.7e9


def test_workers_that_outnumber_the_cores_are_marked_on_a_cpu_alone(open_tiny, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})

    def is_marked(workers: int, device: str) -> bool:
        run = open_tiny(world=World(0, 0, workers, workers, (0,), "torchrun"))
        return run_json(run, None, {"device": device})["segments"][0]["oversubscribed"]

    assert [is_marked(2, "cpu"), is_marked(3, "cpu"), is_marked(3, "cuda")] == [False, True, False]


def test_the_digest_of_the_order_knows_seed_batch_and_number_of_samples(open_tiny) -> None:
    recipes = [open_tiny(*change).recipe for change in ((), ("seed=2",), ("data.global_batch=12",))]
    digests = {order_digest(recipe, 1438) for recipe in recipes} | {order_digest(recipes[0], 1000)}
    assert len(digests) == 4


def test_a_shorter_run_of_the_same_recipe_differs_by_its_own_steps_only(open_tiny, tmp_path: Path) -> None:
    long, longer = (open_tiny(f"steps={steps}").recipe for steps in (20, 30))
    assert order_digest(long, 1438) == order_digest(longer, 1438)
    assert list(tmp_path.iterdir()) == []
