import dataclasses
import runpy

from pages import REPOSITORY

from worldsim.train.recipe import DynamicsStage

TOOL = runpy.run_path(str(REPOSITORY / "docs" / "tools" / "recipe_reference.py"))


def test_the_reference_of_recipes_is_that_of_their_types():
    page = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == TOOL["page"](), "run python docs/tools/recipe_reference.py"


def test_every_field_has_a_row_with_its_default():
    page = TOOL["page"]()
    assert {f.name for f in dataclasses.fields(DynamicsStage)} <= TOOL["comments"](DynamicsStage).keys()
    assert "| `patch` | `[integer, integer]` | `[2, 2]` | latents (rows, columns) in a token |" in page
