from hlserve.report.health import with_flags
from hlserve.report.learning import LayerHealth


def layer(**changes: float | None) -> LayerHealth:
    plain: dict[str, float | None] = {
        "mean": 0.1,
        "std": 1.0,
        "dead": None,
        "saturated": None,
        "weight_rms": 0.1,
        "gradient_rms": 0.01,
    }
    return LayerHealth(name="l", kind="Any", **{**plain, **changes})  # type: ignore[arg-type]


def test_healthy_layers_have_no_flags() -> None:
    assert [x.flags for x in with_flags([layer(dead=0.1), layer(saturated=0.2), layer()])] == [
        ()
    ] * 3


def test_dead_saturated_and_constant_layers_stand_out() -> None:
    told = with_flags([layer(dead=0.5), layer(saturated=0.75), layer(mean=3.0, std=0.0), layer()])
    assert [x.flags for x in told] == [
        ("50% of its units are dead",),
        ("75% saturated",),
        ("hardly varies",),
        (),
    ]


def test_gradients_are_judged_against_the_last_layers() -> None:
    told = with_flags([layer(gradient_rms=1e-7), layer(gradient_rms=1e3), layer()])
    assert [x.flags for x in told] == [("gradient vanishes",), ("gradient explodes",), ()]


def test_a_network_without_parameters_has_no_gradients_to_judge() -> None:
    none = layer(weight_rms=None, gradient_rms=None)
    assert with_flags([none])[0].flags == ()
