"""DeedConfig: checks, resolution, round trip."""

import json

import pytest

from deed import DeedConfig, DeedConfigError


def test_resolve_lists_the_exits_with_the_last_always_among_them():
    assert DeedConfig().resolve(4).exit_layers == [1, 2, 3, 4]
    assert DeedConfig(exit_layers=[3, 1, 3]).resolve(6).exit_layers == [1, 3, 6]


def test_round_trip_through_json():
    config = DeedConfig(
        exit_layers=[2],
        adapter="bottleneck",
        adapter_dim=8,
        confidence={"name": "patience", "patience": 3},
        confidence_over="allowed",
        threshold=[0.5],
        threshold_decay={"temperature": 4.0, "length": 20},
        asking={"name": "gate"},
        loss="mean",
        calibration={"risk": 0.01},
    )
    assert DeedConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    screened = DeedConfig(asking={"name": "screen", "rank": 64, "slack": 0.05})
    assert DeedConfig.from_dict(json.loads(json.dumps(screened.to_dict()))) == screened


def test_a_configuration_saved_before_asking_existed_asks_plainly():
    saved = {k: v for k, v in DeedConfig().to_dict().items() if k != "asking"}
    assert DeedConfig.from_dict(saved).asking == "plain"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exit_layers": []}, "exit_layers"),
        ({"exit_layers": [0]}, "exit_layers"),
        ({"exit_layers": "all"}, "exit_layers"),
        ({"exit_layers": [True]}, "exit_layers"),
        ({"adapter": "lora"}, "adapter must be one of"),
        ({"adapter_dim": 0}, "adapter_dim"),
        ({"confidence": "vibes"}, "confidence must be one of"),
        ({"confidence": {"name": "patience", "patience": 0}}, "patience"),
        ({"confidence": {"name": "margin", "k": 1}}, "does not take"),
        ({"confidence_over": "some"}, "confidence_over"),
        ({"threshold": "high"}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": []}, "threshold"),
        ({"threshold_decay": {"temperature": 4}}, "threshold_decay"),
        ({"threshold_decay": {"temperature": 4, "length": 0}}, "length > 0"),
        ({"loss": "sum"}, "loss must be one of"),
        ({"asking": "guess"}, "asking must be one of"),
        ({"asking": None}, "asking must be one of"),
        ({"asking": {"rank": 3}}, "asking must be one of"),
        ({"asking": {"name": "gate", "rank": 3}}, "takes none"),
        ({"asking": {"name": "screen", "size": 3}}, "does not take the options"),
        ({"asking": {"name": "screen", "rank": 0}}, "rank must be an integer >= 1"),
        ({"asking": {"name": "screen", "rank": 2.5}}, "rank must be an integer >= 1"),
        ({"asking": {"name": "screen", "refine": -1}}, "refine must be an integer >= 0"),
        ({"asking": {"name": "screen", "refine": None}}, "refine must be an integer >= 0"),
        ({"asking": {"name": "screen", "slack": 1.5}}, "slack must be a number"),
        ({"asking": {"name": "screen", "bound": 1}}, "bound must be true or false"),
        ({"asking": {"name": "screen", "bound": True, "rank": 8, "slack": 0.1}}, "leaves rank and slack"),
        ({"asking": {"name": "screen", "bound": True, "confirm": False}}, "leaves confirm"),
        ({"asking": {"name": "shortlist", "size": 1}}, "size must be an integer >= 2"),
        ({"asking": {"name": "shortlist", "first": "gate"}}, 'first must be "exact" or "screen"'),
        ({"asking": {"name": "shortlist", "rank": 8}}, "set first="),
        ({"asking": "shortlist", "confidence": "patience"}, "does not work with confidence"),
        ({"asking": "screen", "confidence": {"name": "patience", "patience": 3}}, "does not work with confidence"),
        ({"asking": {"name": "screen", "bound": True}, "confidence": "entropy"}, "bounds confidence"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(DeedConfigError, match=message):
        DeedConfig(**fields)


def test_what_does_not_fit_the_decoder():
    with pytest.raises(DeedConfigError, match="depth 9, but the decoder has 4"):
        DeedConfig(exit_layers=[9]).resolve(4)
    with pytest.raises(DeedConfigError, match="threshold has 2 values"):
        DeedConfig(threshold=[0.5, 0.5]).resolve(5)
    with pytest.raises(DeedConfigError, match=r"unknown fields \['exits'\]"):
        DeedConfig.from_dict({"exits": 3})
    with pytest.raises(DeedConfigError, match="must be a mapping"):
        DeedConfig.from_dict([])
