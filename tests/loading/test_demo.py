import pytest

from expedite import ExpediteError
from expedite.loading import load_model


@pytest.mark.parametrize(
    ("name", "task", "size"),
    [("segmenter", "segmentation", (256, 384)), ("dpt", "depth", (512, 768))],
)
def test_shipped_models_need_no_path(name: str, task: str, size: tuple[int, int]) -> None:
    loaded = load_model(f"demo:{name}")
    assert (loaded.name, loaded.task, loaded.image_size) == (f"demo:{name}", task, size)
    assert loaded.trained
    assert load_model(f"demo:{name}", (256, 256)).image_size == (256, 256)


def test_what_is_not_shipped_is_refused() -> None:
    with pytest.raises(ExpediteError, match="the models that are shipped are segmenter, dpt"):
        load_model("demo:swin")
    with pytest.raises(ExpediteError, match="3 classes were asked of 'demo:dpt'"):
        load_model("demo:dpt", classes=3)
