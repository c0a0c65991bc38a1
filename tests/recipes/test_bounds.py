"""What tests/recipes/test_recipe.py leaves of the values that make no sense: those that are too large."""

import pytest

from recipes.checking import RecipeError
from recipes.recipe import from_dict, load_recipe


@pytest.mark.parametrize(
    ("recipe", "key", "most", "more"),
    [
        ("verify-gpt", "steps", 10**7, 10**12),
        ("verify-gpt", "data.global_batch", 2**24, 2**24 + 1),
        ("verify-gpt", "optimizer.learning_rate", 1e9, 1e308),
        ("verify-gpt", "schedule.warmup_steps", 10**7, 10**30),
        ("verify-gpt", "schedule.final_learning_rate", 1e9, 1e10),
        ("verify-gpt", "schedule.milestones", [10**7], [1, 10**7 + 1]),
        ("verify-gpt", "performance.loader_workers", 1024, 10**9),
        ("verify-gpt", "performance.prefetch_batches", 10**4, 10**5),
        ("verify-gpt", "performance.bucket_mib", 2**20, 2**21),
        ("verify-gpt", "model.num_layers", 10**4, 10**9),
        ("verify-gpt", "model.context", 2**24, 10**400),
        ("verify-gpt", "run.log_every", 2**64 - 1, 2**64),
        ("digits-resnet18", "model.image_size", 512, 513),
        ("digits-resnet18", "model.width", 2**31 - 1, 2**31),
    ],
)
def test_the_largest_value_is_taken_and_a_larger_one_is_told(recipe: str, key: str, most, more) -> None:
    content = load_recipe(recipe).as_dict()
    *tables, name = key.split(".")
    table = content[tables[0]] if tables else content
    table[name] = most
    assert from_dict(content)
    table[name] = more
    with pytest.raises(RecipeError, match=rf"^{key}: found .*, expected ") as caught:
        from_dict(content)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_told(path: str) -> None:
    content = load_recipe("verify-gpt").as_dict()
    content["data"]["path"] = path
    with pytest.raises(RecipeError, match=r"^data\.path: found "):
        from_dict(content)
