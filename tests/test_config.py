"""DeedConfig: checks, resolution, round trip."""

import dataclasses
import json

import pytest

from deed import DeedConfig, DeedConfigError
from deed.policies.exit_checks import parse_exit_check


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
        exit_check={"name": "gate"},
        loss="mean",
        calibration={"risk": 0.01},
    )
    assert DeedConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    screened = DeedConfig(exit_check={"name": "screen", "rank": 64})
    assert DeedConfig.from_dict(json.loads(json.dumps(screened.to_dict()))) == screened


def test_a_configuration_saved_before_exit_checks_existed_checks_plainly():
    saved = {k: v for k, v in DeedConfig().to_dict().items() if k != "exit_check"}
    assert DeedConfig.from_dict(saved).exit_check == "plain"


def test_the_former_name_of_exit_check_is_read_everywhere():
    old = {**DeedConfig().to_dict(), "asking": {"name": "shortlist", "size": 9}}
    del old["exit_check"]
    config = DeedConfig.from_dict(old)
    assert config == DeedConfig(asking={"name": "shortlist", "size": 9}) and config.asking == config.exit_check
    config.asking = "screen"
    assert config.exit_check == "screen" and dataclasses.replace(config, threshold=0.5).exit_check == "screen"
    assert "asking" not in config.to_dict()
    with pytest.raises(DeedConfigError, match="former name"):
        DeedConfig(asking="plain", exit_check="screen")


def test_options_of_former_versions():
    same = {"name": "screen", "rank": 8, "slack": 0.0, "confirm": True}
    assert parse_exit_check(same) == parse_exit_check({"name": "screen", "rank": 8})
    for key, value in (("slack", 0.1), ("confirm", False)):
        with pytest.raises(DeedConfigError, match=f"the option {key} is no more; leave it out"):
            DeedConfig.from_dict({"exit_check": {"name": "screen", key: value}})


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
        ({"exit_check": "guess"}, "exit_check must be one of"),
        ({"exit_check": None}, "exit_check must be one of"),
        ({"exit_check": {"rank": 3}}, "exit_check must be one of"),
        ({"exit_check": {"name": "gate", "rank": 3}}, "takes none"),
        ({"exit_check": {"name": "screen", "size": 3}}, "does not take the options"),
        ({"exit_check": {"name": "screen", "rank": 0}}, "rank must be an integer >= 1"),
        ({"exit_check": {"name": "screen", "rank": 2.5}}, "rank must be an integer >= 1"),
        ({"exit_check": {"name": "screen", "refine": -1}}, "refine must be an integer >= 0"),
        ({"exit_check": {"name": "screen", "refine": None}}, "refine must be an integer >= 0"),
        ({"exit_check": {"name": "screen", "bound": 1}}, "bound must be true or false"),
        ({"exit_check": {"name": "screen", "bound": True, "rank": 8}}, "leaves rank"),
        ({"exit_check": {"name": "screen", "bound": True, "reuse": True}}, "leaves reuse"),
        ({"exit_check": {"name": "screen", "first": "exact"}}, "needs reuse=True"),
        ({"exit_check": {"name": "screen", "reuse": 1}}, "reuse must be true or false"),
        ({"exit_check": {"name": "screen", "reuse": True, "refine": 1}}, "at least 2 tokens"),
        ({"threshold": -1}, "threshold must be a number of at least 0"),
        ({"threshold": [0.5, -0.1]}, "threshold must be a number of at least 0"),
        ({"threshold": 10**400}, "threshold"),
        ({"exit_check": {"name": "shortlist", "size": 1}}, "size must be an integer >= 2"),
        ({"exit_check": {"name": "shortlist", "first": "gate"}}, 'first must be "exact" or "screen"'),
        ({"exit_check": {"name": "shortlist", "rank": 8}}, "set first="),
        ({"exit_check": "shortlist", "confidence": "patience"}, "does not work with confidence"),
        ({"exit_check": "screen", "confidence": {"name": "patience", "patience": 3}}, "does not work with confidence"),
        ({"exit_check": {"name": "screen", "bound": True}, "confidence": "entropy"}, "bounds confidence"),
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
