"""The published settings, with the figures that were published for them."""

from expedite.recipes.recipe import COUNTED_WITH, Recipe, Row
from expedite.recipes.recipes import RECIPES, find_recipe

__all__ = ["COUNTED_WITH", "RECIPES", "Recipe", "Row", "find_recipe"]
