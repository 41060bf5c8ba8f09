"""The published settings, with the figures that were published for them."""

from expedite.recipes.recipe import Recipe, Row
from expedite.recipes.recipes import RECIPES, find_recipe

__all__ = ["RECIPES", "Recipe", "Row", "find_recipe"]
